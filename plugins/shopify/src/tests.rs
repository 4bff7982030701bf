use super::Shopify;
use wardgate_sdk::testing::{assert_diagnostics, assert_every_byte_is_signed, run_vectors};

#[test]
fn vectors() {
    run_vectors::<Shopify>(include_str!("../../../tests/vectors/shopify.json"));
}

#[test]
fn every_byte_of_a_body_is_signed() {
    assert_every_byte_is_signed::<Shopify>(include_str!("../../../tests/vectors/shopify.json"));
}

#[test]
fn wrong_settings_are_pointed_at() {
    assert_diagnostics::<Shopify>(r#"{"ignored-users":"a"}"#, &["/ignored-users"]);
    assert_diagnostics::<Shopify>(r#"{"ignored-users":"a","user-path":"b"}"#, &[]);
    assert_diagnostics::<Shopify>("{}", &[]);
    assert_diagnostics::<Shopify>(r#"{"events":"orders/*","shops":"a.myshopify.com"}"#, &[]);
    assert_diagnostics::<Shopify>(r#"{"thread-path":"a..b"}"#, &["/thread-path"]);
}
