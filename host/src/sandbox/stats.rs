//! Statistics of one plugin of one tenant over all its calls: how many there were, what they cost, whether they are
//! brief, and, in the circuit breaker, whether the plugin is quarantined. They survive changes of the plugin's
//! version and grants.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::breaker::{BreakerPermit, CircuitBreaker, Open, Quarantine, QuarantineSettings};
use super::refusal::{PluginError, Refusal};
use super::slow_lane::Lane;
use crate::clock::Clock;
use crate::fault::Fault;
pub use crate::trace::Cost;

/// The statistics of one plugin of one tenant.
#[derive(Debug, Default)]
pub struct PluginStats {
    answered: AtomicU64,
    failed: AtomicU64,
    refused: [AtomicU64; Refusal::CODES.len()],
    micros: AtomicU64,
    cpu_micros: AtomicU64,
    memory_bytes_peak: AtomicU64,
    egress_counted: AtomicU64,
    in_flight: AtomicU64,
    /// For each lane, how many calls must still be brief before calls start inline again. 0: they do.
    probation_calls: [AtomicU32; 2],
    breaker: CircuitBreaker,
}

/// Brief calls that a plugin must make after a long one before its calls start on callers' threads again. A plugin
/// that has a long call whenever its probation ends costs callers' threads one tick per this many calls, and one tick
/// for each call that had started inline before the first one was found to be long.
const PROBATION_CALLS: u32 = 32;

/// The counters at one moment, for metrics and for the admin API.
#[derive(Debug, Clone, Default)]
pub struct StatsSnapshot {
    /// Calls that returned a value.
    pub answered: u64,
    /// Calls in which the plugin returned a failure.
    pub failed: u64,
    /// Calls that the host ended or did not start, by code, in the order of [`Refusal::CODES`].
    pub refused: Vec<(&'static str, u64)>,
    /// Sum of [`Cost::micros`].
    pub micros: u64,
    /// Sum of [`Cost::cpu_micros`].
    pub cpu_micros: u64,
    /// The largest [`Cost::memory_bytes`].
    pub memory_bytes_peak: u64,
    /// Outgoing requests that no rule allows, sent because the operator's egress mode only counts them.
    pub egress_counted: u64,
    /// Calls in flight.
    pub in_flight: u64,
    /// Why and until when the plugin is quarantined, if it is.
    pub quarantine: Option<Quarantine>,
}

/// An admitted call. Dropped when the call ends, however it ends.
#[derive(Debug)]
pub(super) struct Admission<'a> {
    stats: &'a PluginStats,
    _permit: BreakerPermit<'a>,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.stats.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PluginStats {
    /// Admits a call, unless the plugin is quarantined.
    pub(super) fn admit(&self, clock: &Clock) -> Result<Admission<'_>, Refusal> {
        let permit = self.breaker.admit(clock).map_err(|open| self.quarantined(open))?;
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Admission { stats: self, _permit: permit })
    }

    /// Checks whether [`PluginStats::admit`] would refuse a call now, without admitting one.
    pub(super) fn check_admission(&self, clock: &Clock) -> Result<(), Refusal> {
        self.breaker.check(clock).map_err(|open| self.quarantined(open))
    }

    /// Counts and returns the refusal of a call to a quarantined plugin.
    fn quarantined(&self, open: Open) -> Refusal {
        let retry_after_ms = u64::try_from(open.retry_after.as_millis()).unwrap_or(u64::MAX);
        let refusal =
            Refusal::Quarantined { reason: open.reason, retry_after_ms: retry_after_ms.max(1_000) };
        self.count_refusal(&refusal);
        refusal
    }

    /// Records the result and the cost of a call.
    pub(super) fn record<T>(
        &self,
        value: &Result<T, PluginError>,
        cost: Cost,
        settings: QuarantineSettings,
        clock: &Clock,
    ) {
        self.micros.fetch_add(cost.micros, Ordering::Relaxed);
        self.cpu_micros.fetch_add(cost.cpu_micros, Ordering::Relaxed);
        self.memory_bytes_peak.fetch_max(cost.memory_bytes, Ordering::Relaxed);
        match value {
            Ok(_) => self.answered.fetch_add(1, Ordering::Relaxed),
            Err(PluginError::Failure(_)) => self.failed.fetch_add(1, Ordering::Relaxed),
            Err(PluginError::Refusal(refusal)) => {
                self.count_refusal(refusal);
                if refusal.fault() == Fault::Guest {
                    self.breaker.fail(|| refusal.to_string(), settings, clock);
                }
                // A refusal that is not the guest's fault says nothing about the plugin, so the breaker ignores it.
                return;
            }
        };
        self.breaker.succeed();
    }

    /// Whether calls of this lane may start on the caller's thread, since the plugin's recent ones were brief.
    pub(super) fn may_run_inline(&self, lane: Lane) -> bool {
        self.probation_calls(lane).load(Ordering::Relaxed) == 0
    }

    /// Puts the lane's calls on probation: one has computed for longer at a stretch than a brief call does.
    pub(super) fn mark_slow(&self, lane: Lane) {
        self.probation_calls(lane).store(PROBATION_CALLS, Ordering::Relaxed);
    }

    /// Counts a brief call of a plugin on probation.
    pub(super) fn mark_fast(&self, lane: Lane) {
        let less = |left: u32| left.checked_sub(1);
        // The update fails if the probation has ended, which is fine.
        let left = self.probation_calls(lane);
        let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn probation_calls(&self, lane: Lane) -> &AtomicU32 {
        let [default, tools] = &self.probation_calls;
        match lane {
            Lane::Default => default,
            Lane::Tools => tools,
        }
    }

    /// Counts an outgoing request that was sent although no rule allows it.
    pub(super) fn count_egress(&self) {
        self.egress_counted.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends probation and quarantine: the version or the grants have changed, or an operator asks for it.
    pub fn release(&self) {
        for left in &self.probation_calls {
            left.store(0, Ordering::Relaxed);
        }
        self.breaker.close();
    }

    /// The current values.
    #[must_use]
    pub fn snapshot(&self) -> StatsSnapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        StatsSnapshot {
            answered: read(&self.answered),
            failed: read(&self.failed),
            refused: Refusal::CODES.into_iter().zip(self.refused.iter().map(read)).collect(),
            micros: read(&self.micros),
            cpu_micros: read(&self.cpu_micros),
            memory_bytes_peak: read(&self.memory_bytes_peak),
            egress_counted: read(&self.egress_counted),
            in_flight: read(&self.in_flight),
            quarantine: self.breaker.quarantine(),
        }
    }

    fn count_refusal(&self, refusal: &Refusal) {
        let code = refusal.code();
        let index = Refusal::CODES.into_iter().position(|known| known == code);
        if let Some(counter) = index.and_then(|index| self.refused.get(index)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
