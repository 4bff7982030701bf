//! Threads of low priority, for work that grows with what a caller sends or a plugin computes: whoever has
//! little to ask is not kept waiting by it, on machines with few cores above all.

use std::time::Duration;

use tokio::runtime::{Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// How much nicer than the rest of the gateway the threads are (0 to 19).
const NICENESS: i32 = 10;

/// The computing time of this thread so far.
pub(crate) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

/// An async runtime on threads of low priority.
#[derive(Debug)]
pub struct LowPriority(Option<Runtime>);

impl LowPriority {
    /// Starts so many threads, at least one, of this name (15 bytes of it show).
    ///
    /// # Errors
    /// When the system gives none.
    pub fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name(name)
            .on_thread_start(|| {
                // On Linux niceness belongs to the thread. Where it is refused the threads are only less
                // polite: deadlines hold all the same.
                let thread = Some(rustix::thread::gettid());
                let _ = rustix::process::setpriority_process(thread, NICENESS);
            })
            // What is polled here computes for up to a tick: at tokio's own intervals sockets, timers and calls
            // that come from outside would wait for sixty of them.
            .event_interval(1)
            .global_queue_interval(2)
            .enable_all()
            .build()
            .map(|runtime| Self(Some(runtime)))
    }

    /// Where to spawn. None where the gateway is shutting down.
    pub(crate) fn handle(&self) -> Option<&Handle> {
        self.0.as_ref().map(Runtime::handle)
    }

    /// Does this work there. It ends when the handle is dropped. None where the gateway is shutting down.
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
