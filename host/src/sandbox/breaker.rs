//! A circuit breaker: after so many failures in a row it is open, and its calls are refused at once, instead of each
//! of them using up its limits. After a pause it is half open: one call is let through. If that goes well it closes,
//! and if not the pause doubles.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Timestamp};

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// When a plugin is cut off.
#[derive(Debug, Clone, Copy)]
pub struct QuarantineSettings {
    /// After this many failures of its own in a row.
    pub after: u64,
    /// For this long at first.
    pub pause: Duration,
}

/// A plugin that is cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// What its last failure was.
    pub reason: String,
    /// When one call is let through.
    pub until: Timestamp,
}

/// The breaker of one plugin of one tenant.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker {
    failures_in_a_row: AtomicU64,
    /// When a call may be tried again, in microseconds since the epoch. 0: it is closed.
    until: AtomicI64,
    probing: AtomicBool,
    state: Mutex<BreakerState>,
}

#[derive(Debug, Default)]
struct BreakerState {
    pause: Duration,
    reason: String,
}

/// A call that is let through. Dropped when it has ended, however it did.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    breaker: &'a CircuitBreaker,
    is_probe: bool,
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.probing.store(false, Ordering::Release);
        }
    }
}

/// The breaker is open.
#[derive(Debug)]
pub(super) struct Open {
    /// What the last failure was.
    pub(super) reason: String,
    /// When a call is let through, from now.
    pub(super) left: Duration,
}

impl CircuitBreaker {
    /// Lets a call through, unless the breaker is open.
    pub(super) fn pass(&self, clock: &Clock) -> Result<Pass<'_>, Open> {
        let until = self.until.load(Ordering::Acquire);
        let is_probe = until != 0;
        if is_probe {
            let now = clock.now().micros();
            let is_first = now >= until && !self.probing.swap(true, Ordering::AcqRel);
            if !is_first {
                return Err(self.open(until, now));
            }
        }
        Ok(Pass { breaker: self, is_probe })
    }

    /// Refuses what [`CircuitBreaker::pass`] would refuse now, and lets nothing through.
    pub(super) fn check(&self, clock: &Clock) -> Result<(), Open> {
        let until = self.until.load(Ordering::Acquire);
        if until == 0 {
            return Ok(());
        }
        let now = clock.now().micros();
        if now >= until && !self.probing.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self.open(until, now))
    }

    fn open(&self, until: i64, now: i64) -> Open {
        let micros = u64::try_from(until.saturating_sub(now)).unwrap_or_default();
        Open { reason: self.state().reason.clone(), left: Duration::from_micros(micros) }
    }

    /// A call went well.
    pub(super) fn succeed(&self) {
        // Read before written: most plugins are well, and all their calls share this word.
        if self.failures_in_a_row.load(Ordering::Relaxed) != 0 {
            self.close();
        }
    }

    /// A call failed, for this reason.
    pub(super) fn fail(
        &self,
        reason: impl FnOnce() -> String,
        settings: QuarantineSettings,
        clock: &Clock,
    ) {
        let failures = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < settings.after {
            return;
        }
        let mut state = self.state();
        let until = self.until.load(Ordering::Acquire);
        let now = clock.now();
        // Calls that were under way when it opened fail after that and are no news.
        if until != 0 && now.micros() < until {
            return;
        }
        state.pause = match state.pause {
            Duration::ZERO => settings.pause,
            pause => pause.saturating_mul(2).min(PAUSE_MAX),
        };
        state.reason = reason();
        let pause = state.pause;
        // A pause of nothing opens nothing, and 0 means that it is closed.
        self.until.store(now.plus(pause).micros().max(1), Ordering::Release);
    }

    /// Closes it, whatever failed before.
    pub(super) fn close(&self) {
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        self.state().pause = Duration::ZERO;
        self.until.store(0, Ordering::Release);
    }

    /// Why it is open and until when, where it is.
    pub(super) fn quarantine(&self) -> Option<Quarantine> {
        let until = self.until.load(Ordering::Acquire);
        (until != 0).then(|| Quarantine {
            reason: self.state().reason.clone(),
            until: Timestamp::from_micros(until),
        })
    }

    fn state(&self) -> MutexGuard<'_, BreakerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
