//! What one call of a plugin may use. Every number is enforced; a refused growth is remembered, since
//! to the guest's own code it looks like any other crash.

use std::time::Duration;

use serde::Deserialize;
use wasmtime::ResourceLimiter;

use super::quota::MemoryReservation;
use super::refusal::{Refusal, Shortage};
use super::slow_lane::Lane;

/// Largest table of a plugin, in elements. Python guests have the largest seen, 7,689.
const TABLE_ELEMENTS_MAX: usize = 20_000;

/// More calls in flight than any pool has slots.
const CONCURRENCY_MAX: usize = 100_000;

/// Limits of a binding. The operator's file may lower or raise each of them up to the engine's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Linear memory in bytes, of all memories together.
    pub memory_bytes: usize,
    /// Bytes that one call may hand over: its result, and each host call's arguments.
    pub output_bytes: usize,
    /// Bytes of log lines that are kept of one call.
    pub log_bytes: usize,
    /// Computing time of a mapper, getter or verifier.
    pub cpu: Duration,
    /// All of its time, waiting included.
    pub wall: Duration,
    /// Computing time of a tool or a reply.
    pub tool_cpu: Duration,
    /// All of its time, waiting included.
    pub tool_wall: Duration,
    /// Calls in flight.
    pub concurrency: usize,
    /// Egress requests of one call.
    pub egress_requests: u32,
    /// Bytes of one egress answer that the plugin gets to see.
    pub egress_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // A Python guest needs 13 MB; the shipped plugins stay under 2 MiB.
            memory_bytes: 64 << 20,
            // A mapper's answer is the parameters of one run.
            output_bytes: 4 << 20,
            log_bytes: 16 << 10,
            // A mapping takes microseconds. The slack is for machines that stall, not for guests.
            cpu: Duration::from_millis(200),
            wall: Duration::from_secs(1),
            tool_cpu: Duration::from_secs(2),
            tool_wall: Duration::from_secs(30),
            // A quarter of the slots of its kind, half of what a tenant gets that is alone: one plugin cannot take
            // what the others of its tenant need.
            concurrency: 32,
            egress_requests: 16,
            egress_bytes: 1 << 20,
        }
    }
}

impl Limits {
    /// Computing time, and all of the time, of calls that take long on this lane.
    pub(super) fn times(&self, lane: Lane) -> (Duration, Duration) {
        match lane {
            Lane::Default => (self.cpu, self.wall),
            Lane::Tools => (self.tool_cpu, self.tool_wall),
        }
    }

    /// Of each limit the lower one.
    #[must_use]
    pub(super) fn at_most(&self, other: &Self) -> Self {
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
    /// These limits, the default where the file says nothing.
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

/// Counts a store's memory against its limit, and against its tenant's.
#[derive(Debug)]
pub(super) struct Limiter {
    memory_bytes_max: usize,
    linear_bytes: usize,
    /// Linear memory and memory of the host.
    held: MemoryReservation,
    /// The growth that was refused last, in bytes or elements, and why.
    refused: Option<(usize, Refusal)>,
}

impl Limiter {
    pub(super) fn new(memory_bytes_max: usize, held: MemoryReservation) -> Self {
        Self { memory_bytes_max, linear_bytes: 0, held, refused: None }
    }

    /// Charges memory to the call's tenant, which is given back when the call is over: its own, or memory of
    /// the host that it makes grow.
    ///
    /// # Errors
    /// Who holds what there is; the call ends with that.
    pub(super) fn charge(&mut self, bytes: usize) -> Result<(), Shortage> {
        let taken = self.held.take(bytes);
        if let Err(shortage) = taken {
            self.refused = Some((bytes, Refusal::Busy(shortage)));
        }
        taken
    }

    /// Memory of the call at its largest, in bytes: linear memories do not shrink. Memory of the host that it
    /// made grow is in it.
    pub(super) fn memory_bytes(&self) -> usize {
        self.held.bytes()
    }

    /// Why a growth was refused during this call, where the guest did not get as much later: a guest that
    /// ends by a trap then ends by this.
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
        // `current` is this memory's size, counted before; a component may have several.
        let growth = desired.saturating_sub(current);
        let total = self.linear_bytes.saturating_add(growth);
        if total > self.memory_bytes_max || maximum.is_some_and(|max| desired > max) {
            self.out_of_memory(growth);
            return Ok(false);
        }
        // Where there is none it is not this call's fault: others hold it, and will give it back.
        let taken = self.charge(growth);
        if taken.is_ok() {
            self.linear_bytes = total;
            // It came by what it was refused before, and went on.
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
