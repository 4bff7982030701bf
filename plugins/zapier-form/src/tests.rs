use super::ZapierForm;
use wardgate_sdk::testing::{assert_settings, run_vectors};

#[test]
fn vectors() {
    run_vectors::<ZapierForm>(include_str!("../../../tests/vectors/zapier-form.json"));
}

#[test]
fn wrong_settings_are_pointed_at() {
    assert_settings::<ZapierForm>("{}", &[]);
    assert_settings::<ZapierForm>(r#"{"token-header":"x-token","email-path":""}"#, &[]);
    assert_settings::<ZapierForm>(r#"{"token-header":"x token"}"#, &["/token-header"]);
    assert_settings::<ZapierForm>(r#"{"callback-path":"a..b"}"#, &["/callback-path"]);
}
