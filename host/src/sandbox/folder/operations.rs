//! Runs file operations, and bounds how many files are open. A system call cannot be interrupted, and a disk may make
//! it wait. So each operation runs on a blocking thread beside those that run guests, only a few run at once, and
//! tenants take turns. The CPU time of an operation is charged to its call, like that of the guest.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use tokio::runtime::Handle;
use wasmtime::Trap;
use wasmtime_wasi::p2::FsError;

use crate::ids::TenantId;
use crate::low_priority::thread_time;
use crate::shares::slots::{Acquire, Reserve, Slot, Slots};

/// Concurrent operations for each thread of a slow lane: operations wait for disks as often as they compute.
const OPERATIONS_PER_THREAD: usize = 2;

/// Minimum number of concurrent operations, so that one tenant's slow disk leaves room for other tenants.
const OPERATIONS_MIN: usize = 4;

/// Divisor of the process's limit on open files: plugins together get that part, and connections and the store need
/// the rest.
const OPEN_FILES_DIVISOR: u64 = 4;

/// Maximum number of open files of all plugins, however high the process's limit is.
const OPEN_FILES_MAX: u64 = 16 << 10;

/// The threads, turns and open files that the operations of all tenants share.
#[derive(Debug)]
pub(in crate::sandbox) struct FileThreads {
    threads: Handle,
    turns: Arc<Slots>,
    open: Arc<Slots>,
}

impl FileThreads {
    /// For a gateway with `slow_threads` threads in each slow lane. Operations run on the blocking threads of
    /// `threads`.
    pub(in crate::sandbox) fn new(threads: Handle, slow_threads: usize) -> Arc<Self> {
        let at_once = slow_threads.saturating_mul(OPERATIONS_PER_THREAD).max(OPERATIONS_MIN);
        let may_open = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let open = usize::try_from((may_open / OPEN_FILES_DIVISOR).min(OPEN_FILES_MAX));
        // A slow disk can hold an operation for long, and a sleeping guest a file. Neither can be revoked, so each
        // tenant must leave some free.
        let slots = |slots| Slots::new(slots, Reserve::AsManyAsHeld);
        Arc::new(Self { threads, turns: slots(at_once), open: slots(open.unwrap_or(usize::MAX)) })
    }

    /// The operations of one call, which may use `cpu_max` of CPU time.
    pub(in crate::sandbox) fn of_call(
        self: &Arc<Self>,
        tenant: TenantId,
        cpu_max: Duration,
    ) -> FileOperations {
        FileOperations { all: Arc::clone(self), tenant, cpu_max, nanos: Arc::default() }
    }
}

/// The operations of one call.
#[derive(Debug, Clone)]
pub(in crate::sandbox) struct FileOperations {
    all: Arc<FileThreads>,
    tenant: TenantId,
    cpu_max: Duration,
    /// CPU time of the operations that have ended, in nanoseconds.
    nanos: Arc<AtomicU64>,
}

impl FileOperations {
    /// The tenant of the call.
    pub(in crate::sandbox) fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Runs an operation when it is the tenant's turn. Dropping the future does not stop an operation that has
    /// started: it keeps its turn until it ends.
    ///
    /// # Errors
    /// If the call's CPU time is used up: an error that contains [`Trap::Interrupt`], see [`trap_in`]. If the gateway
    /// is shutting down, or the operation panics.
    pub(in crate::sandbox) async fn run_blocking<T: Send + 'static>(
        &self,
        operation: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        self.check_time()?;
        let turn = self.all.turns.acquire(self.tenant).await;
        let turn = turn.ok_or_else(|| io::Error::other("it is shutting down"))?;
        let nanos = Arc::clone(&self.nanos);
        let done = self.all.threads.spawn_blocking(move || {
            let _turn = turn;
            let since = thread_time();
            let done = operation();
            let spent = thread_time().saturating_sub(since).as_nanos();
            // Relaxed is enough: the sum guards no other memory.
            nanos.fetch_add(u64::try_from(spent).unwrap_or(u64::MAX), Ordering::Relaxed);
            done
        });
        let done = done.await.map_err(io::Error::other)?;
        self.check_time()?;
        Ok(done)
    }

    /// Reserves one more open file. `None` if the tenant has as many as it may.
    pub(in crate::sandbox) fn open_file(&self) -> Option<Slot> {
        match self.all.open.take(self.tenant) {
            Acquire::Now(slot) => Some(slot),
            // No waiting: a call that holds many files would wait for itself.
            Acquire::Later(_) => None,
        }
    }

    /// The CPU time of the ended operations.
    pub(in crate::sandbox) fn spent(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    fn check_time(&self) -> io::Result<()> {
        if self.spent() < self.cpu_max { Ok(()) } else { Err(io::Error::other(Trap::Interrupt)) }
    }
}

/// The trap in an error that ends the call. `None` if a file operation failed.
pub(in crate::sandbox) fn trap_in(error: &io::Error) -> Option<Trap> {
    error.get_ref().and_then(|error| error.downcast_ref::<Trap>()).copied()
}

/// The error that the plugin receives for a failed operation. If the call's CPU time is used up, it is a trap, which
/// ends the call.
pub(in crate::sandbox) fn fs_error(error: io::Error) -> FsError {
    match trap_in(&error) {
        Some(trap) => FsError::trap(trap),
        None => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn tenant(number: u8) -> TenantId {
        TenantId::from_bytes([number; 16])
    }

    /// An operation that signals its start and then blocks until it is released.
    struct Gate {
        begun: mpsc::Receiver<()>,
        let_go: mpsc::Sender<()>,
        ended: tokio::task::JoinHandle<io::Result<()>>,
    }

    fn gate(operations: &FileOperations) -> Gate {
        let ((begins, begun), (let_go, going)) = (mpsc::channel(), mpsc::channel::<()>());
        let operations = operations.clone();
        let ended = tokio::spawn(async move {
            let wait = move || {
                begins.send(()).unwrap();
                going.recv().unwrap();
            };
            operations.run_blocking(wait).await
        });
        Gate { begun, let_go, ended }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_tenant_whose_operations_take_long_leaves_turns_to_others() {
        let all = FileThreads::new(Handle::current(), 1);
        let (slow, other) = (all.of_call(tenant(1), LONG), all.of_call(tenant(2), LONG));
        let held: Vec<_> = (0..2).map(|_| gate(&slow)).collect();
        held.iter().for_each(|gate| gate.begun.recv().unwrap());
        // A tenant that is alone gets half of the four turns. Further operations wait for one of its two.
        let waiting: Vec<_> = (0..20).map(|_| gate(&slow)).collect();
        for _ in 0..50 {
            assert_eq!(other.run_blocking(|| 1).await.unwrap(), 1);
        }
        assert!(waiting.iter().all(|gate| gate.begun.try_recv().is_err()));
        // All are released before the first is awaited, since their turns come in any order.
        let gates: Vec<_> = held.into_iter().chain(waiting).collect();
        gates.iter().for_each(|gate| gate.let_go.send(()).unwrap());
        for gate in gates {
            gate.ended.await.unwrap().unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_operation_that_nobody_waits_for_any_more_keeps_its_turn() {
        let all = FileThreads::new(Handle::current(), 1);
        let slow = all.of_call(tenant(1), LONG);
        let held: Vec<_> = (0..2).map(|_| gate(&slow)).collect();
        for gate in &held {
            gate.begun.recv().unwrap();
            gate.ended.abort();
        }
        let next = gate(&slow);
        // Another tenant's operation runs meanwhile.
        all.of_call(tenant(2), LONG).run_blocking(|| ()).await.unwrap();
        assert!(next.begun.try_recv().is_err());
        held.iter().for_each(|gate| gate.let_go.send(()).unwrap());
        next.let_go.send(()).unwrap();
        next.ended.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_tenant_that_holds_open_files_leaves_some_to_others() {
        let open = Slots::new(16, Reserve::AsManyAsHeld);
        let turns = Slots::new(4, Reserve::AsManyAsHeld);
        let all = Arc::new(FileThreads { threads: Handle::current(), turns, open });
        let of = |number| {
            let operations = all.of_call(tenant(number), LONG);
            std::iter::from_fn(|| operations.open_file()).collect::<Vec<_>>()
        };
        let (many, fewer) = (of(1), of(2));
        assert_eq!((many.len(), fewer.len()), (8, 4));
        assert!(!of(3).is_empty() && !of(4).is_empty());
        drop(many);
        assert_eq!(of(1).len(), 6);
    }

    #[tokio::test]
    async fn what_an_operation_computes_is_the_calls_time_and_ends_it() {
        let all = FileThreads::new(Handle::current(), 1);
        let (call, another) =
            (all.of_call(tenant(1), Duration::from_millis(20)), all.of_call(tenant(1), LONG));
        let compute = || {
            let since = thread_time();
            while thread_time() - since < Duration::from_millis(15) {}
        };
        call.run_blocking(compute).await.unwrap();
        assert!(call.spent() >= Duration::from_millis(15) && another.spent().is_zero());
        let error = call.run_blocking(compute).await.unwrap_err();
        assert!(matches!(trap_in(&error), Some(Trap::Interrupt)), "{error:?}");
        let error = call.run_blocking(|| panic!("there is no time left for it")).await.unwrap_err();
        assert!(trap_in(&error).is_some(), "{error:?}");
        another.run_blocking(compute).await.unwrap();
        assert!(trap_in(&io::Error::other("a disk")).is_none());
    }
}
