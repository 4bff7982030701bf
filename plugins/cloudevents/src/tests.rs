use super::CloudEvents;
use wardgate_sdk::testing::{assert_settings, run_vectors};

#[test]
fn vectors() {
    run_vectors::<CloudEvents>(include_str!("../../../tests/vectors/cloudevents.json"));
}

#[test]
fn wrong_settings_are_pointed_at() {
    assert_settings::<CloudEvents>(r#"{"ignored-users":"a"}"#, &["/ignored-users"]);
    assert_settings::<CloudEvents>(r#"{"ignored-users":"a","user-path":"b"}"#, &[]);
    assert_settings::<CloudEvents>("{}", &[]);
    assert_settings::<CloudEvents>(r#"{"allowed-rate":"0"}"#, &["/allowed-rate"]);
    assert_settings::<CloudEvents>(r#"{"allowed-origins":["*"]}"#, &["/allowed-origins"]);
}
