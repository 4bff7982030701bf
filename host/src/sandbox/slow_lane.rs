//! Where calls run that take long: on threads of their own at low priority, so that guests that compute
//! cannot take the time of those that answer; and in turns, so that a tenant with a hundred of them does
//! not take a hundred times the time of a tenant with one, however many such tenants there are.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::slots::{Reserve, Slot, Slots, Taking};
use crate::ids::TenantId;
use crate::low_priority::LowPriority;

/// Where a call goes that takes long.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    /// For short calls that turn out to be long.
    Overtime,
    /// For tools and deliveries. Apart from the others, so that tools which compute for seconds do not use
    /// up the time of somebody's mapping.
    Tools,
}

/// The computing time of this thread so far.
pub(super) fn thread_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}

/// Both lanes, with threads of their own.
pub(super) struct SlowLanes {
    overtime: LowPriority,
    tools: LowPriority,
}

impl SlowLanes {
    /// Starts so many threads for each.
    pub(super) fn start(threads: usize) -> std::io::Result<Self> {
        let start = |name| LowPriority::start(name, threads);
        Ok(Self { overtime: start("plugin-overtime")?, tools: start("plugin-tools")? })
    }

    /// Where files are read and written: on threads that come and go beside those of the tools' lane, and are as
    /// nice. None where the gateway is shutting down.
    pub(super) fn beside(&self) -> Option<Handle> {
        self.tools.handle().cloned()
    }

    /// Runs it there. It ends when the handle is dropped. None where the gateway is shutting down.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        lane: Lane,
        work: Pin<Box<impl Future<Output = T> + Send + 'static>>,
    ) -> Option<AbortOnDropHandle<T>> {
        match lane {
            Lane::Overtime => self.overtime.spawn(work),
            Lane::Tools => self.tools.spawn(work),
        }
    }
}

/// Turns on the lanes' threads: as many calls of a lane compute at once as it has threads, and those who wait are
/// served by turns of their tenants. So a tenant who is alone has all threads, and a call waits for a tick of
/// each other tenant and not for a tick of each of their hundred calls.
#[derive(Debug)]
pub(super) struct Turns {
    overtime: Arc<Slots>,
    tools: Arc<Slots>,
}

impl Turns {
    /// Those on lanes of so many threads.
    pub(super) fn of(threads: usize) -> Self {
        let turns = || Slots::new(threads, Reserve::Nothing);
        Self { overtime: turns(), tools: turns() }
    }

    /// A place for a call of this tenant among those who take turns on this lane.
    pub(super) fn place(&self, lane: Lane, tenant: TenantId) -> Place {
        let turns = match lane {
            Lane::Overtime => &self.overtime,
            Lane::Tools => &self.tools,
        };
        Place { turns: Arc::clone(turns), tenant, coming: None, turn: None }
    }
}

/// A call's place among the others.
#[derive(Debug)]
pub(super) struct Place {
    turns: Arc<Slots>,
    tenant: TenantId,
    coming: Option<oneshot::Receiver<Slot>>,
    turn: Option<Slot>,
}

impl Place {
    /// Ready once the call may compute for a tick. A call that had the turn until now goes behind those who
    /// wait.
    pub(super) fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.coming.is_none() {
            // It queues up before it gives its turn back, so that a tenant with one call, which would be gone
            // in between, is among those who are served next.
            let taking = self.turns.take(self.tenant);
            self.turn = None;
            match taking {
                Taking::Now(turn) => {
                    self.turn = Some(turn);
                    return Poll::Ready(());
                }
                Taking::Later(coming) => self.coming = Some(coming),
            }
        }
        let Some(coming) = &mut self.coming else { return Poll::Ready(()) };
        // The sender is dropped with the slots, which this place holds: there is no other end than a turn.
        self.turn = ready!(Pin::new(coming).poll(context)).ok();
        self.coming = None;
        Poll::Ready(())
    }

    /// Gives the turn to the next, having nothing to compute.
    pub(super) fn pass(&mut self) {
        self.turn = None;
    }
}
