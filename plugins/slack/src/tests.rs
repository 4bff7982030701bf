use super::Slack;
use wardgate_sdk::testing::{assert_diagnostics, assert_every_byte_is_signed, run_vectors};

#[test]
fn vectors() {
    run_vectors::<Slack>(include_str!("../../../tests/vectors/slack.json"));
}

#[test]
fn every_byte_of_a_body_is_signed() {
    assert_every_byte_is_signed::<Slack>(include_str!("../../../tests/vectors/slack.json"));
}

#[test]
fn wrong_settings_are_pointed_at() {
    assert_diagnostics::<Slack>(r#"{"api-url":"http://127.0.0.1:8080/api"}"#, &[]);
    assert_diagnostics::<Slack>(r#"{"api-url":"https://slack.com/api/"}"#, &["/api-url"]);
    assert_diagnostics::<Slack>(r#"{"response-type":"public"}"#, &["/response-type"]);
    assert_diagnostics::<Slack>(r#"{"tolerance-seconds":"0"}"#, &["/tolerance-seconds"]);
}
