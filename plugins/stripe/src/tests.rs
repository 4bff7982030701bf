use super::Stripe;
use wardgate_sdk::testing::{assert_diagnostics, assert_every_byte_is_signed, run_vectors};

#[test]
fn vectors() {
    run_vectors::<Stripe>(include_str!("../../../tests/vectors/stripe.json"));
}

#[test]
fn every_byte_of_a_body_is_signed() {
    assert_every_byte_is_signed::<Stripe>(include_str!("../../../tests/vectors/stripe.json"));
}

#[test]
fn wrong_settings_are_pointed_at() {
    assert_diagnostics::<Stripe>(r#"{"ignored-users":"a"}"#, &["/ignored-users"]);
    assert_diagnostics::<Stripe>(r#"{"ignored-users":"a","user-path":"b"}"#, &[]);
    assert_diagnostics::<Stripe>("{}", &[]);
    assert_diagnostics::<Stripe>(r#"{"events":"a.* b","thread-path":"data.id"}"#, &[]);
    assert_diagnostics::<Stripe>(r#"{"tolerance-seconds":"5m"}"#, &["/tolerance-seconds"]);
    assert_diagnostics::<Stripe>(r#"{"tolerance-seconds":300}"#, &["/tolerance-seconds"]);
    assert_diagnostics::<Stripe>(
        r#"{"user-path":"a.","prompt-path":".a"}"#,
        &["/prompt-path", "/user-path"],
    );
}
