//! The real program as a process of its own.

use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::thread::JoinHandle;

use serde_json::Value;

use super::{Caller, Home};

/// `wardgate` with these arguments, to its end.
pub(crate) fn wardgate(arguments: &[&str]) -> Output {
    command_of(arguments).output().unwrap()
}

/// `wardgate` with these arguments, not yet begun.
pub(crate) fn command_of(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments);
    command
}

/// `wardgate serve --demo`; as a [`Caller`] it is called for the demo's agent.
#[derive(Debug)]
pub(crate) struct Child {
    caller: Caller,
    process: std::process::Child,
    logs: Option<JoinHandle<String>>,
    /// The line that it printed when it began to serve.
    pub(crate) line: Value,
}

impl Deref for Child {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl Child {
    pub(crate) fn serve(home: &Home, more: &[&str]) -> Self {
        Self::start(home, more, Stdio::piped())
    }

    /// With its log going elsewhere, every line of it.
    pub(crate) fn serve_logging_to(home: &Home, log: Stdio) -> Self {
        Self::start(home, &["--log", "debug"], log)
    }

    fn start(home: &Home, more: &[&str], log: Stdio) -> Self {
        let mut process = Command::new(program())
            .args(["serve", "--demo", "--listen", "127.0.0.1:0", "--data"])
            .arg(home.path())
            .args(more)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let stderr = process.stderr.take();
        // Read all along: a full pipe would stop the gateway.
        let logs = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        });
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Ok(line) = serde_json::from_str::<Value>(&line) else {
            let _ = process.kill();
            panic!("it does not serve: {}", logs.join().unwrap());
        };
        let text = |name: &str| line[name].as_str().unwrap_or_else(|| panic!("no {name}: {line}"));
        let (_, token) = text("webhook_url").rsplit_once('/').unwrap();
        let caller = Caller::new(text("listen"), text("agent_id"), text("api_key"), token);
        Self { caller, process, logs: Some(logs), line }
    }

    /// `kill -9`: it learns nothing of it.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// `SIGTERM`, as service managers send it. Gives the exit and everything that was logged.
    pub(crate) fn terminate(mut self) -> (ExitStatus, String) {
        self.signal();
        let status = self.process.wait().unwrap();
        (status, self.logs.take().unwrap().join().unwrap())
    }

    /// How much memory it has, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kilobytes << 10
    }

    /// Sends `SIGTERM` and does not wait.
    pub(crate) fn signal(&self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Gone already where the test went well.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The program that was built together with this test.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("wardgate");
    assert!(
        path.exists(),
        "{} is missing: run `cargo xtask test`, which builds it",
        path.display()
    );
    path
}
