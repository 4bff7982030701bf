//! The program `wardgate`, run as a separate process.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader, Read as _};
use std::ops::Deref;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread::JoinHandle;
use std::time::SystemTime;

use serde_json::Value;
use wardgate::ids::TenantId;
use wardgate::plugins::grants_path;

use super::gateway::relax_time_limits;
use super::{Client, Home};

/// Runs `wardgate` with these arguments until it exits.
pub(crate) fn wardgate(arguments: &[&str]) -> Output {
    wardgate_command(arguments).output().unwrap()
}

/// The command for `wardgate` with these arguments, not yet started.
pub(crate) fn wardgate_command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments);
    command
}

/// A `PATH` with the program's folder in front.
pub(crate) fn path_with_wardgate() -> OsString {
    let mut path = program().parent().unwrap().as_os_str().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap());
    path
}

/// Creates a tenant in this folder, whose bundled plugins have generous time limits.
pub(crate) fn new_tenant(home: &Home, name: &str) -> TenantId {
    let made = wardgate(&["tenant", "create", name, "--data", home.path().to_str().unwrap()]);
    let id = String::from_utf8(made.stdout).unwrap().trim().parse().unwrap();
    relax_tenant_time_limits(home, id);
    id
}

/// Gives the bundled plugins of a tenant in this folder generous time limits.
pub(crate) fn relax_tenant_time_limits(home: &Home, tenant: TenantId) {
    relax_time_limits(|plugin| grants_path(home.path(), tenant, plugin));
}

/// A process of `wardgate serve --demo`; derefs to a [`Client`] of the demo's agent.
#[derive(Debug)]
pub(crate) struct GatewayProcess {
    caller: Client,
    process: std::process::Child,
    log: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    /// The line that it printed when it started to serve.
    pub(crate) startup_line: Value,
}

impl Deref for GatewayProcess {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.caller
    }
}

impl GatewayProcess {
    pub(crate) fn serve(home: &Home, extra_arguments: &[&str]) -> Self {
        Self::start(home, extra_arguments, &[], Stdio::piped())
    }

    pub(crate) fn serve_with_environment(
        home: &Home,
        extra_arguments: &[&str],
        environment: &[(&str, OsString)],
    ) -> Self {
        Self::start(home, extra_arguments, environment, Stdio::piped())
    }

    /// Logs at level `debug`, to this destination.
    pub(crate) fn serve_logging_to(home: &Home, log: Stdio) -> Self {
        Self::start(home, &["--log", "debug"], &[], log)
    }

    fn start(
        home: &Home,
        extra_arguments: &[&str],
        environment: &[(&str, OsString)],
        log: Stdio,
    ) -> Self {
        let mut process = Command::new(program())
            .args(["serve", "--demo", "--listen", "127.0.0.1:0", "--data"])
            .arg(home.path())
            .args(extra_arguments)
            .envs(environment.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let (stderr, log) = (process.stderr.take(), Arc::<Mutex<Vec<u8>>>::default());
        let logged = Arc::clone(&log);
        // Read continuously: a full pipe would block the gateway.
        let reader = std::thread::spawn(move || {
            let Some(mut stderr) = stderr else { return };
            let mut buffer = [0; 8_192];
            while let Ok(read @ 1..) = stderr.read(&mut buffer) {
                logged.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        });
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Ok(line) = serde_json::from_str::<Value>(&line) else {
            let _ = process.kill();
            reader.join().unwrap();
            panic!("it does not serve: {}", log_text(&log));
        };
        let text = |name: &str| line[name].as_str().unwrap_or_else(|| panic!("no {name}: {line}"));
        let (_, token) = text("webhook_url").rsplit_once('/').unwrap();
        let caller = Client::new(text("listen"), text("agent_id"), text("api_key"), token);
        let tenant = text("organization_id").parse().unwrap();
        relax_time_limits(|plugin| grants_path(home.path(), tenant, plugin));
        Self { caller, process, log, reader: Some(reader), startup_line: line }
    }

    /// Whether it has exited.
    pub(crate) fn has_exited(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        log_text(&self.log)
    }

    /// Kills it with `SIGKILL`, which it cannot handle.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        let ended = self.process.wait().unwrap();
        assert_eq!(ended.signal(), Some(9), "it had ended by itself: {}", self.log());
    }

    /// Sends `SIGTERM`, as service managers do, and waits. Returns the exit status and the whole log.
    pub(crate) fn terminate(self) -> (ExitStatus, String) {
        self.send_sigterm();
        self.wait_for_exit()
    }

    /// Waits until it exits. Returns the exit status and the whole log.
    pub(crate) fn wait_for_exit(mut self) -> (ExitStatus, String) {
        let status = self.process.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        (status, self.log())
    }

    /// Its resident memory in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.memory_bytes("VmRSS:")
    }

    /// The most resident memory that it has had, in bytes.
    pub(crate) fn peak_resident_bytes(&self) -> u64 {
        self.memory_bytes("VmHWM:")
    }

    fn memory_bytes(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kilobytes << 10
    }

    /// The CPU time of its threads of this name, in nanoseconds.
    pub(crate) fn cpu_nanos(&self, thread: &str) -> u64 {
        let first = |text: String| text.split(' ').next().unwrap().parse::<u64>().unwrap();
        self.thread_files(thread, "schedstat").into_iter().map(first).sum()
    }

    /// The nice value of each of its threads of this name, from -20 to 19.
    pub(crate) fn niceness(&self, thread: &str) -> Vec<i32> {
        // The second field is the name, in parentheses; the niceness is the nineteenth.
        let nice = |text: String| {
            let (_, fields) = text.rsplit_once(") ").unwrap();
            fields.split(' ').nth(16).unwrap().parse().unwrap()
        };
        self.thread_files(thread, "stat").into_iter().map(nice).collect()
    }

    /// The text of this file in `/proc` for each of its threads of this name.
    fn thread_files(&self, thread: &str, file: &str) -> Vec<String> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let threads = threads.map(|thread| thread.unwrap().path());
        let named = threads.filter(|path| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|name| name.trim() == thread)
        });
        let texts: Vec<_> =
            named.filter_map(|path| std::fs::read_to_string(path.join(file)).ok()).collect();
        assert!(!texts.is_empty(), "no thread is called {thread}");
        texts
    }

    /// Sends `SIGTERM` without waiting.
    pub(crate) fn send_sigterm(&self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    }
}

impl Drop for GatewayProcess {
    fn drop(&mut self) {
        // If the test succeeded, the process has exited already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn log_text(log: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&log.lock().unwrap()).into_owned()
}

/// The program that was built together with this test.
fn program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        let test = std::env::current_exe().unwrap();
        test.parent().and_then(Path::parent).unwrap().join("wardgate")
    });
    // Determined once; every test that starts the program then fails.
    static UNTESTABLE: LazyLock<Option<String>> = LazyLock::new(|| reason_untestable(&PROGRAM));
    if let Some(wrong) = &*UNTESTABLE {
        panic!("{wrong}; build it with\n\n  cargo build --workspace --bins --tests\n\n");
    }
    &PROGRAM
}

/// Why this program cannot be tested: it is missing, or older than its source, about which a test of it would prove
/// nothing. cargo does not build the program for tests of another package, but lists the files that each program was
/// built from in a `.d` file beside it.
fn reason_untestable(program: &Path) -> Option<String> {
    let Ok(built) = program.metadata().and_then(|program| program.modified()) else {
        return Some(format!("{} is missing", program.display()));
    };
    let dependencies = std::fs::read_to_string(program.with_extension("d")).ok()?;
    let (_, files) = dependencies.split_once(": ")?;
    // Spaces in names are escaped.
    let files = files.trim_end().replace("\\ ", "\0");
    let mut files = files.split(' ').map(|file| PathBuf::from(file.replace('\0', " ")));
    let newer = files.find(|file| last_modified(file).is_none_or(|changed| changed > built))?;
    Some(format!("{} is older than {}", program.display(), newer.display()))
}

/// When a file, or anything in a folder, was last modified; `None` if it does not exist.
fn last_modified(path: &Path) -> Option<SystemTime> {
    let changed = path.metadata().and_then(|file| file.modified()).ok()?;
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter_map(|entry| last_modified(&entry.path())).chain([changed]).max()
}

#[test]
fn a_program_that_is_older_than_its_source_is_not_tested() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    let program = file("program");
    assert!(reason_untestable(&program).unwrap().ends_with("is missing"));
    let dependencies = [file("a source"), file("folder")]
        .map(|path| path.display().to_string().replace(' ', "\\ "));
    std::fs::write(file("a source"), "").unwrap();
    std::fs::create_dir(file("folder")).unwrap();
    std::fs::write(file("folder/within"), "").unwrap();
    std::fs::write(&program, "").unwrap();
    assert_eq!(reason_untestable(&program), None, "nothing is known of it");
    std::fs::write(file("program.d"), format!("program: {}\n", dependencies.join(" "))).unwrap();
    assert_eq!(reason_untestable(&program), None);

    let later = last_modified(&program).unwrap() + std::time::Duration::from_secs(60);
    for (changed, named) in [("folder/within", "folder"), ("a source", "a source")] {
        let changed = std::fs::File::options().append(true).open(file(changed)).unwrap();
        changed.set_modified(later).unwrap();
        let wrong = reason_untestable(&program).unwrap();
        assert!(wrong.ends_with(&format!("is older than {}", file(named).display())), "{wrong}");
    }
    std::fs::remove_file(file("a source")).unwrap();
    assert!(reason_untestable(&program).is_some());
}
