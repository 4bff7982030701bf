//! Compiles components, each in a process of its own.
//!
//! A maliciously crafted component can make a compiler use any amount of memory and time. Each component is
//! therefore compiled by another process of this program ([`child`]). The operating system bounds its memory and
//! time, and it is killed as soon as no caller waits for it. The gateway seals the code that it returns (`cache`).

mod bounds;
pub mod child;

use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use self::child::CompileLimits;
use super::LoadError;
use crate::ids::TenantId;
use crate::settings::current_exe;
use crate::shares::slots::{Reserve, Slot, Slots};

/// Longest message of a child process that is read, in bytes.
const MESSAGE_BYTES_MAX: u64 = 8 << 10;

/// Wall time after which a child process is killed, however little CPU time it got.
const WALL_MAX: Duration = Duration::from_secs(30 * 60);

/// The program that can compile, set by the program itself.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Declares that the running program has the command [`child::COMMAND`]. Without this, as in tests and benchmarks,
/// the program is searched for in the two folders above the running program.
pub fn use_current_exe() {
    // The executable that was started, even if another file has its path by now.
    let _ = PROGRAM.set(PathBuf::from("/proc/self/exe"));
}

/// The path of the program that compiles.
fn program() -> Result<&'static Path, LoadError> {
    if let Some(program) = PROGRAM.get() {
        return Ok(program);
    }
    let this = current_exe().map_err(|error| LoadError::Host(error.to_string()))?;
    let candidates = this.ancestors().skip(1).take(2).map(|folder| folder.join("wardgate"));
    let found = candidates.into_iter().find(|program| program.is_file()).ok_or_else(|| {
        let this = this.display();
        LoadError::Host(format!(
            "there is no program `wardgate` beside {this} to compile with: `cargo build -p wardgate` makes it"
        ))
    })?;
    Ok(PROGRAM.get_or_init(|| found))
}

/// Every component is first tried with small limits, which are enough for most; one that exceeds them waits for its
/// turn among the long compilations. The small limits of a component of up to this many bytes depend on its size.
const QUICK_BYTES_MAX: usize = 1 << 20;

/// The small limits: five times what Rust components of [`QUICK_BYTES_MAX`] need.
const QUICK: CompileLimits = CompileLimits::new(256, 2);

/// Compilations under the small limits at a time.
const QUICK_AT_ONCE: usize = 4;

/// The compilers of one gateway.
#[derive(Debug)]
pub(super) struct Compiler {
    limits: CompileLimits,
    /// The compatibility hash of compiled code, see [`super::engine::compatibility`].
    compatibility: u64,
    quick: Arc<Slots>,
    long: Arc<Slots>,
}

impl Compiler {
    /// Runs up to `at_once` long compilations at a time, each within these limits.
    pub(super) fn new(at_once: usize, limits: CompileLimits, compatibility: u64) -> Self {
        let slots = |slots| Slots::new(slots, Reserve::AsManyAsHeld);
        Self { limits, compatibility, quick: slots(QUICK_AT_ONCE), long: slots(at_once) }
    }

    /// Compiles these bytes when it is this tenant's turn: tenants take turns, and one tenant cannot hold all
    /// slots. Dropping the future kills the process.
    ///
    /// # Errors
    /// If the bytes exceed a bound or do not compile, or the compiler process fails. The [`LoadError`] says which.
    pub(super) async fn compile(
        &self,
        tenant: TenantId,
        source: &[u8],
    ) -> Result<Vec<u8>, LoadError> {
        let quick = match source.len() {
            ..=QUICK_BYTES_MAX => QUICK.for_source(source.len()),
            _ => QUICK,
        };
        let tried = {
            let _slot = acquire_slot(&self.quick, tenant).await?;
            self.run_child(source, quick).await
        };
        match tried {
            Err(CompileFailure::BoundExceeded(_)) => {}
            result => return Ok(result?),
        }
        let _slot = acquire_slot(&self.long, tenant).await?;
        Ok(self.run_child(source, self.limits.for_source(source.len())).await?)
    }

    async fn run_child(
        &self,
        source: &[u8],
        limits: CompileLimits,
    ) -> Result<Vec<u8>, CompileFailure> {
        let failed = |error: io::Error| {
            CompileFailure::Failed(LoadError::Host(format!("its compiler: {error}")))
        };
        let mut child = Command::new(program().map_err(CompileFailure::Failed)?)
            .arg(child::COMMAND)
            .args(limits.arguments())
            .arg(format!("--compatibility={:016x}", self.compatibility))
            // The environment holds the gateway's settings, secrets among them, which the compiler does not need.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let exchanged = async {
            let write = async {
                if let Some(mut stdin) = stdin {
                    // A child that rejects what it has read so far stops reading; its exit status says why.
                    let _ = stdin.write_all(source).await;
                }
            };
            let ((), code, message) = tokio::join!(
                write,
                read_up_to(stdout, limits.code_bytes_max),
                read_up_to(stderr, MESSAGE_BYTES_MAX),
            );
            Ok::<_, io::Error>((code?, message?, child.wait().await?))
        };
        let exchanged = tokio::time::timeout(WALL_MAX, exchanged).await;
        let timed_out =
            |_| CompileFailure::BoundExceeded(format!("{} minutes", WALL_MAX.as_secs() / 60));
        let (code, message, status) = exchanged.map_err(timed_out)?.map_err(failed)?;
        if status.success() {
            return Ok(code);
        }
        Err(classify_exit(status, String::from_utf8_lossy(&message).trim(), &limits))
    }
}

async fn acquire_slot(slots: &Arc<Slots>, tenant: TenantId) -> Result<Slot, LoadError> {
    let slot = slots.acquire(tenant).await;
    slot.ok_or_else(|| LoadError::Host("it is shutting down".to_owned()))
}

/// Why there is no compiled code.
enum CompileFailure {
    /// Compiling would exceed this bound.
    BoundExceeded(String),
    Failed(LoadError),
}

impl From<CompileFailure> for LoadError {
    fn from(failure: CompileFailure) -> Self {
        match failure {
            CompileFailure::BoundExceeded(bound) => Self::TooCostly(bound),
            CompileFailure::Failed(error) => error,
        }
    }
}

async fn read_up_to(from: Option<impl AsyncRead + Unpin>, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(bytes_max).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// Why there is no compiled code, derived from the child's exit status and message.
fn classify_exit(status: ExitStatus, message: &str, limits: &CompileLimits) -> CompileFailure {
    const REFUSED: Option<i32> = Some(child::EXIT_REFUSED as i32);
    const BOUND: Option<i32> = Some(child::EXIT_BOUND as i32);
    /// The exit code of a Rust program that panicked.
    const PANICKED: Option<i32> = Some(101);
    let crashed = || LoadError::NotAComponent(format!("the compiler crashed on it ({status})"));
    if status.signal() == Some(Signal::XCPU.as_raw()) {
        return CompileFailure::BoundExceeded(format!(
            "{} seconds of computing",
            limits.cpu_seconds_max
        ));
    }
    // What the standard library prints before it aborts.
    let is_out_of_memory = message.contains("memory allocation of");
    if status.signal() == Some(Signal::ABORT.as_raw()) && is_out_of_memory {
        return CompileFailure::BoundExceeded(format!(
            "{} MiB of memory",
            limits.memory_bytes_max >> 20
        ));
    }
    CompileFailure::Failed(match status.code() {
        REFUSED => LoadError::NotAComponent(message.to_owned()),
        // A bound on the component's structure or its code, which is the same for long compilations.
        BOUND => LoadError::TooCostly(message.to_owned()),
        PANICKED => crashed(),
        // Killed by the kernel, which is short of memory, or by a user of the machine.
        None if status.signal() == Some(Signal::KILL.as_raw()) => {
            LoadError::Host("its compiler was killed".to_owned())
        }
        None => crashed(),
        Some(_) => LoadError::Host(format!("its compiler ended with {status}: {message}")),
    })
}
