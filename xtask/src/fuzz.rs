//! `cargo xtask fuzz-api`: sends a running gateway requests that are generated from its own OpenAPI document.
//!
//! Schemathesis generates valid and invalid requests and checks every response against the document. It runs three
//! times: on the callers' routes, on the same routes with existing ids, and on `/admin`.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::demo::text_field;
use crate::tools::{self, say};

/// The tested version.
const SCHEMATHESIS: &str = "schemathesis==4.32.5";

/// The checks on every response.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance";

/// Number of routes in the document. If it is too high, too few requests are sent, which is an error.
const ROUTES: u32 = 44;

/// Fuzzes a gateway. Fails if a response is not as documented, if fewer requests were sent than requested, or if the
/// gateway does not survive.
pub(crate) fn run(requests: u32, seed: u32) -> anyhow::Result<()> {
    tools::build_gateway()?;
    let folder = tools::root().join("target/fuzz-api");
    let schemathesis = install(&folder)?;
    let mut gateway = Gateway::start(&folder)?;
    let (caller, operator) = (gateway.field("api_key")?, gateway.field("operator_key")?);
    let each = requests.div_ceil(ROUTES * 2).max(10);
    let mut sent = 0;
    let mut failed = Vec::new();
    for (what, ids, key, routes) in [
        ("callers' routes", Ids::MadeUp, &caller, ["--exclude-path-regex", "^/admin"]),
        (
            "callers' routes, ids that exist",
            Ids::Known,
            &caller,
            ["--exclude-path-regex", "^/admin"],
        ),
        ("management", Ids::Managed, &operator, ["--include-path-regex", "^/admin"]),
    ] {
        // Created just before each run, since an earlier run could delete them.
        let (name, text) = match ids {
            Ids::MadeUp => ("random", String::new()),
            Ids::Known => ("known", gateway.known_ids()?),
            Ids::Managed => ("admin", gateway.managed_ids()?),
        };
        let config = folder.join(name).with_extension("toml");
        fs::write(&config, text)?;
        say(format_args!("\n== {what}: about {each} requests a route, seed {seed}"))?;
        let mut command = Command::new(&schemathesis);
        command.arg("--config-file").arg(&config).arg("run");
        command.arg(format!("http://{}/openapi.json", gateway.field("listen")?));
        command.args(["--header", &format!("x-api-key: {key}"), "--checks", CHECKS]);
        command.args(["--max-examples", &each.to_string(), "--seed", &seed.to_string()]);
        command.args(["--workers", "2", "--warnings", "off", "--no-color"]).args(routes);
        let output = command.current_dir(&folder).output().context("schemathesis cannot be run")?;
        let report = String::from_utf8_lossy(&output.stdout).into_owned();
        fs::write(config.with_extension("txt"), &report)?;
        sent += cases(&report).with_context(|| {
            let errors = String::from_utf8_lossy(&output.stderr);
            format!("schemathesis ended with {} and no count:\n{report}\n{errors}", output.status)
        })?;
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

/// The ids in paths and queries.
#[derive(Clone, Copy)]
enum Ids {
    MadeUp,
    /// Ids of the demo's agent and its tasks.
    Known,
    /// Ids of resources that were created for the management routes.
    Managed,
}

/// Installs schemathesis into a folder of its own, unless it is there already.
fn install(folder: &Path) -> anyhow::Result<PathBuf> {
    // Named after the version, so that another version is not mistaken for it.
    let venv = folder.join(SCHEMATHESIS);
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

/// The number of generated test cases in a report.
fn cases(report: &str) -> Option<u32> {
    let line = report.lines().rfind(|line| line.contains(" generated"))?;
    line.trim().split(' ').next()?.replace(',', "").parse().ok()
}

/// The gateway under test. It is killed on drop.
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

    /// Sends a request verbatim and returns the whole response, head included.
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

    /// Creates a resource by a request and returns its id.
    fn make(&self, path: &str, key: &str, body: &str) -> anyhow::Result<String> {
        let answer = self.send("POST", path, key, body)?;
        let id = text_field(&answer, "id");
        Ok(id.with_context(|| format!("nothing was made by {path}: {answer}"))?.to_owned())
    }

    /// Creates an agent whose webhook may be revoked, unlike that of the demo's agent, which requests use.
    fn spare_agent(&self, name: &str) -> anyhow::Result<String> {
        let path = format!("/admin/tenants/{}/agents", self.field("organization_id")?);
        self.make(&path, &self.field("operator_key")?, &format!(r#"{{"name":"{name}"}}"#))
    }

    /// Runs a task of the demo's agent and returns its id.
    fn task(&self, thread: &str) -> anyhow::Result<String> {
        let ask = format!("/?agent_id={}&task_id={thread}", self.field("agent_id")?);
        self.make(&ask, &self.field("api_key")?, r#"{"prompt":"hi"}"#)
    }

    /// Configuration with existing ids for the callers' routes, so that requests get past the look-up.
    fn known_ids(&self) -> anyhow::Result<String> {
        let (agent, organization) = (self.field("agent_id")?, self.field("organization_id")?);
        let (_, token) = self.line.split_once("/api/webhooks/agents/").context("no token")?;
        let token = token.split('"').next().unwrap_or_default();
        let spare = self.spare_agent("spare of callers")?;
        // Tasks are named by their thread, in which another task can follow a deleted one.
        self.task("fuzz")?;
        Ok([
            ids(r" (/v1)?/agents/\{id\}", &[("path.id", &agent), ("path.tool", "calculate")]),
            ids(" (/v1)?/tasks/", &[("path.id", "fuzz")]),
            // The path parameter is an agent's id for POST and a task's id for the other methods.
            ids(r"^POST /agent-execution/\{id\}$", &[("path.id", &agent)]),
            ids(r"^(DELETE|GET|PATCH) /agent-execution/\{id\}", &[("path.id", "fuzz")]),
            ids(" /agent-execution/executions", &[("path.agent", &agent)]),
            ids(" /activity/", &[("path.agent", &agent), ("path.task", "fuzz")]),
            ids("/events$", &[("path.organization", &organization), ("path.id", "fuzz")]),
            ids(" /api/webhooks", &[("path.token", token)]),
            ids("^GET /api/agent_webhook", &[("query.id", &agent)]),
            ids("^(DELETE|POST) /api/agent_webhook", &[("query.id", &spare)]),
            ids(" /$", &[("query.agent_id", &agent)]),
        ]
        .concat())
    }

    /// Configuration with existing ids for management. Resources that can be deleted exist once for each method.
    fn managed_ids(&self) -> anyhow::Result<String> {
        let (tenant, operator) = (self.field("organization_id")?, self.field("operator_key")?);
        let agent = self.spare_agent("spare of operators")?;
        let [read, deleted, stopped] =
            [self.task("read")?, self.task("deleted")?, self.task("stopped")?];
        let key = self.make(&format!("/admin/tenants/{tenant}/keys"), &operator, "{}")?;
        let operator_key = self.make("/admin/operator-keys", &operator, "{}")?;
        let tenant = ("path.tenant", tenant.as_str());
        Ok([
            ids("/agents/", &[tenant, ("path.agent", &agent)]),
            ids("/plugins/", &[tenant, ("path.name", "calculator")]),
            ids("^GET .*/tasks/", &[tenant, ("path.task", &read)]),
            ids("^DELETE .*/tasks/", &[tenant, ("path.task", &deleted)]),
            ids("^POST .*/tasks/", &[tenant, ("path.task", &stopped)]),
            ids("/keys/", &[tenant, ("path.key", &key)]),
            ids("/operator-keys/", &[("path.key", &operator_key)]),
            ids(r"/tenants/\{tenant\}(/(keys|agents|plugins|tasks))?$", &[tenant]),
        ]
        .concat())
    }

    /// Stops the gateway with SIGTERM, as service managers do. It must exit cleanly even after fuzzing.
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
        // After a clean stop, the process has exited already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A section of schemathesis' configuration: fixed parameter values for the routes that match a pattern. The pattern
/// is matched against method and path together, since of two separate patterns a match of either would suffice.
fn ids(pattern: &str, values: &[(&str, &str)]) -> String {
    let values: Vec<String> =
        values.iter().map(|(name, value)| format!("\"{name}\" = \"{value}\"")).collect();
    format!(
        "[[operations]]\ninclude-name-regex = '{pattern}'\nparameters = {{ {} }}\n\n",
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
        let text = ids("^GET /activity/", &[("path.agent", "a"), ("path.task", "t")]);
        assert!(text.contains("include-name-regex = '^GET /activity/'"), "{text}");
        assert!(text.contains(r#"{ "path.agent" = "a", "path.task" = "t" }"#), "{text}");
    }
}
