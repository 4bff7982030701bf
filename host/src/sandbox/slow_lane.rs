//! Slow lanes for long calls. The calls run on separate threads at low priority, so that guests that compute cannot
//! starve the threads that answer requests. Tenants take turns, so that a tenant with a hundred long calls does not
//! get a hundred times the CPU time of a tenant with one, however many such tenants there are.

use std::pin::Pin;

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::ids::TenantId;
use crate::low_priority::LowPriority;
use crate::shares::turns::{Turns, TurnstileSlot};

/// The lane that a long call moves to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    /// For short calls that turn out to be long.
    Default,
    /// For tools and deliveries. Separate, so that a tool that computes for seconds does not delay a mapping.
    Tools,
}

/// Both lanes, each with its own threads.
pub(super) struct SlowLanes {
    default: LowPriority,
    tools: LowPriority,
}

impl SlowLanes {
    /// Starts `threads` threads for each lane.
    pub(super) fn start(threads: usize) -> std::io::Result<Self> {
        let start = |name| LowPriority::start(name, threads);
        Ok(Self { default: start("plugin-overtime")?, tools: start("plugin-tools")? })
    }

    /// The runtime whose blocking threads read and write files: that of the tools' lane, so that they have the same
    /// low priority. `None` if the gateway is shutting down.
    pub(super) fn blocking_handle(&self) -> Option<Handle> {
        self.tools.handle().cloned()
    }

    /// Spawns `work` on a lane. Dropping the handle aborts it. `None` if the gateway is shutting down.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        lane: Lane,
        work: Pin<Box<impl Future<Output = T> + Send + 'static>>,
    ) -> Option<AbortOnDropHandle<T>> {
        match lane {
            Lane::Default => self.default.spawn(work),
            Lane::Tools => self.tools.spawn(work),
        }
    }
}

/// The turns of both lanes. As many calls of a lane compute at once as the lane has threads.
#[derive(Debug)]
pub(super) struct LaneTurns {
    default: Turns,
    tools: Turns,
}

impl LaneTurns {
    /// Turns for lanes of `threads` threads each.
    pub(super) fn new(threads: usize) -> Self {
        Self { default: Turns::new(threads), tools: Turns::new(threads) }
    }

    /// A place for a call of this tenant in the queue for turns on a lane.
    pub(super) fn enqueue(&self, lane: Lane, tenant: TenantId) -> TurnstileSlot {
        match lane {
            Lane::Default => self.default.enqueue(tenant),
            Lane::Tools => self.tools.enqueue(tenant),
        }
    }
}
