use super::CloudEvents;
use wardgate_sdk::testing::{assert_diagnostics, run_vectors};

#[test]
fn vectors() {
    run_vectors::<CloudEvents>(include_str!("../../../tests/vectors/cloudevents.json"));
}

#[test]
fn wrong_settings_are_pointed_at() {
    assert_diagnostics::<CloudEvents>(r#"{"ignored-users":"a"}"#, &["/ignored-users"]);
    assert_diagnostics::<CloudEvents>(r#"{"ignored-users":"a","user-path":"b"}"#, &[]);
    assert_diagnostics::<CloudEvents>("{}", &[]);
    assert_diagnostics::<CloudEvents>(r#"{"allowed-rate":"0"}"#, &["/allowed-rate"]);
    assert_diagnostics::<CloudEvents>(r#"{"allowed-origins":["*"]}"#, &["/allowed-origins"]);
}
