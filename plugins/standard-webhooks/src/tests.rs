use super::StandardWebhooks;
use wardgate_sdk::testing::{
    assert_diagnostics, assert_every_byte_is_signed, assert_misconfigured, run_vectors,
};

#[test]
fn vectors() {
    run_vectors::<StandardWebhooks>(include_str!("../../../tests/vectors/standard-webhooks.json"));
}

#[test]
fn every_byte_of_a_body_is_signed() {
    assert_every_byte_is_signed::<StandardWebhooks>(include_str!(
        "../../../tests/vectors/standard-webhooks.json"
    ));
}

#[test]
fn wrong_settings_are_pointed_at() {
    assert_diagnostics::<StandardWebhooks>(r#"{"ignored-users":"a"}"#, &["/ignored-users"]);
    assert_diagnostics::<StandardWebhooks>(r#"{"ignored-users":"a","user-path":"b"}"#, &[]);
    assert_diagnostics::<StandardWebhooks>("{}", &[]);
    assert_diagnostics::<StandardWebhooks>(r#"{"events":"a.* b","thread-path":"data.id"}"#, &[]);
    assert_diagnostics::<StandardWebhooks>(
        r#"{"tolerance-seconds":"5m"}"#,
        &["/tolerance-seconds"],
    );
    assert_diagnostics::<StandardWebhooks>(r#"{"tolerance-seconds":300}"#, &["/tolerance-seconds"]);
    assert_diagnostics::<StandardWebhooks>(
        r#"{"user-path":"a.","prompt-path":".a"}"#,
        &["/prompt-path", "/user-path"],
    );
}

#[test]
fn nothing_is_verified_with_wrong_settings() {
    assert_diagnostics::<StandardWebhooks>(r#"{"headers":"Webhook"}"#, &["/headers"]);
    assert_misconfigured::<StandardWebhooks>(r#"{"headers":"Webhook"}"#);
}
