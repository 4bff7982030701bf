//! `cargo xtask clients`: clients that others wrote, against the gateway of this tree.
//!
//! Not a part of `test`: the clients come from a package index, and with them some hundred packages.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::demo::text_field;
use crate::tools::{self, say};

/// Which packages, of which version.
const REQUIREMENTS: &str = "tests/clients/requirements.txt";

/// Each is given `URL key organization agent` of a gateway that runs what it accepts, and then of one
/// that does not, so that its tasks wait.
const SCRIPTS: [&str; 1] = ["tests/clients/xpander_sdk_client.py"];

/// Builds the gateway, installs the clients and runs each of them.
pub(crate) fn run() -> anyhow::Result<()> {
    tools::build_gateway()?;
    let built = tools::built()?;
    let folder = built.parent().unwrap_or(&built).join("clients");
    let python = python(&folder)?;
    let program = built.join("wardgate");
    let running = Gateway::start(&program, &folder.join("data"), &[])?;
    let idle = [("WARDGATE_QUEUE__RUNS_MAX", "0")];
    let waiting = Gateway::start(&program, &folder.join("data-waiting"), &idle)?;
    for script in SCRIPTS {
        say(format_args!("{script}:"))?;
        let begin = Instant::now();
        let mut client = Command::new(&python);
        client.current_dir(tools::root()).arg(script).args(&running.caller).args(&waiting.caller);
        if !client.status().context("python cannot be run")?.success() {
            bail!("{script} failed");
        }
        say(format_args!("{script}: {:.1} s", begin.elapsed().as_secs_f32()))?;
    }
    Ok(())
}

/// A Python that has the packages, made where it is missing or has others.
fn python(folder: &Path) -> anyhow::Result<PathBuf> {
    let wanted = fs::read_to_string(tools::root().join(REQUIREMENTS))?;
    let python = folder.join("venv/bin/python");
    let installed = folder.join("installed.txt");
    if python.exists() && fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted)
    {
        return Ok(python);
    }
    say(format_args!("installing the packages of {REQUIREMENTS} (needs the network this once)"))?;
    fs::create_dir_all(folder)?;
    let mut made = Command::new("python3");
    made.args(["-m", "venv", "--clear"]).arg(folder.join("venv"));
    if !made.status().context("python3 cannot be run: is it installed?")?.success() {
        bail!("python3 makes no virtual environment: is its module venv installed?");
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.arg("--requirement").arg(tools::root().join(REQUIREMENTS));
    if !pip.status().context("pip cannot be run")?.success() {
        bail!("the packages of {REQUIREMENTS} cannot be installed");
    }
    fs::write(installed, wanted)?;
    Ok(python)
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
