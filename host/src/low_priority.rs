//! Low-priority threads for work that grows with what a caller sends or a plugin computes, so that small requests do
//! not wait for it, above all on machines with few cores.

use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// The nice value of these threads (0 to 19).
const NICENESS: i32 = 10;

/// The CPU time of this thread so far.
pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

/// An async runtime on low-priority threads.
#[derive(Debug)]
pub struct LowPriority(Option<Runtime>);

impl LowPriority {
    /// Starts this many threads, at least one, with this name (15 bytes of which are visible).
    ///
    /// # Errors
    /// If the system cannot start the threads.
    pub fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name(name)
            .on_thread_start(|| {
                // On Linux, the nice value belongs to the thread. If setting it is refused, the threads compete at
                // normal priority, but deadlines still hold.
                let thread = Some(rustix::thread::gettid());
                let _ = rustix::process::setpriority_process(thread, NICENESS);
            })
            // A task on these threads computes for up to a tick: at tokio's own intervals, sockets, timers and calls
            // from outside would wait for sixty ticks.
            .event_interval(1)
            .global_queue_interval(2)
            .enable_all()
            .build()
            .map(|runtime| Self(Some(runtime)))
    }

    /// Where to spawn. None if the gateway is shutting down.
    pub(crate) fn handle(&self) -> Option<&Handle> {
        self.0.as_ref().map(Runtime::handle)
    }

    /// Spawns work on these threads. The work is aborted when the handle is dropped. None if the gateway is shutting
    /// down.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<AbortOnDropHandle<T>> {
        Some(AbortOnDropHandle::new(self.handle()?.spawn(work)))
    }
}

impl Drop for LowPriority {
    fn drop(&mut self) {
        // Dropping a runtime waits for its threads, which must not happen on an async thread.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
