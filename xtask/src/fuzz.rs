//! `cargo xtask fuzz-api`: a running gateway against requests made from its own OpenAPI document.
//!
//! Schemathesis makes them, right and wrong ones, and holds every answer against the document. It is sent
//! thrice: to the callers' routes as they are, to the same with ids that exist, and to `/admin`.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::demo::text_field;
use crate::tools::{self, say};

/// The version that this was tried with.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// What every answer is held to.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance";

/// Routes of the document: an over-estimate would send too few requests, which is noticed.
const ROUTES: u32 = 44;

/// Runs it. Fails where an answer is not as documented, where fewer requests were sent than asked for, or
/// where the gateway does not stand afterwards.
pub(crate) fn run(requests: u32, seed: u32) -> anyhow::Result<()> {
    tools::build_gateway()?;
    let folder = tools::root().join("target/fuzz-api");
    let schemathesis = install(&folder)?;
    let mut gateway = Gateway::start(&folder)?;
    let (random, known, admin) =
        (folder.join("random.toml"), folder.join("known.toml"), folder.join("admin.toml"));
    fs::write(&random, "")?;
    fs::write(&known, gateway.known_ids()?)?;
    fs::write(&admin, gateway.managed_ids()?)?;
    let (caller, operator) = (gateway.field("api_key")?, gateway.field("operator_key")?);
    let each = requests.div_ceil(ROUTES * 2).max(10);
    let mut sent = 0;
    let mut failed = Vec::new();
    for (what, config, key, routes) in [
        ("callers' routes", &random, &caller, ["--exclude-path-regex", "^/admin"]),
        ("callers' routes, ids that exist", &known, &caller, ["--exclude-path-regex", "^/admin"]),
        ("management", &admin, &operator, ["--include-path-regex", "^/admin"]),
    ] {
        say(format_args!("\n== {what}: about {each} requests a route, seed {seed}"))?;
        let mut command = Command::new(&schemathesis);
        command.arg("--config-file").arg(config).arg("run");
        command.arg(format!("http://{}/openapi.json", gateway.field("listen")?));
        command.args(["--header", &format!("x-api-key: {key}"), "--checks", CHECKS]);
        command.args(["--max-examples", &each.to_string(), "--seed", &seed.to_string()]);
        command.args(["--workers", "2", "--warnings", "off", "--no-color"]).args(routes);
        let output = command.current_dir(&folder).output().context("schemathesis cannot be run")?;
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        fs::write(config.with_extension("txt"), &report)?;
        sent += cases(&report).with_context(|| format!("no count in its report:\n{report}"))?;
        if !output.status.success() {
            failed.push(what);
            say(&report)?;
        }
        ensure!(gateway.is_well(), "the gateway does not answer after: {what}");
    }
    gateway.stop()?;
    say(format_args!("\n{sent} requests; reports are in {}", folder.display()))?;
    ensure!(failed.is_empty(), "answers that are not as documented: {}", failed.join("; "));
    ensure!(sent >= requests, "fewer than {requests} requests were sent: raise --requests");
    Ok(())
}

/// Installs schemathesis into a folder of its own, once.
fn install(folder: &Path) -> anyhow::Result<PathBuf> {
    let venv = folder.join("venv");
    let program = venv.join("bin/schemathesis");
    if program.exists() {
        return Ok(program);
    }
    say(format_args!("installing {SCHEMATHESIS} into {}", venv.display()))?;
    fs::create_dir_all(folder)?;
    let made = Command::new("python3").args(["-m", "venv"]).arg(&venv).status();
    ensure!(made.context("python3 cannot be run")?.success(), "python3 -m venv failed");
    let pip =
        Command::new(venv.join("bin/pip")).args(["install", "--quiet", SCHEMATHESIS]).status();
    ensure!(pip.context("pip cannot be run")?.success(), "pip could not install {SCHEMATHESIS}");
    Ok(program)
}

/// How many test cases a report says were generated.
fn cases(report: &str) -> Option<u32> {
    let line = report.lines().rfind(|line| line.contains(" generated"))?;
    line.trim().split(' ').next()?.replace(',', "").parse().ok()
}

/// A gateway that is fuzzed. It ends with this.
struct Gateway {
    process: Child,
    /// Its first line of output.
    line: String,
}

impl Gateway {
    fn start(folder: &Path) -> anyhow::Result<Self> {
        let data = folder.join("data");
        if data.exists() {
            fs::remove_dir_all(&data).context("the data of the run before")?;
        }
        let log = fs::File::create(folder.join("gateway.log"))?;
        let mut process = Command::new(tools::built()?.join("wardgate"))
            .args(["serve", "--demo", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .context("the gateway cannot be started")?;
        let mut line = String::new();
        let stdout = process.stdout.take().context("the gateway has no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        Ok(Self { process, line })
    }

    fn field(&self, name: &str) -> anyhow::Result<String> {
        let value = text_field(&self.line, name);
        Ok(value.with_context(|| format!("no {name} in {}", self.line))?.to_owned())
    }

    /// Sends a request as it stands and gives the whole answer.
    fn send(&self, method: &str, path: &str, key: &str, body: &str) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect(self.field("listen")?)?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: fuzz\r\nx-api-key: {key}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    fn is_well(&self) -> bool {
        let answer = self.send("GET", "/healthz", "", "");
        answer.is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
    }

    /// Which ids the callers' routes are sent, so that what lies behind a look-up is reached.
    fn known_ids(&self) -> anyhow::Result<String> {
        let (agent, key) = (self.field("agent_id")?, self.field("api_key")?);
        let organization = self.field("organization_id")?;
        let (_, token) = self.line.split_once("/api/webhooks/agents/").context("no token")?;
        let token = token.split('"').next().unwrap_or_default();
        // Tasks go by the name of their thread here: one that is deleted has a successor.
        let ask = format!("/?agent_id={agent}&task_id=fuzz&asynchronous=true");
        self.send("POST", &ask, &key, r#"{"prompt":"hi"}"#)?;
        Ok([
            ids(r"^(/v1)?/agents/\\{id\\}", &[("path.id", &agent), ("path.tool", "calculate")]),
            ids(r"^(/v1)?/tasks/", &[("path.id", "fuzz")]),
            ids(r"^/agent-execution/\\{id\\}", &[("path.id", "fuzz")]),
            ids(r"^/agent-execution/executions", &[("path.agent", &agent)]),
            ids("^/activity/", &[("path.agent", &agent), ("path.task", "fuzz")]),
            ids("/events$", &[("path.organization", &organization), ("path.id", "fuzz")]),
            ids("^/api/webhooks", &[("path.token", token)]),
            ids("^/$", &[("query.agent_id", &agent)]),
        ]
        .concat())
    }

    /// The same for management. Names of plugins and keys that are made up meanwhile come and go.
    fn managed_ids(&self) -> anyhow::Result<String> {
        let (tenant, agent) = (self.field("organization_id")?, self.field("agent_id")?);
        Ok([
            ids("/agents/", &[("path.tenant", &tenant), ("path.agent", &agent)]),
            ids("/plugins/", &[("path.tenant", &tenant), ("path.name", "calculator")]),
            ids("/tasks/", &[("path.tenant", &tenant), ("path.task", "fuzz")]),
            ids("/(keys|agents|plugins|tasks)$", &[("path.tenant", &tenant)]),
        ]
        .concat())
    }

    /// Ends it as service managers do; a gateway that was fuzzed has to end as well as any other.
    fn stop(&mut self) -> anyhow::Result<()> {
        let id = self.process.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().context("kill cannot be run")?;
        let status = self.process.wait()?;
        if !status.success() {
            bail!("the gateway ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // Gone already where all went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A part of schemathesis' configuration: fixed values of parameters of the routes that a pattern finds.
fn ids(pattern: &str, values: &[(&str, &str)]) -> String {
    let values: Vec<String> =
        values.iter().map(|(name, value)| format!("\"{name}\" = \"{value}\"")).collect();
    format!(
        "[[operations]]\ninclude-path-regex = \"{pattern}\"\nparameters = {{ {} }}\n\n",
        values.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_how_many_cases_there_were() {
        let report = "Test cases:\n  3121 generated, 3121 passed\n\nSeed: 1\n";
        assert_eq!(cases(report), Some(3121));
        assert_eq!(cases("  2,004 generated, 2 found 1 unique failures"), Some(2004));
        assert_eq!(cases("nothing"), None);
    }

    #[test]
    fn fixed_values_are_configuration() {
        let text = ids("^/activity/", &[("path.agent", "a"), ("path.task", "t")]);
        assert!(text.contains("include-path-regex = \"^/activity/\""), "{text}");
        assert!(text.contains(r#"{ "path.agent" = "a", "path.task" = "t" }"#), "{text}");
    }
}
