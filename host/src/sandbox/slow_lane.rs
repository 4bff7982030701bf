//! Where calls run that take long: on threads of their own at low priority, so that guests that compute
//! cannot take the time of those that answer; and in turns, so that a tenant with a hundred of them does
//! not take a hundred times the time of a tenant with one, however many such tenants there are.

use std::pin::Pin;

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::ids::TenantId;
use crate::low_priority::LowPriority;
use crate::shares::turns::{Turns, TurnstileSlot};

/// Where a call goes that takes long.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    /// For short calls that turn out to be long.
    Default,
    /// For tools and deliveries. Offloaded from the others, so that tools which compute for seconds do not use
    /// up the time of somebody's mapping.
    Tools,
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
            Lane::Default => self.overtime.spawn(work),
            Lane::Tools => self.tools.spawn(work),
        }
    }
}

/// Turns on both lanes: as many calls of a lane compute at once as it has threads.
#[derive(Debug)]
pub(super) struct LaneTurns {
    overtime: Turns,
    tools: Turns,
}

impl LaneTurns {
    /// Those on lanes of so many threads.
    pub(super) fn of(threads: usize) -> Self {
        Self { overtime: Turns::new(threads), tools: Turns::new(threads) }
    }

    /// A place for a call of this tenant among those who take turns on this lane.
    pub(super) fn place(&self, lane: Lane, tenant: TenantId) -> TurnstileSlot {
        match lane {
            Lane::Default => self.overtime.place(tenant),
            Lane::Tools => self.tools.place(tenant),
        }
    }
}
