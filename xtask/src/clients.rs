//! `cargo xtask clients`: runs third-party validators and clients against the gateway of this tree.
//!
//! Validators and a client generator read the OpenAPI document. The generated client and xpander's SDK then call the
//! gateway, and the gateway calls MCP servers of three libraries. `test` does not include this: the programs come from package indexes, with some hundred packages.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};

use crate::demo::text_field;
use crate::tools::{self, say};

/// The packages of xpander's SDK, with versions.
const SDK_REQUIREMENTS: &str = "tests/clients/requirements.txt";

/// The packages of the document's readers, with versions. They have an environment of their own: each list is of a
/// different date, and packages in both lists differ in version.
const OPENAPI_REQUIREMENTS: &str = "tests/clients/openapi-requirements.txt";

/// Takes the document and a folder. Validates the document and generates a client into the folder.
const DOCUMENT_SCRIPT: &str = "tests/clients/openapi_document.py";

/// Both scripts take `URL key organization agent` twice: of a gateway that runs its tasks, and of one that does not,
/// so that its tasks stay pending.
const GENERATED_SCRIPT: &str = "tests/clients/openapi_client.py";
const SDK_SCRIPT: &str = "tests/clients/xpander_sdk_client.py";

/// The packages of two libraries for MCP servers, with versions.
const MCP_REQUIREMENTS: &str = "tests/clients/mcp-requirements.txt";

/// Starts MCP servers and has the gateway call their tools. Takes `URL key organization operator-key` and the file of
/// the server that [`EVERYTHING`] is.
const MCP_SCRIPT: &str = "tests/clients/mcp_servers.py";

/// The protocol's own server for tests of clients.
const EVERYTHING: &str = "@modelcontextprotocol/server-everything@2026.8.31";

/// The version with which the rules were tested. It is a single file without dependencies.
const REDOCLY: &str = "@redocly/cli@2.77.0";

/// The rules for the document.
const REDOCLY_RULES: &str = "tests/clients/redocly.yaml";

/// Builds the gateway, installs the clients and runs each of them.
pub(crate) fn run() -> anyhow::Result<()> {
    tools::build_gateway()?;
    let built = tools::built()?;
    let program = built.join("wardgate");
    let folder = built.parent().unwrap_or(&built).join("clients");
    let redocly = npm_package(&folder, REDOCLY)?.join(".bin/redocly");
    let openapi = tools::python(&folder.join("openapi"), OPENAPI_REQUIREMENTS)?;
    let sdk = tools::python(&folder, SDK_REQUIREMENTS)?;

    let mcp = tools::python(&folder.join("mcp"), MCP_REQUIREMENTS)?;
    let everything = npm_package(&folder, EVERYTHING)?
        .join("@modelcontextprotocol/server-everything/dist/index.js");

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
    let mut caller = Command::new(mcp);
    let [url, key, organization, _] = &running.caller;
    caller.args([MCP_SCRIPT, url, key, organization, &running.operator_key]).arg(everything);
    run_script(MCP_SCRIPT, &mut caller)
}

/// Runs a script, which prints its own errors.
pub(crate) fn run_script(script: &str, python: &mut Command) -> anyhow::Result<()> {
    say(format_args!("{script}:"))?;
    let begin = Instant::now();
    let ended = python.current_dir(tools::root()).status().context("python cannot be run")?;
    ensure!(ended.success(), "{script} failed");
    say(format_args!("{script}: {:.1} s", begin.elapsed().as_secs_f32()))
}

/// Writes the gateway's OpenAPI document to a file.
fn write_document(program: &Path, document: &Path) -> anyhow::Result<()> {
    let printed = Command::new(program).arg("openapi").stderr(Stdio::inherit()).output();
    let printed = printed.context("the gateway cannot be started")?;
    ensure!(printed.status.success(), "`wardgate openapi` failed");
    fs::write(document, printed.stdout).context("the document cannot be written")
}

/// Checks the document against the rules. Shows redocly's output only if it finds a problem.
fn lint(redocly: &Path, document: &Path) -> anyhow::Result<()> {
    say(format_args!("{REDOCLY}: lint with {REDOCLY_RULES}"))?;
    let mut lint = Command::new(redocly);
    lint.current_dir(tools::root()).arg("lint").arg(document);
    // `--lint-config error`: otherwise, a misspelt rule would find nothing.
    lint.args(["--config", REDOCLY_RULES, "--lint-config", "error", "--format", "stylish"]);
    // No telemetry, and no check for newer versions.
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

/// Installs a package into a folder of its own, unless it is there already. Returns its `node_modules`.
fn npm_package(folder: &Path, package: &str) -> anyhow::Result<PathBuf> {
    // Named after the version, so that another version is not mistaken for it.
    let folder = folder.join(package);
    let modules = folder.join("node_modules");
    let installed = folder.join("installed");
    if installed.exists() {
        return Ok(modules);
    }
    say(format_args!("installing {package} (needs the network this once)"))?;
    fs::create_dir_all(&folder)?;
    let mut npm = Command::new("npm");
    npm.args([
        "install", "--loglevel=error", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund",
    ]);
    let npm = npm.arg("--prefix").arg(&folder).arg(package).status();
    let npm =
        npm.context("npm cannot be run: is Node.js installed? It has to be 20.19 or newer")?;
    ensure!(npm.success(), "npm cannot install {package}: is there a network?");
    fs::write(installed, package)?;
    Ok(modules)
}

/// A running gateway with a demo tenant. It is killed on drop.
pub(crate) struct Gateway {
    process: Child,
    /// URL, key, organization, agent.
    pub(crate) caller: [String; 4],
    pub(crate) operator_key: String,
}

impl Gateway {
    pub(crate) fn start(
        program: &Path,
        data: &Path,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        if data.exists() {
            // Otherwise, lists would include the tasks of an earlier run.
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
        let (caller, operator_key) = Default::default();
        let mut gateway = Self { process, caller, operator_key };
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
        gateway.operator_key = field("operator_key")?.to_owned();
        Ok(gateway)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
