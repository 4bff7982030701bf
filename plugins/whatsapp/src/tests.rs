use super::WhatsApp;
use wardgate_sdk::testing::{assert_diagnostics, assert_every_byte_is_signed, run_vectors};

#[test]
fn vectors() {
    run_vectors::<WhatsApp>(include_str!("../../../tests/vectors/whatsapp.json"));
}

#[test]
fn every_byte_of_a_body_is_signed() {
    assert_every_byte_is_signed::<WhatsApp>(include_str!("../../../tests/vectors/whatsapp.json"));
}

#[test]
fn wrong_settings_are_pointed_at() {
    assert_diagnostics::<WhatsApp>("{}", &[]);
    assert_diagnostics::<WhatsApp>(r#"{"api-url":"http://127.0.0.1:8081/v1"}"#, &[]);
    assert_diagnostics::<WhatsApp>(r#"{"api-url":"graph.facebook.com"}"#, &["/api-url"]);
}
