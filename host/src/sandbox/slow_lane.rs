//! Where calls run that take long: on threads of their own at low priority, so that guests that compute
//! cannot take the time of those that answer; and in turns, so that a tenant with a hundred of them does
//! not take a hundred times the time of a tenant with one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::PollSemaphore;
use tokio_util::task::AbortOnDropHandle;

/// How much nicer than the rest of the gateway the slow lanes' threads are (0 to 19).
const NICENESS: i32 = 10;

/// Where a call goes that takes long.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    /// For short calls that turn out to be long.
    Overtime,
    /// For tools and deliveries. Apart from the others, so that tools which compute for seconds do not use
    /// up the time of somebody's mapping.
    Tools,
}

/// Both lanes, with threads of their own.
pub(super) struct SlowLanes {
    overtime: Threads,
    tools: Threads,
}

impl SlowLanes {
    /// Starts so many threads for each.
    pub(super) fn start(threads: usize) -> std::io::Result<Self> {
        let start = |name| Threads::start(name, threads);
        Ok(Self { overtime: start("plugin-overtime")?, tools: start("plugin-tools")? })
    }

    /// Runs it there. It ends when the handle is dropped. None where the gateway is shutting down.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        lane: Lane,
        work: Pin<Box<impl Future<Output = T> + Send + 'static>>,
    ) -> Option<AbortOnDropHandle<T>> {
        let Threads(runtime) = match lane {
            Lane::Overtime => &self.overtime,
            Lane::Tools => &self.tools,
        };
        Some(AbortOnDropHandle::new(runtime.as_ref()?.spawn(work)))
    }
}

struct Threads(Option<tokio::runtime::Runtime>);

impl Threads {
    fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .thread_name(name)
            .on_thread_start(|| {
                // On Linux niceness belongs to the thread. Where it is refused the lane is only less
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
}

impl Drop for Threads {
    fn drop(&mut self) {
        // Dropping a runtime waits for its threads, which must not happen on an async thread.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The turns of one tenant: how many of its calls on a lane have something to compute at once, which is as
/// many as the lane has threads. So a tenant who is alone has all of them, and what another brings waits for
/// a tick or two of so many calls and not of a hundred.
#[derive(Debug)]
pub(super) struct Turns {
    overtime: Arc<Semaphore>,
    tools: Arc<Semaphore>,
}

impl Turns {
    /// Those on lanes of so many threads.
    pub(super) fn of(threads: usize) -> Self {
        let turns = || Arc::new(Semaphore::new(threads.max(1)));
        Self { overtime: turns(), tools: turns() }
    }

    /// A place among those who take turns on this lane.
    pub(super) fn place(&self, lane: Lane) -> Place {
        let turns = match lane {
            Lane::Overtime => &self.overtime,
            Lane::Tools => &self.tools,
        };
        Place { turns: PollSemaphore::new(Arc::clone(turns)), turn: None }
    }
}

/// A call's place among those of its tenant.
#[derive(Debug)]
pub(super) struct Place {
    turns: PollSemaphore,
    turn: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// Ready once the call may compute for a tick. Who had the turn until now goes behind those who wait.
    pub(super) fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.turn = None;
        self.turn = ready!(self.turns.poll_acquire(context));
        Poll::Ready(())
    }

    /// Gives the turn to the next, having nothing to compute.
    pub(super) fn pass(&mut self) {
        self.turn = None;
    }
}
