//! `cargo xtask clients`: programs that others wrote, against the gateway of this tree.
//!
//! Its OpenAPI document is read by validators and by a generator of clients; what is generated, and xpander's
//! SDK, then call the gateway. Not a part of `test`: all of them come from package indexes, and with them
//! some hundred packages.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};

use crate::demo::text_field;
use crate::tools::{self, say};

/// Which packages, of which version, xpander's SDK needs.
const SDK_REQUIREMENTS: &str = "tests/clients/requirements.txt";

/// The same of those that read the document. They lie apart from the SDK: each list is of one time, and what
/// both have is not of one version.
const OPENAPI_REQUIREMENTS: &str = "tests/clients/openapi-requirements.txt";

/// Given the document and a folder, validates the one and generates a client into the other.
const DOCUMENT_SCRIPT: &str = "tests/clients/openapi_document.py";

/// This and the next are given `URL key organization agent` of a gateway that runs what it accepts, and then of
/// one that does not, so that its tasks wait.
const GENERATED_SCRIPT: &str = "tests/clients/openapi_client.py";
const SDK_SCRIPT: &str = "tests/clients/xpander_sdk_client.py";

/// The version that the rules were tried with. It has no dependencies: it is one file.
const REDOCLY: &str = "@redocly/cli@2.77.0";

/// Which rules it holds the document to.
const REDOCLY_RULES: &str = "tests/clients/redocly.yaml";

/// Builds the gateway, installs the clients and runs each of them.
pub(crate) fn run() -> anyhow::Result<()> {
    tools::build_gateway()?;
    let built = tools::built()?;
    let program = built.join("wardgate");
    let folder = built.parent().unwrap_or(&built).join("clients");
    let redocly = redocly(&folder)?;
    let openapi = tools::python(&folder.join("openapi"), OPENAPI_REQUIREMENTS)?;
    let sdk = tools::python(&folder, SDK_REQUIREMENTS)?;

    let document = folder.join("openapi.json");
    write_document(&program, &document)?;
    lint(&redocly, &document)?;
    let generated = folder.join("generated");
    let mut reader = Command::new(&openapi);
    run_script(DOCUMENT_SCRIPT, reader.arg(DOCUMENT_SCRIPT).arg(&document).arg(&generated))?;

    let running = Gateway::start(&program, &folder.join("data"), &[])?;
    let idle = [("WARDGATE_QUEUE__RUNS_MAX", "0")];
    let waiting = Gateway::start(&program, &folder.join("data-waiting"), &idle)?;
    for (python, script) in [(openapi, GENERATED_SCRIPT), (sdk, SDK_SCRIPT)] {
        let mut client = Command::new(python);
        client.arg(script).args(&running.caller).args(&waiting.caller);
        run_script(script, client.env("PYTHONPATH", &generated))?;
    }
    Ok(())
}

/// Runs a script, which says itself what is wrong.
fn run_script(script: &str, python: &mut Command) -> anyhow::Result<()> {
    say(format_args!("{script}:"))?;
    let begin = Instant::now();
    let ended = python.current_dir(tools::root()).status().context("python cannot be run")?;
    ensure!(ended.success(), "{script} failed");
    say(format_args!("{script}: {:.1} s", begin.elapsed().as_secs_f32()))
}

/// Has the gateway write its document.
fn write_document(program: &Path, document: &Path) -> anyhow::Result<()> {
    let printed = Command::new(program).arg("openapi").stderr(Stdio::inherit()).output();
    let printed = printed.context("the gateway cannot be started")?;
    ensure!(printed.status.success(), "`wardgate openapi` failed");
    fs::write(document, printed.stdout).context("the document cannot be written")
}

/// Holds the document to the rules. What redocly says is shown where it finds something.
fn lint(redocly: &Path, document: &Path) -> anyhow::Result<()> {
    say(format_args!("{REDOCLY}: lint with {REDOCLY_RULES}"))?;
    let mut lint = Command::new(redocly);
    lint.current_dir(tools::root()).arg("lint").arg(document);
    // A rule that does not exist would be one that finds nothing.
    lint.args(["--config", REDOCLY_RULES, "--lint-config", "error", "--format", "stylish"]);
    // It would tell its makers that it ran, and ask for newer versions.
    lint.env("REDOCLY_TELEMETRY", "off").env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true");
    let output = lint.output().context("redocly cannot be run")?;
    if !output.status.success() {
        say(String::from_utf8_lossy(&output.stdout))?;
        say(String::from_utf8_lossy(&output.stderr))?;
        bail!(
            "redocly refuses the document: each line names a rule, which {REDOCLY_RULES} can switch off \
             where it is a matter of taste"
        );
    }
    Ok(())
}

/// Installs redocly into a folder of its own, once.
fn redocly(folder: &Path) -> anyhow::Result<PathBuf> {
    // Named for the version, so that another one is not taken for it.
    let folder = folder.join(REDOCLY);
    let program = folder.join("node_modules/.bin/redocly");
    if program.exists() {
        return Ok(program);
    }
    say(format_args!("installing {REDOCLY} (needs the network this once)"))?;
    fs::create_dir_all(&folder)?;
    let mut npm = Command::new("npm");
    npm.args([
        "install", "--loglevel=error", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund",
    ]);
    let npm = npm.arg("--prefix").arg(&folder).arg(REDOCLY).status();
    let npm =
        npm.context("npm cannot be run: is Node.js installed? It has to be 20.19 or newer")?;
    ensure!(npm.success(), "npm cannot install {REDOCLY}: is there a network?");
    Ok(program)
}

/// A gateway with a demo tenant, ended with this.
struct Gateway {
    process: Child,
    /// URL, key, organization, agent.
    caller: [String; 4],
}

impl Gateway {
    fn start(program: &Path, data: &Path, settings: &[(&str, &str)]) -> anyhow::Result<Self> {
        if data.exists() {
            // What an earlier run left would be listed together with what this one does.
            fs::remove_dir_all(data)?;
        }
        let mut process = Command::new(program)
            .args(["serve", "--demo", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .context("the gateway cannot be started")?;
        let stdout = process.stdout.take().context("the gateway has no stdout")?;
        let mut gateway = Self { process, caller: Default::default() };
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let field =
            |name| text_field(&line, name).with_context(|| format!("no {name} in {line:?}"));
        gateway.caller = [
            format!("http://{}", field("listen")?),
            field("api_key")?.to_owned(),
            field("organization_id")?.to_owned(),
            field("agent_id")?.to_owned(),
        ];
        Ok(gateway)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
