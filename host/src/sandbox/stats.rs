//! What is known of one plugin of one tenant over all its calls: how many there were, what they cost, whether they
//! are brief, and, in its circuit breaker, whether it has failed so often that it is quarantined. Kept while its
//! versions and grants change.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::breaker::{CircuitBreaker, Open, Pass, Quarantine, QuarantineSettings};
use super::refusal::{PluginError, Refusal};
use super::slow_lane::Lane;
use crate::clock::Clock;
use crate::fault::Fault;
pub use crate::trace::Cost;

/// The counters of one plugin of one tenant.
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
    /// Calls that have to be brief before the plugin is taken for a brief one again, of those that take long
    /// on either lane. 0: it is one.
    probation_calls: [AtomicU32; 2],
    breaker: CircuitBreaker,
}

/// How many brief calls make up for one that was long. A plugin that is long whenever it is trusted again
/// takes a tick of callers' threads for each of these; and one for each call that was begun before the first
/// of them was found to be long.
const PROBATION_CALLS: u32 = 32;

/// The counters at one moment, for metrics and for the admin API.
#[derive(Debug, Clone, Default)]
pub struct StatsSnapshot {
    /// Calls that gave a value.
    pub answered: u64,
    /// Calls in which the plugin said no.
    pub failed: u64,
    /// Calls that the host ended or did not begin, by [`Refusal::CODES`].
    pub refused: Vec<(&'static str, u64)>,
    /// Sum of [`Cost::micros`].
    pub micros: u64,
    /// Sum of [`Cost::cpu_micros`].
    pub cpu_micros: u64,
    /// The largest [`Cost::memory_bytes`].
    pub memory_bytes_peak: u64,
    /// Outgoing requests that no rule allows, sent because the operator only counts them.
    pub egress_counted: u64,
    /// Calls in flight.
    pub in_flight: u64,
    /// Why it is cut off and until when, where it is.
    pub quarantine: Option<Quarantine>,
}

/// A call that is admitted. Dropped when it has ended, however it did.
#[derive(Debug)]
pub(super) struct Admission<'a> {
    stats: &'a PluginStats,
    _pass: Pass<'a>,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.stats.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PluginStats {
    /// Admits a call, unless the plugin is quarantined.
    pub(super) fn admit(&self, clock: &Clock) -> Result<Admission<'_>, Refusal> {
        let pass = self.breaker.pass(clock).map_err(|open| self.quarantined(open))?;
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Admission { stats: self, _pass: pass })
    }

    /// Refuses what [`PluginStats::admit`] would refuse now, and admits nothing.
    pub(super) fn check_admission(&self, clock: &Clock) -> Result<(), Refusal> {
        self.breaker.check(clock).map_err(|open| self.quarantined(open))
    }

    /// The refusal of a call while the plugin is quarantined; it is counted.
    fn quarantined(&self, open: Open) -> Refusal {
        let left = u64::try_from(open.left.as_millis()).unwrap_or(u64::MAX);
        let refusal = Refusal::Quarantined { reason: open.reason, retry_after_ms: left.max(1_000) };
        self.count_refusal(&refusal);
        refusal
    }

    /// Counts a call that was let in.
    pub(super) fn settle<T>(
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
                // What is our own fault or shortage says nothing of the plugin.
                return;
            }
        };
        self.breaker.succeed();
    }

    /// Whether its calls of this kind are brief: they may begin on the caller's own thread then.
    pub(super) fn may_run_inline(&self, lane: Lane) -> bool {
        self.probation_calls(lane).load(Ordering::Relaxed) == 0
    }

    /// Notes that a call has computed for longer at a stretch than a brief one does.
    pub(super) fn mark_slow(&self, lane: Lane) {
        self.probation_calls(lane).store(PROBATION_CALLS, Ordering::Relaxed);
    }

    /// Notes that a call did not, of a plugin that was not brief before.
    pub(super) fn mark_fast(&self, lane: Lane) {
        let less = |left: u32| left.checked_sub(1);
        // None left is as good.
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

    /// Counts an outgoing request that was sent though no rule allows it.
    pub(super) fn count_egress(&self) {
        self.egress_counted.fetch_add(1, Ordering::Relaxed);
    }

    /// Trusts it again: its version or grants have changed, or an operator says so.
    pub fn release(&self) {
        for left in &self.probation_calls {
            left.store(0, Ordering::Relaxed);
        }
        self.breaker.close();
    }

    /// What they are now.
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
        let place = Refusal::CODES.into_iter().position(|known| known == code);
        if let Some(counter) = place.and_then(|place| self.refused.get(place)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
