use super::HmacRecipe;
use wardgate_sdk::testing::{
    assert_diagnostics, assert_every_byte_is_signed, assert_misconfigured, run_vectors,
};

#[test]
fn vectors() {
    run_vectors::<HmacRecipe>(include_str!("../../../tests/vectors/hmac.json"));
}

#[test]
fn every_byte_of_a_body_is_signed() {
    assert_every_byte_is_signed::<HmacRecipe>(include_str!("../../../tests/vectors/hmac.json"));
}

#[test]
fn good_recipes_are_good() {
    for config in [
        r#"{"header":"x-signature"}"#,
        r#"{"header":"x","signed":"v0:{timestamp}:{body}","timestamp-header":"t"}"#,
        r#"{"header":"x","signed":"{timestamp}.{body}","timestamp-part":"t","signature-part":"v1"}"#,
        r#"{"header":"x","signed":"{method}{path}{query}{url}{body}"}"#,
        r#"{"header":"x","secret-prefix":"whsec_","secret-encoding":"base64"}"#,
        r#"{"header":"x","prompt-path":"data.0.text"}"#,
        r#"{"header":"x","user-path":"actor.id","ignored-users":"bot-1"}"#,
    ] {
        assert_diagnostics::<HmacRecipe>(config, &[]);
    }
}

#[test]
fn a_recipe_that_proves_too_little_is_refused_before_and_during_a_call() {
    for (config, pointer) in [
        (r#"{"header":"","signed":"{body}"}"#, "/header"),
        (r#"{"header":"x","signed":""}"#, "/signed"),
        (r#"{"header":"x","signed":"body"}"#, "/signed"),
        (r#"{"header":"x","signed":"{Body}{body}"}"#, "/signed"),
        (r#"{"header":"x","signed":"{body"}"#, "/signed"),
        (r#"{"header":"x","signed":"{timestamp}{body}"}"#, "/signed"),
        (r#"{"header":"x","timestamp-header":"t"}"#, "/signed"),
        (r#"{"header":"x","signed":"{id}{body}"}"#, "/signed"),
        (r#"{"header":"x","signed":"{timestamp}{body}","timestamp-part":"t"}"#, "/signature-part"),
        (r#"{"header":"x","secret-prefix":"whsec_"}"#, "/secret-prefix"),
        (r#"{"header":"x","algorithm":"md5"}"#, "/algorithm"),
        (r#"{"header":"x","secret-encoding":"base32"}"#, "/secret-encoding"),
        (r#"{"header":"x","separator":"|"}"#, "/separator"),
        ("{}", "/header"),
    ] {
        assert_diagnostics::<HmacRecipe>(config, &[pointer]);
        assert_misconfigured::<HmacRecipe>(config);
    }
    assert_diagnostics::<HmacRecipe>(r#"{"header":"x","prompt-path":"a..b"}"#, &["/prompt-path"]);
    assert_diagnostics::<HmacRecipe>(
        r#"{"header":"x","ignored-users":"bot-1"}"#,
        &["/ignored-users"],
    );
    assert_diagnostics::<HmacRecipe>(
        r#"{"header":"x","challenge-answer":"yes"}"#,
        &["/challenge-answer"],
    );
    assert_diagnostics::<HmacRecipe>("[]", &[""]);
}
