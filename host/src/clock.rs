//! The clock: the system's, or one that tests move by hand.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Microseconds since the Unix epoch, UTC: the timestamps in the store and in responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The timestamp this many microseconds after the Unix epoch.
    #[must_use]
    pub fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// The day that it is part of.
    #[must_use]
    pub fn day(self) -> Day {
        Day(self.seconds().div_euclid(86_400))
    }

    /// This timestamp plus a duration. Saturates.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// This timestamp minus a duration. Saturates.
    #[must_use]
    pub fn minus(self, duration: Duration) -> Self {
        let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(self.0.saturating_sub(micros))
    }

    /// Parses an RFC 3339 timestamp. `None` if the text is not one.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let timestamp = chrono::DateTime::parse_from_rfc3339(text).ok()?;
        Some(Self(timestamp.timestamp_micros()))
    }

    /// ISO 8601 with microseconds and the offset `+00:00` (CONTRACT X20).
    #[must_use]
    pub fn iso(self) -> String {
        chrono::DateTime::from_timestamp_micros(self.0)
            .unwrap_or_default()
            .format("%Y-%m-%dT%H:%M:%S%.6f+00:00")
            .to_string()
    }
}

/// A day, UTC: the number of days since 1970-01-01.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub i64);

impl std::fmt::Display for Day {
    /// As in `2026-01-29`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = chrono::DateTime::from_timestamp(self.0.saturating_mul(86_400), 0);
        write!(f, "{}", start.unwrap_or_default().format("%Y-%m-%d"))
    }
}

/// A source of time. Clones are handles to the same clock.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    System,
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still at `start` until [`Clock::advance`] or [`Clock::set`] moves it.
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self(Source::Manual(Arc::new(AtomicI64::new(start.0))))
    }

    /// The current time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System => Timestamp(chrono::Utc::now().timestamp_micros()),
            Source::Manual(micros) => Timestamp(micros.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock forward; has no effect on the system's clock.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(micros) = &self.0 {
            let by = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
            micros.fetch_add(by, Ordering::SeqCst);
        }
    }

    /// Sets a manual clock to an earlier or later time.
    pub fn set(&self, timestamp: Timestamp) {
        if let Source::Manual(micros) = &self.0 {
            micros.store(timestamp.0, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_are_written_as_the_contract_has_them() {
        let timestamp = Timestamp::from_micros(1_769_647_246_161_472);
        assert_eq!(timestamp.iso(), "2026-01-29T00:40:46.161472+00:00");
        assert_eq!(Timestamp::from_micros(0).iso(), "1970-01-01T00:00:00.000000+00:00");
        assert_eq!(timestamp.day().to_string(), "2026-01-29");
        assert_eq!(Timestamp::from_micros(-1).day().to_string(), "1969-12-31");
    }

    #[test]
    fn a_clock_moved_by_hand_stands_still_otherwise() {
        let clock = Clock::manual(Timestamp::from_micros(5));
        assert_eq!(clock.now(), clock.now());
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.now().micros(), 1_000_005);
    }
}
