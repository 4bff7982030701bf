//! Compiling, in a process of its own.
//!
//! A component of hostile shape makes a compiler use any amount of memory and time. So each is compiled by another
//! process of this program ([`child`]), which the operating system bounds in both, and which ends as soon as
//! nobody waits for it. What comes back is sealed by the gateway (`cache`).

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
use crate::settings::this_program;
use crate::shares::slots::{Reserve, Slot, Slots};

/// Longest message of a child that is read, in bytes.
const MESSAGE_BYTES_MAX: u64 = 8 << 10;

/// How long one is waited for, however little of the machine it gets.
const WALL_MAX: Duration = Duration::from_secs(30 * 60);

/// Set by the program that can compile: itself.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Says that this process runs the program which [`child`] is a command of. Where nothing says so, as in tests and
/// benchmarks, the program is looked for in the folders above this one.
pub fn by_this_program() {
    // The file that was started, whatever lies under its name by now.
    let _ = PROGRAM.set(PathBuf::from("/proc/self/exe"));
}

/// The program that compiles.
fn program() -> Result<&'static Path, LoadError> {
    if let Some(program) = PROGRAM.get() {
        return Ok(program);
    }
    let this = this_program().map_err(|error| LoadError::Host(error.to_string()))?;
    let beside = this.ancestors().skip(1).take(2).map(|folder| folder.join("wardgate"));
    let found = beside.into_iter().find(|program| program.is_file()).ok_or_else(|| {
        let this = this.display();
        LoadError::Host(format!(
            "there is no program `wardgate` beside {this} to compile with: `cargo build -p wardgate` makes it"
        ))
    })?;
    Ok(PROGRAM.get_or_init(|| found))
}

/// Every component is tried with little at first: it is enough for most, and what is not done then waits for its turn
/// among those that take long. Up to so many bytes the little grows with them.
const QUICK_BYTES_MAX: usize = 1 << 20;

/// The little that it is: what Rust components of that size need, five times over.
const QUICK: CompileLimits = CompileLimits::new(256, 2);

/// How many are tried so at once.
const QUICK_AT_ONCE: usize = 4;

/// The compilers of one gateway.
#[derive(Debug)]
pub(super) struct Compiler {
    limits: CompileLimits,
    /// What compiled code depends on, see [`super::engine::compatibility`].
    compatibility: u64,
    quick: Arc<Slots>,
    long: Arc<Slots>,
}

impl Compiler {
    /// So many that take long at once, each within these limits.
    pub(super) fn new(at_once: usize, limits: CompileLimits, compatibility: u64) -> Self {
        let slots = |slots| Slots::new(slots, Reserve::AsManyAsHeld);
        Self { limits, compatibility, quick: slots(QUICK_AT_ONCE), long: slots(at_once) }
    }

    /// Compiled code of these bytes, when it is this tenant's turn: tenants are served in turns, and none holds all
    /// there are. The process ends when this is dropped.
    ///
    /// # Errors
    /// [`LoadError`], naming the bound that the bytes are beyond, or what is wrong with them.
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
            let _turn = turn(&self.quick, tenant).await?;
            self.run(source, quick).await
        };
        match tried {
            Err(Ended::Beyond(_)) => {}
            ended => return Ok(ended?),
        }
        let _turn = turn(&self.long, tenant).await?;
        Ok(self.run(source, self.limits.for_source(source.len())).await?)
    }

    async fn run(&self, source: &[u8], limits: CompileLimits) -> Result<Vec<u8>, Ended> {
        let failed =
            |error: io::Error| Ended::Failed(LoadError::Host(format!("its compiler: {error}")));
        let mut child = Command::new(program().map_err(Ended::Failed)?)
            .arg(child::COMMAND)
            .args(limits.arguments())
            .arg(format!("--compatibility={:016x}", self.compatibility))
            // What the gateway is told in its environment, secrets among it, is no business of a compiler.
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
                    // A child that has refused what it has read so far reads no more: its status says why.
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
        let late = |_| Ended::Beyond(format!("{} minutes", WALL_MAX.as_secs() / 60));
        let (code, message, status) = exchanged.map_err(late)?.map_err(failed)?;
        if status.success() {
            return Ok(code);
        }
        Err(why(status, String::from_utf8_lossy(&message).trim(), &limits))
    }
}

async fn turn(slots: &Arc<Slots>, tenant: TenantId) -> Result<Slot, LoadError> {
    let turn = slots.acquire(tenant).await;
    turn.ok_or_else(|| LoadError::Host("it is shutting down".to_owned()))
}

/// Why there is no code.
enum Ended {
    /// It would take more than this.
    Beyond(String),
    Failed(LoadError),
}

impl From<Ended> for LoadError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Beyond(bound) => Self::TooCostly(bound),
            Ended::Failed(error) => error,
        }
    }
}

async fn read_up_to(from: Option<impl AsyncRead + Unpin>, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(most).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// Why there is no code, from how the child ended and what it said.
fn why(status: ExitStatus, message: &str, limits: &CompileLimits) -> Ended {
    const REFUSED: Option<i32> = Some(child::EXIT_REFUSED as i32);
    const BOUND: Option<i32> = Some(child::EXIT_BOUND as i32);
    /// What a panic ends a Rust program with.
    const PANICKED: Option<i32> = Some(101);
    let crashed = || LoadError::NotAComponent(format!("the compiler crashed on it ({status})"));
    if status.signal() == Some(Signal::XCPU.as_raw()) {
        return Ended::Beyond(format!("{} seconds of computing", limits.cpu_seconds_max));
    }
    // What the standard library says as it aborts.
    let is_out_of_memory = message.contains("memory allocation of");
    if status.signal() == Some(Signal::ABORT.as_raw()) && is_out_of_memory {
        return Ended::Beyond(format!("{} MiB of memory", limits.memory_bytes_max >> 20));
    }
    Ended::Failed(match status.code() {
        REFUSED => LoadError::NotAComponent(message.to_owned()),
        // How it is built is the same however much it may take.
        BOUND => LoadError::TooCostly(message.to_owned()),
        PANICKED => crashed(),
        // By the kernel, which is short of memory, or by somebody on the machine.
        None if status.signal() == Some(Signal::KILL.as_raw()) => {
            LoadError::Host("its compiler was killed".to_owned())
        }
        None => crashed(),
        Some(_) => LoadError::Host(format!("its compiler ended with {status}: {message}")),
    })
}
