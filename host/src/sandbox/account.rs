//! What is known of one plugin of one tenant over all its calls: how many there were, what they cost, and
//! whether it has failed so often that it is cut off. Kept while its versions and grants change.
//!
//! A plugin that keeps failing is quarantined: its calls are refused at once, instead of each of them
//! using up its limits. After a pause one call is let through; if it goes well the plugin is back, and if
//! not the pause doubles.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::refusal::{PluginError, Refusal};
use super::slow_lane::Lane;
use crate::clock::{Clock, Timestamp};
use crate::fault::Fault;
pub use crate::trace::Cost;

/// The longest pause of a plugin that does not get better.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// When a plugin is cut off.
#[derive(Debug, Clone, Copy)]
pub struct QuarantineSettings {
    /// After this many failures of its own in a row.
    pub after: u64,
    /// For this long at first.
    pub pause: Duration,
}

/// The account of one plugin of one tenant.
#[derive(Debug, Default)]
pub struct Account {
    answered: AtomicU64,
    failed: AtomicU64,
    refused: [AtomicU64; Refusal::CODES.len()],
    micros: AtomicU64,
    cpu_micros: AtomicU64,
    memory_bytes_peak: AtomicU64,
    egress_counted: AtomicU64,
    in_flight: AtomicU64,
    failures_in_a_row: AtomicU64,
    /// Calls that have to be brief before the plugin is taken for a brief one again, of those that take long
    /// on either lane. 0: it is one.
    brief_calls_owed: [AtomicU32; 2],
    /// When a call may be tried again, in microseconds since the epoch. 0: it is not in quarantine.
    until: AtomicI64,
    probing: AtomicBool,
    standing: Mutex<Standing>,
}

#[derive(Debug, Default)]
struct Standing {
    pause: Duration,
    reason: String,
}

/// How many brief calls make up for one that was long. A plugin that is long whenever it is trusted again
/// takes a tick of callers' threads for each of these; and one for each call that was begun before the first
/// of them was found to be long.
const BRIEF_CALLS_OWED: u32 = 32;

/// What an account holds, for metrics and for the admin API.
#[derive(Debug, Clone, Default)]
pub struct Statement {
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

/// A plugin that is cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// What its last failure was.
    pub reason: String,
    /// When one call is let through.
    pub until: Timestamp,
}

/// A call that was let in. Dropped when it has ended, however it did.
#[derive(Debug)]
pub(super) struct Admission<'a> {
    account: &'a Account,
    probe: bool,
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        self.account.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.probe {
            self.account.probing.store(false, Ordering::Release);
        }
    }
}

impl Account {
    /// Lets a call in, unless the plugin is cut off.
    pub(super) fn admit(&self, clock: &Clock) -> Result<Admission<'_>, Refusal> {
        let until = self.until.load(Ordering::Acquire);
        let probe = until != 0;
        if probe {
            let now = clock.now().micros();
            let first = now >= until && !self.probing.swap(true, Ordering::AcqRel);
            if !first {
                return Err(self.cut_off(until, now));
            }
        }
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Admission { account: self, probe })
    }

    /// Refuses what [`Account::admit`] would refuse now, and lets nothing in.
    pub(super) fn check_admission(&self, clock: &Clock) -> Result<(), Refusal> {
        let until = self.until.load(Ordering::Acquire);
        if until == 0 {
            return Ok(());
        }
        let now = clock.now().micros();
        if now >= until && !self.probing.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self.cut_off(until, now))
    }

    /// The refusal of a call while the plugin is cut off; it is counted.
    fn cut_off(&self, until: i64, now: i64) -> Refusal {
        let reason = self.standing().reason.clone();
        let left = u64::try_from(until.saturating_sub(now)).unwrap_or_default() / 1_000;
        let refusal = Refusal::Quarantined { reason, retry_after_ms: left.max(1_000) };
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
                    self.count_failure(refusal, settings, clock);
                }
                // What is our own fault or shortage says nothing of the plugin.
                return;
            }
        };
        // Read before written: most plugins are well, and all their calls share this word.
        if self.failures_in_a_row.load(Ordering::Relaxed) != 0 {
            self.end_quarantine();
        }
    }

    /// Whether its calls of this kind are brief: they may begin on the caller's own thread then.
    pub(super) fn is_brief(&self, lane: Lane) -> bool {
        self.brief_calls_owed(lane).load(Ordering::Relaxed) == 0
    }

    /// Notes that a call has computed for longer at a stretch than a brief one does.
    pub(super) fn was_long(&self, lane: Lane) {
        self.brief_calls_owed(lane).store(BRIEF_CALLS_OWED, Ordering::Relaxed);
    }

    /// Notes that a call did not, of a plugin that was not brief before.
    pub(super) fn was_brief(&self, lane: Lane) {
        let less = |owed: u32| owed.checked_sub(1);
        // None owed is as good.
        let owed = self.brief_calls_owed(lane);
        let _ = owed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    fn brief_calls_owed(&self, lane: Lane) -> &AtomicU32 {
        let [overtime, tools] = &self.brief_calls_owed;
        match lane {
            Lane::Overtime => overtime,
            Lane::Tools => tools,
        }
    }

    /// Counts an outgoing request that was sent though no rule allows it.
    pub(super) fn count_egress(&self) {
        self.egress_counted.fetch_add(1, Ordering::Relaxed);
    }

    /// Trusts it again: its version or grants have changed, or an operator says so.
    pub fn release(&self) {
        for owed in &self.brief_calls_owed {
            owed.store(0, Ordering::Relaxed);
        }
        self.end_quarantine();
    }

    fn end_quarantine(&self) {
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        self.standing().pause = Duration::ZERO;
        self.until.store(0, Ordering::Release);
    }

    /// What the account holds.
    #[must_use]
    pub fn statement(&self) -> Statement {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let until = self.until.load(Ordering::Acquire);
        let quarantine = (until != 0).then(|| Quarantine {
            reason: self.standing().reason.clone(),
            until: Timestamp::from_micros(until),
        });
        Statement {
            answered: read(&self.answered),
            failed: read(&self.failed),
            refused: Refusal::CODES.into_iter().zip(self.refused.iter().map(read)).collect(),
            micros: read(&self.micros),
            cpu_micros: read(&self.cpu_micros),
            memory_bytes_peak: read(&self.memory_bytes_peak),
            egress_counted: read(&self.egress_counted),
            in_flight: read(&self.in_flight),
            quarantine,
        }
    }

    fn count_refusal(&self, refusal: &Refusal) {
        let code = refusal.code();
        let place = Refusal::CODES.into_iter().position(|known| known == code);
        if let Some(counter) = place.and_then(|place| self.refused.get(place)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count_failure(&self, refusal: &Refusal, settings: QuarantineSettings, clock: &Clock) {
        let failures = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < settings.after {
            return;
        }
        let mut standing = self.standing();
        let until = self.until.load(Ordering::Acquire);
        let now = clock.now();
        // Calls that were under way when it was cut off fail after that and are no news.
        if until != 0 && now.micros() < until {
            return;
        }
        standing.pause = match standing.pause {
            Duration::ZERO => settings.pause,
            pause => pause.saturating_mul(2).min(PAUSE_MAX),
        };
        standing.reason = refusal.to_string();
        let pause = standing.pause;
        // A pause of nothing is no quarantine, and 0 means that there is none.
        self.until.store(now.plus(pause).micros().max(1), Ordering::Release);
    }

    fn standing(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
