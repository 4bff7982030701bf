use super::ZapierForm;
use wardgate_sdk::testing::{assert_diagnostics, run_vectors};

#[test]
fn vectors() {
    run_vectors::<ZapierForm>(include_str!("../../../tests/vectors/zapier-form.json"));
}

#[test]
fn wrong_settings_are_pointed_at() {
    assert_diagnostics::<ZapierForm>("{}", &[]);
    assert_diagnostics::<ZapierForm>(r#"{"token-header":"x-token","email-path":""}"#, &[]);
    assert_diagnostics::<ZapierForm>(r#"{"token-header":"x token"}"#, &["/token-header"]);
    assert_diagnostics::<ZapierForm>(r#"{"callback-path":"a..b"}"#, &["/callback-path"]);
}
