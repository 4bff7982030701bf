//! Tests of quarantine, probation and counters.

use std::time::Duration;

use super::*;
use crate::clock::Timestamp;
use crate::sandbox::Failure;
use crate::sandbox::refusal::Shortage;

const SETTINGS: QuarantineSettings =
    QuarantineSettings { failures_max: 3, pause: Duration::from_secs(30) };

fn call(stats: &PluginStats, clock: &Clock, value: Result<(), PluginError>) -> Result<(), Refusal> {
    let admission = stats.admit(clock)?;
    stats.record(&value, Cost::default(), SETTINGS, clock);
    drop(admission);
    Ok(())
}

fn crash() -> Result<(), PluginError> {
    Err(Refusal::Trapped("unreachable".to_owned()).into())
}

fn says_no() -> Result<(), PluginError> {
    Err(Failure { code: "x".into(), message: "no".into(), retry_after_ms: None }.into())
}

fn is_quarantined(stats: &PluginStats) -> bool {
    stats.snapshot().quarantine.is_some()
}

#[test]
fn failures_in_a_row_cut_it_off_and_one_good_call_brings_it_back() {
    let clock = Clock::manual(Timestamp::from_micros(1_000_000));
    let stats = PluginStats::default();
    for value in [crash(), crash(), Ok(()), crash(), says_no(), crash(), crash()] {
        call(&stats, &clock, value).unwrap();
        assert!(!is_quarantined(&stats), "two in a row, or a plugin that says no, are not enough");
    }
    call(&stats, &clock, crash()).unwrap();
    let refused = call(&stats, &clock, Ok(())).unwrap_err();
    assert!(matches!(refused, Refusal::Quarantined { retry_after_ms: 30_000, .. }), "{refused:?}");
    assert!(refused.to_string().contains("crashed"), "{refused}");

    clock.advance(Duration::from_secs(30));
    call(&stats, &clock, crash()).unwrap();
    // The pause has doubled.
    clock.advance(Duration::from_secs(59));
    assert!(call(&stats, &clock, Ok(())).is_err());
    clock.advance(Duration::from_secs(1));
    call(&stats, &clock, Ok(())).unwrap();
    assert!(!is_quarantined(&stats));
    call(&stats, &clock, crash()).unwrap();
    assert!(!is_quarantined(&stats), "it begins anew");
}

#[test]
fn one_call_at_a_time_is_let_through() {
    let clock = Clock::manual(Timestamp::from_micros(1));
    let stats = PluginStats::default();
    for _ in 0..3 {
        call(&stats, &clock, crash()).unwrap();
    }
    clock.advance(Duration::from_secs(30));
    let probe = stats.admit(&clock).unwrap();
    assert!(stats.admit(&clock).is_err());
    // The probe's caller hung up: its result is unknown, so the next call is admitted.
    drop(probe);
    assert!(stats.admit(&clock).is_ok());
}

#[test]
fn our_own_failures_and_releases_by_hand() {
    let clock = Clock::manual(Timestamp::from_micros(1));
    let stats = PluginStats::default();
    for _ in 0..9 {
        call(&stats, &clock, Err(Refusal::Busy(Shortage::Calls).into())).unwrap();
    }
    assert!(!is_quarantined(&stats));
    for _ in 0..3 {
        call(&stats, &clock, crash()).unwrap();
    }
    assert!(is_quarantined(&stats));
    stats.release();
    call(&stats, &clock, Ok(())).unwrap();
    let snapshot = stats.snapshot();
    assert_eq!((snapshot.answered, snapshot.in_flight), (1, 0));
    let refused: Vec<_> = snapshot.refused.into_iter().filter(|(_, n)| *n > 0).collect();
    assert_eq!(refused, [("trapped", 3), ("busy", 9)]);
}

#[test]
fn long_calls_are_remembered_for_their_kind_and_one_good_call_makes_up_for_none() {
    let clock = Clock::manual(Timestamp::from_micros(1));
    let stats = PluginStats::default();
    stats.mark_slow(Lane::Tools);
    assert!(stats.may_run_inline(Lane::Default) && !stats.may_run_inline(Lane::Tools));
    for value in [crash(), Ok(())] {
        call(&stats, &clock, value).unwrap();
    }
    assert!(!stats.may_run_inline(Lane::Tools), "it may be another kind that went well");
    for _ in 0..PROBATION_CALLS {
        assert!(!stats.may_run_inline(Lane::Tools));
        stats.mark_fast(Lane::Tools);
    }
    assert!(stats.may_run_inline(Lane::Tools));
    stats.mark_slow(Lane::Default);
    stats.release();
    assert!(stats.may_run_inline(Lane::Default));
}

#[test]
fn to_ask_whether_a_call_would_be_let_in_lets_none_in() {
    let clock = Clock::manual(Timestamp::from_micros(1));
    let stats = PluginStats::default();
    stats.check_admission(&clock).unwrap();
    for _ in 0..3 {
        call(&stats, &clock, crash()).unwrap();
    }
    let refused = stats.check_admission(&clock).unwrap_err();
    assert!(matches!(refused, Refusal::Quarantined { retry_after_ms: 30_000, .. }), "{refused:?}");
    clock.advance(Duration::from_secs(30));
    for _ in 0..2 {
        stats.check_admission(&clock).unwrap();
    }
    let probe = stats.admit(&clock).unwrap();
    assert!(stats.check_admission(&clock).is_err(), "another one is being tried");
    drop(probe);
}
