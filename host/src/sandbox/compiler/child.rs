//! The process that compiles one component, from stdin to stdout. It limits its own resources before it reads a byte.

use std::io::{self, Read as _, Write as _};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, setpriority_process, setrlimit};

use super::super::engine;
use super::bounds;

/// The program's subcommand that runs this process.
pub const COMMAND: &str = "compile-component";

/// The exit code if the bytes are not a component (sysexits.h: `EX_DATAERR`). Stderr says why.
pub const EXIT_REFUSED: u8 = 65;

/// The exit code if the component exceeds a bound (sysexits.h has none for it). Stderr says which.
pub const EXIT_BOUND: u8 = 80;

/// The exit code for any other failure (sysexits.h: `EX_SOFTWARE`).
const EXIT_FAILED: u8 = 70;

/// Niceness of the process (0 to 19), so that it yields to the gateway.
const NICENESS: i32 = 10;

/// Maximum size of the compiled code, in bytes. It is about five times as large as the component.
const CODE_BYTES_MAX: u64 = 512 << 20;

/// CPU time for each MiB of a component, in seconds, on top of the fixed limit: five times what large JavaScript and
/// Python components need.
const CPU_SECONDS_PER_MIB: u64 = 5;

/// Factor on the CPU time: a compiler that is not itself optimised, as in debug builds, is that much slower.
const SLOWNESS: u64 = if cfg!(debug_assertions) { 3 } else { 1 };

/// Limits on compiling one component.
#[derive(Debug, Clone, Copy)]
pub struct CompileLimits {
    /// Memory, in bytes.
    pub memory_bytes_max: u64,
    /// CPU time of all threads, in seconds.
    pub cpu_seconds_max: u64,
    /// Size of the compiled code, in bytes.
    pub code_bytes_max: u64,
}

impl CompileLimits {
    /// The limits of the settings: memory in MiB, and CPU time in seconds regardless of the component's size.
    #[must_use]
    pub const fn new(memory_mib_max: u64, cpu_seconds_max: u64) -> Self {
        let memory_bytes_max = memory_mib_max.saturating_mul(1 << 20);
        Self { memory_bytes_max, cpu_seconds_max, code_bytes_max: CODE_BYTES_MAX }
    }

    /// The limits for a component of `bytes` bytes: a large one may take longer.
    #[must_use]
    pub fn for_source(self, bytes: usize) -> Self {
        let for_its_size = (bytes as u64 >> 20).saturating_mul(CPU_SECONDS_PER_MIB);
        let seconds = self.cpu_seconds_max.saturating_add(for_its_size).saturating_mul(SLOWNESS);
        Self { cpu_seconds_max: seconds, ..self }
    }

    /// The limits as arguments of [`COMMAND`].
    pub(super) fn arguments(&self) -> [String; 3] {
        [
            format!("--memory-bytes-max={}", self.memory_bytes_max),
            format!("--cpu-seconds-max={}", self.cpu_seconds_max),
            format!("--code-bytes-max={}", self.code_bytes_max),
        ]
    }
}

/// Why there is no compiled code.
enum CompileFailure {
    Refused(String),
    Bound(String),
    Host(String),
}

/// Compiles the component on stdin to stdout, for an engine of this compatibility hash, and returns the exit code.
#[must_use]
pub fn compile_in_child(limits: &CompileLimits, compatibility: u64) -> ExitCode {
    let (code, message) = match compile(limits, compatibility) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(CompileFailure::Refused(why)) => (EXIT_REFUSED, why),
        Err(CompileFailure::Bound(which)) => (EXIT_BOUND, which),
        Err(CompileFailure::Host(why)) => (EXIT_FAILED, why),
    };
    let _ = writeln!(io::stderr(), "{message}");
    ExitCode::from(code)
}

fn compile(limits: &CompileLimits, compatibility: u64) -> Result<(), CompileFailure> {
    let failed = |error: &dyn std::fmt::Display| CompileFailure::Host(error.to_string());
    apply_limits(limits).map_err(|error| failed(&error))?;
    std::thread::Builder::new()
        .name("reader".to_owned())
        .spawn(exit_on_broken_stdout)
        .map_err(|error| failed(&error))?;
    let engine = engine::for_compiling().map_err(|error| failed(&error))?;
    if engine::compatibility(&engine) != compatibility {
        let why =
            "the program that compiles is of another version than this gateway: build it anew";
        return Err(CompileFailure::Host(why.to_owned()));
    }
    let mut source = Vec::new();
    io::stdin().lock().read_to_end(&mut source).map_err(|error| failed(&error))?;
    bounds::check(&source).map_err(CompileFailure::Bound)?;
    let code = engine.precompile_component(&source);
    let code = code.map_err(|error| CompileFailure::Refused(format!("{error:#}")))?;
    if code.len() as u64 > limits.code_bytes_max {
        let mib = limits.code_bytes_max >> 20;
        return Err(CompileFailure::Bound(format!("{mib} MiB of compiled code")));
    }
    let mut stdout = io::stdout().lock();
    stdout.write_all(&code).and_then(|()| stdout.flush()).map_err(|error| failed(&error))
}

/// Has the operating system enforce the limits on this process.
fn apply_limits(limits: &CompileLimits) -> io::Result<()> {
    let at_most =
        |resource, max| setrlimit(resource, Rlimit { current: Some(max), maximum: Some(max) });
    at_most(Resource::Data, limits.memory_bytes_max)?;
    // The hard limit is one second above the soft one: SIGXCPU at the soft limit tells the gateway why the process
    // ended, which SIGKILL at the hard limit would not.
    let (current, maximum) = (limits.cpu_seconds_max, limits.cpu_seconds_max.saturating_add(1));
    setrlimit(Resource::Cpu, Rlimit { current: Some(current), maximum: Some(maximum) })?;
    at_most(Resource::Core, 0)?;
    at_most(Resource::Fsize, 0)?;
    // Both are only polite: the limits hold even if the system refuses them.
    let _ = setpriority_process(None, NICENESS);
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    Ok(())
}

/// Ends the process once its stdout has no reader, for instance because the gateway was killed.
fn exit_on_broken_stdout() {
    let stdout = io::stdout();
    loop {
        // No event is requested: poll(2) always reports errors.
        let mut reader = [PollFd::new(&stdout, PollFlags::empty())];
        let polled = poll(&mut reader, None);
        let [reader] = reader;
        if polled.is_ok() && reader.revents().contains(PollFlags::ERR) {
            std::process::exit(i32::from(EXIT_FAILED));
        }
    }
}
