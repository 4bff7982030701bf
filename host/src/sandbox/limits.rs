//! The limits of one plugin call. Every limit is enforced; a refused growth is remembered, since inside the guest
//! it looks like any other crash.

use std::time::Duration;

use serde::Deserialize;
use wasmtime::ResourceLimiter;

use super::quota::MemoryReservation;
use super::refusal::{Refusal, Shortage};
use super::slow_lane::Lane;

/// Largest table of a plugin, in elements. The largest seen is a Python guest's, with 7,689.
const TABLE_ELEMENTS_MAX: usize = 20_000;

/// More calls in flight than any pool has slots.
const CONCURRENCY_MAX: usize = 100_000;

/// Limits of a binding. The operator's file can lower or raise each of them, up to the engine's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory of all the call's memories together, in bytes.
    pub memory_bytes: usize,
    /// Size of the call's result, and of each host call's arguments, in bytes.
    pub output_bytes: usize,
    /// Log lines kept of one call, in bytes.
    pub log_bytes: usize,
    /// CPU time of a call that is not a tool call or a delivery.
    pub cpu: Duration,
    /// Wall time of such a call, waiting included.
    pub wall: Duration,
    /// CPU time of a tool call or a delivery.
    pub tool_cpu: Duration,
    /// Wall time of a tool call or a delivery, waiting included.
    pub tool_wall: Duration,
    /// Calls in flight at a time.
    pub concurrency: usize,
    /// Outgoing requests of one call.
    pub egress_requests: u32,
    /// Size of one egress response as the plugin sees it, in bytes.
    pub egress_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A Python guest needs 13 MB; the shipped plugins stay under 2 MiB.
            memory_bytes: 64 << 20,
            // A mapper's result is the parameters of one run.
            output_bytes: 4 << 20,
            log_bytes: 16 << 10,
            // A mapping takes microseconds. The slack is for machines that stall, not for guests.
            cpu: Duration::from_millis(200),
            wall: Duration::from_secs(1),
            tool_cpu: Duration::from_secs(2),
            tool_wall: Duration::from_secs(30),
            // A quarter of the slots of its kind, and half of what a lone tenant gets: one plugin cannot take what
            // the other plugins of its tenant need.
            concurrency: 32,
            egress_requests: 16,
            egress_bytes: 1 << 20,
        }
    }
}

impl Limits {
    /// CPU time and wall time of a call on this lane.
    pub(super) fn durations(&self, lane: Lane) -> (Duration, Duration) {
        match lane {
            Lane::Default => (self.cpu, self.wall),
            Lane::Tools => (self.tool_cpu, self.tool_wall),
        }
    }

    /// The lower of each pair of limits.
    #[must_use]
    pub(super) fn min(&self, other: &Self) -> Self {
        Self {
            memory_bytes: self.memory_bytes.min(other.memory_bytes),
            output_bytes: self.output_bytes.min(other.output_bytes),
            log_bytes: self.log_bytes.min(other.log_bytes),
            cpu: self.cpu.min(other.cpu),
            wall: self.wall.min(other.wall),
            tool_cpu: self.tool_cpu.min(other.tool_cpu),
            tool_wall: self.tool_wall.min(other.tool_wall),
            concurrency: self.concurrency.min(other.concurrency),
            egress_requests: self.egress_requests.min(other.egress_requests),
            egress_bytes: self.egress_bytes.min(other.egress_bytes),
        }
    }
}

/// The `[limits]` table of a grants file: only what differs from the default.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LimitsFile {
    memory_mib: Option<usize>,
    output_bytes: Option<usize>,
    log_bytes: Option<usize>,
    cpu_ms: Option<u64>,
    wall_ms: Option<u64>,
    tool_cpu_ms: Option<u64>,
    tool_wall_ms: Option<u64>,
    concurrency: Option<usize>,
    egress_requests: Option<u32>,
    egress_bytes: Option<usize>,
}

impl LimitsFile {
    /// The limits of the file, with the default for each that it does not set.
    #[must_use]
    pub(super) fn resolve(&self) -> Limits {
        let default = Limits::default();
        let ms = |ms: Option<u64>, or: Duration| ms.map_or(or, Duration::from_millis);
        Limits {
            memory_bytes: self
                .memory_mib
                .map_or(default.memory_bytes, |mib| mib.saturating_mul(1 << 20)),
            output_bytes: self.output_bytes.unwrap_or(default.output_bytes),
            log_bytes: self.log_bytes.unwrap_or(default.log_bytes),
            cpu: ms(self.cpu_ms, default.cpu),
            wall: ms(self.wall_ms, default.wall),
            tool_cpu: ms(self.tool_cpu_ms, default.tool_cpu),
            tool_wall: ms(self.tool_wall_ms, default.tool_wall),
            concurrency: self.concurrency.unwrap_or(default.concurrency).clamp(1, CONCURRENCY_MAX),
            egress_requests: self.egress_requests.unwrap_or(default.egress_requests),
            egress_bytes: self.egress_bytes.unwrap_or(default.egress_bytes),
        }
    }
}

/// Counts a store's memory against its own limit and its tenant's quota.
#[derive(Debug)]
pub(super) struct Limiter {
    memory_bytes_max: usize,
    linear_bytes: usize,
    /// Linear memory, and host memory charged to the call.
    held: MemoryReservation,
    /// The last refused growth, in bytes or elements, and why it was refused.
    refused: Option<(usize, Refusal)>,
}

impl Limiter {
    pub(super) fn new(memory_bytes_max: usize, held: MemoryReservation) -> Self {
        Self { memory_bytes_max, linear_bytes: 0, held, refused: None }
    }

    /// Charges memory to the call's tenant until the call is over: the call's own memory, or host memory that it
    /// makes grow.
    ///
    /// # Errors
    /// If there is not enough memory left. The [`Shortage`] says whether the tenant's quota or the gateway's is
    /// used up, and a call that ends by a trap afterwards is refused with it.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), Shortage> {
        let taken = self.held.take(bytes);
        if let Err(shortage) = taken {
            self.refused = Some((bytes, Refusal::Busy(shortage)));
        }
        taken
    }

    /// Peak memory of the call, in bytes: linear memories do not shrink. Includes host memory charged to the call.
    pub(super) fn memory_bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Why a growth was refused, unless the guest later got as much. A guest that ends by a trap is refused with
    /// this reason.
    pub(super) fn refused(&self) -> Option<Refusal> {
        self.refused.as_ref().map(|(_, refusal)| refusal.clone())
    }

    fn out_of_memory(&mut self, growth: usize) {
        let granted_bytes = self.memory_bytes_max;
        self.refused = Some((growth, Refusal::OutOfMemory { granted_bytes }));
    }
}

impl ResourceLimiter for Limiter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // `current` is the size of this memory, which is already counted; a component may have several.
        let growth = desired.saturating_sub(current);
        let total = self.linear_bytes.saturating_add(growth);
        if total > self.memory_bytes_max || maximum.is_some_and(|max| desired > max) {
            self.out_of_memory(growth);
            return Ok(false);
        }
        // A shortage is not this call's fault: other calls hold the memory, and will release it.
        let taken = self.charge(growth);
        if taken.is_ok() {
            self.linear_bytes = total;
            // The guest got as much as it had been refused before, and went on.
            self.refused.take_if(|(refused, _)| *refused <= growth);
        }
        Ok(taken.is_ok())
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.out_of_memory(0);
        Ok(())
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let allowed = desired <= TABLE_ELEMENTS_MAX && maximum.is_none_or(|max| desired <= max);
        if !allowed {
            let granted = TABLE_ELEMENTS_MAX;
            self.refused = Some((desired, Refusal::TooMany { what: "table elements", granted }));
        }
        Ok(allowed)
    }
}
