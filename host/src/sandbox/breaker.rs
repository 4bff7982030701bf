//! A circuit breaker for one plugin.
//!
//! After a number of consecutive failures the breaker opens, and calls are refused at once instead of each using up
//! its limits. After a pause it is half open and admits one call as a probe. If the probe succeeds the breaker
//! closes; if it fails the pause doubles.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::{Clock, Timestamp};

/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// When a plugin is quarantined.
#[derive(Debug, Clone, Copy)]
pub struct QuarantineSettings {
    /// Consecutive failures of the plugin's own that open the breaker.
    pub failures_max: u64,
    /// The first pause.
    pub pause: Duration,
}

/// The state of a quarantined plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quarantine {
    /// The plugin's last failure.
    pub reason: String,
    /// When a call is next admitted.
    pub until: Timestamp,
}

/// The circuit breaker of one plugin of one tenant.
#[derive(Debug, Default)]
pub(super) struct CircuitBreaker {
    failures_in_a_row: AtomicU64,
    /// When a probe may be admitted, in microseconds since the epoch. 0 means closed.
    open_until_micros: AtomicI64,
    probing: AtomicBool,
    state: Mutex<BreakerState>,
}

#[derive(Debug, Default)]
struct BreakerState {
    pause: Duration,
    reason: String,
}

/// An admitted call. It is dropped when the call has ended, whatever the outcome.
#[derive(Debug)]
pub(super) struct BreakerPermit<'a> {
    breaker: &'a CircuitBreaker,
    is_probe: bool,
}

impl Drop for BreakerPermit<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.probing.store(false, Ordering::Release);
        }
    }
}

/// The breaker is open.
#[derive(Debug)]
pub(super) struct Open {
    /// The last failure.
    pub(super) reason: String,
    /// Time until a call is next admitted.
    pub(super) retry_after: Duration,
}

impl CircuitBreaker {
    /// Admits a call unless the breaker is open. Once the pause is over, one call at a time is admitted as a probe.
    pub(super) fn admit(&self, clock: &Clock) -> Result<BreakerPermit<'_>, Open> {
        let open_until = self.open_until_micros.load(Ordering::Acquire);
        let is_probe = open_until != 0;
        if is_probe {
            let now = clock.now().micros();
            let is_first = now >= open_until && !self.probing.swap(true, Ordering::AcqRel);
            if !is_first {
                return Err(self.open(open_until, now));
            }
        }
        Ok(BreakerPermit { breaker: self, is_probe })
    }

    /// Refuses what [`CircuitBreaker::admit`] would refuse now, without admitting a call.
    pub(super) fn check(&self, clock: &Clock) -> Result<(), Open> {
        let open_until = self.open_until_micros.load(Ordering::Acquire);
        if open_until == 0 {
            return Ok(());
        }
        let now = clock.now().micros();
        if now >= open_until && !self.probing.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(self.open(open_until, now))
    }

    fn open(&self, open_until: i64, now: i64) -> Open {
        let micros = u64::try_from(open_until.saturating_sub(now)).unwrap_or_default();
        Open { reason: self.state().reason.clone(), retry_after: Duration::from_micros(micros) }
    }

    /// Records a successful call.
    pub(super) fn succeed(&self) {
        // Read before write: most plugins are healthy, and all their calls share this counter.
        if self.failures_in_a_row.load(Ordering::Relaxed) != 0 {
            self.close();
        }
    }

    /// Records a failed call and its reason.
    pub(super) fn fail(
        &self,
        reason: impl FnOnce() -> String,
        settings: QuarantineSettings,
        clock: &Clock,
    ) {
        let failures = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if failures < settings.failures_max {
            return;
        }
        let mut state = self.state();
        let open_until = self.open_until_micros.load(Ordering::Acquire);
        let now = clock.now();
        // A call that was in flight when the breaker opened and fails afterwards does not extend the pause.
        if open_until != 0 && now.micros() < open_until {
            return;
        }
        state.pause = match state.pause {
            Duration::ZERO => settings.pause,
            pause => pause.saturating_mul(2).min(PAUSE_MAX),
        };
        state.reason = reason();
        let pause = state.pause;
        // At least 1, since 0 means closed. With a pause of zero the next call is admitted as a probe.
        self.open_until_micros.store(now.plus(pause).micros().max(1), Ordering::Release);
    }

    /// Closes the breaker and resets its failures.
    pub(super) fn close(&self) {
        self.failures_in_a_row.store(0, Ordering::Relaxed);
        self.state().pause = Duration::ZERO;
        self.open_until_micros.store(0, Ordering::Release);
    }

    /// Why the breaker is open and until when; `None` if it is closed.
    pub(super) fn quarantine(&self) -> Option<Quarantine> {
        let open_until = self.open_until_micros.load(Ordering::Acquire);
        (open_until != 0).then(|| Quarantine {
            reason: self.state().reason.clone(),
            until: Timestamp::from_micros(open_until),
        })
    }

    fn state(&self) -> MutexGuard<'_, BreakerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
