use super::Twilio;
use wardgate_sdk::testing::{assert_diagnostics, assert_every_byte_is_signed, run_vectors};

#[test]
fn vectors() {
    run_vectors::<Twilio>(include_str!("../../../tests/vectors/twilio.json"));
}

#[test]
fn every_byte_of_a_body_is_signed() {
    assert_every_byte_is_signed::<Twilio>(include_str!("../../../tests/vectors/twilio.json"));
}

#[test]
fn wrong_settings_are_pointed_at() {
    assert_diagnostics::<Twilio>("{}", &[]);
    assert_diagnostics::<Twilio>(r#"{"api-url":"https://api.twilio.com/"}"#, &["/api-url"]);
    assert_diagnostics::<Twilio>(r#"{"conversations-url":"a.b"}"#, &["/conversations-url"]);
}
