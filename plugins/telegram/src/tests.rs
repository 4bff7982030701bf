use super::Telegram;
use wardgate_sdk::testing::{assert_diagnostics, run_vectors};

#[test]
fn vectors() {
    run_vectors::<Telegram>(include_str!("../../../tests/vectors/telegram.json"));
}

#[test]
fn wrong_settings_are_pointed_at() {
    assert_diagnostics::<Telegram>("{}", &[]);
    assert_diagnostics::<Telegram>(r#"{"api-url":"http://127.0.0.1:8081"}"#, &[]);
    assert_diagnostics::<Telegram>(r#"{"api-url":"api.telegram.org"}"#, &["/api-url"]);
    assert_diagnostics::<Telegram>(r#"{"typing":true}"#, &["/typing"]);
}
