//! Tests of quarantine, probation and counters.

use std::time::Duration;

use super::*;
use crate::clock::Timestamp;
use crate::sandbox::Failure;
use crate::sandbox::refusal::Shortage;

const SETTINGS: QuarantineSettings =
    QuarantineSettings { after: 3, pause: Duration::from_secs(30) };

fn call(
    account: &PluginStats,
    clock: &Clock,
    value: Result<(), PluginError>,
) -> Result<(), Refusal> {
    let admission = account.admit(clock)?;
    account.settle(&value, Cost::default(), SETTINGS, clock);
    drop(admission);
    Ok(())
}

fn crash() -> Result<(), PluginError> {
    Err(Refusal::Trapped("unreachable".to_owned()).into())
}

fn says_no() -> Result<(), PluginError> {
    Err(Failure { code: "x".into(), message: "no".into(), retry_after_ms: None }.into())
}

fn cut_off(account: &PluginStats) -> bool {
    account.snapshot().quarantine.is_some()
}

#[test]
fn failures_in_a_row_cut_it_off_and_one_good_call_brings_it_back() {
    let clock = Clock::by_hand(Timestamp::from_micros(1_000_000));
    let account = PluginStats::default();
    for value in [crash(), crash(), Ok(()), crash(), says_no(), crash(), crash()] {
        call(&account, &clock, value).unwrap();
        assert!(!cut_off(&account), "two in a row, or a plugin that says no, are not enough");
    }
    call(&account, &clock, crash()).unwrap();
    let refused = call(&account, &clock, Ok(())).unwrap_err();
    assert!(matches!(refused, Refusal::Quarantined { retry_after_ms: 30_000, .. }), "{refused:?}");
    assert!(refused.to_string().contains("crashed"), "{refused}");

    clock.advance(Duration::from_secs(30));
    call(&account, &clock, crash()).unwrap();
    // The pause has doubled.
    clock.advance(Duration::from_secs(59));
    assert!(call(&account, &clock, Ok(())).is_err());
    clock.advance(Duration::from_secs(1));
    call(&account, &clock, Ok(())).unwrap();
    assert!(!cut_off(&account));
    call(&account, &clock, crash()).unwrap();
    assert!(!cut_off(&account), "it begins anew");
}

#[test]
fn one_call_at_a_time_is_let_through() {
    let clock = Clock::by_hand(Timestamp::from_micros(1));
    let account = PluginStats::default();
    for _ in 0..3 {
        call(&account, &clock, crash()).unwrap();
    }
    clock.advance(Duration::from_secs(30));
    let probe = account.admit(&clock).unwrap();
    assert!(account.admit(&clock).is_err());
    // The probe's caller hung up: its result is unknown, so the next call is admitted.
    drop(probe);
    assert!(account.admit(&clock).is_ok());
}

#[test]
fn our_own_failures_and_releases_by_hand() {
    let clock = Clock::by_hand(Timestamp::from_micros(1));
    let account = PluginStats::default();
    for _ in 0..9 {
        call(&account, &clock, Err(Refusal::Busy(Shortage::Calls).into())).unwrap();
    }
    assert!(!cut_off(&account));
    for _ in 0..3 {
        call(&account, &clock, crash()).unwrap();
    }
    assert!(cut_off(&account));
    account.release();
    call(&account, &clock, Ok(())).unwrap();
    let statement = account.snapshot();
    assert_eq!((statement.answered, statement.in_flight), (1, 0));
    let refused: Vec<_> = statement.refused.into_iter().filter(|(_, n)| *n > 0).collect();
    assert_eq!(refused, [("trapped", 3), ("busy", 9)]);
}

#[test]
fn long_calls_are_remembered_for_their_kind_and_one_good_call_makes_up_for_none() {
    let clock = Clock::by_hand(Timestamp::from_micros(1));
    let account = PluginStats::default();
    account.mark_slow(Lane::Tools);
    assert!(account.may_run_inline(Lane::Default) && !account.may_run_inline(Lane::Tools));
    for value in [crash(), Ok(())] {
        call(&account, &clock, value).unwrap();
    }
    assert!(!account.may_run_inline(Lane::Tools), "it may be another kind that went well");
    for _ in 0..PROBATION_CALLS {
        assert!(!account.may_run_inline(Lane::Tools));
        account.mark_fast(Lane::Tools);
    }
    assert!(account.may_run_inline(Lane::Tools));
    account.mark_slow(Lane::Default);
    account.release();
    assert!(account.may_run_inline(Lane::Default));
}

#[test]
fn to_ask_whether_a_call_would_be_let_in_lets_none_in() {
    let clock = Clock::by_hand(Timestamp::from_micros(1));
    let account = PluginStats::default();
    account.check_admission(&clock).unwrap();
    for _ in 0..3 {
        call(&account, &clock, crash()).unwrap();
    }
    let refused = account.check_admission(&clock).unwrap_err();
    assert!(matches!(refused, Refusal::Quarantined { retry_after_ms: 30_000, .. }), "{refused:?}");
    clock.advance(Duration::from_secs(30));
    for _ in 0..2 {
        account.check_admission(&clock).unwrap();
    }
    let probe = account.admit(&clock).unwrap();
    assert!(account.check_admission(&clock).is_err(), "another one is being tried");
    drop(probe);
}
