//! Settings are read, and refused with their key and origin.

use super::*;

fn with(toml: &str) -> Result<Settings, SettingsError> {
    let file = config::File::from_str(toml, config::FileFormat::Toml);
    Settings::build(Settings::defaults().add_source(file), None)
}

#[test]
fn the_embedded_file_is_valid_and_complete() {
    let settings = Settings::of_defaults().unwrap();
    assert_eq!(settings.queue.lease, Duration::from_secs(90));
}

#[test]
fn what_is_misspelt_is_refused_by_name() {
    let error = with("[http]\nbody_byte_max = 5").unwrap_err().to_string();
    assert!(error.contains("body_byte_max"), "{error}");
    assert!(with("[models.offline]\nkind = \"openai-compatible\"").is_err());
}

#[test]
fn numbers_with_which_nothing_would_work_are_refused() {
    for wrong in [
        "[queue]\nlease_seconds = 0",
        "[queue]\nruns_max = 9223372036854775807",
        "[sandbox]\ncalls_max = 0",
        "[http]\nbody_bytes_max = 0",
        "[http]\nhead_bytes_max = 0",
        "[http]\nhead_seconds_max = 0",
        "[queue]\nrun_seconds_max = 0",
        "[agent]\nturns_max = 0",
        "[sandbox]\nquarantine_after = 0",
        "[http]\nbody_bytes_max = 100000000",
        "[http]\nheld_body_bytes_max = 10485760",
        "[http]\nheld_body_bytes_per_tenant_max = 0",
        "[http]\nheld_body_bytes_per_channel_max = 10485759",
        "[http]\nheld_body_bytes_per_address_max = 1",
        "[http]\nstranger_body_bytes_per_second_min = 0",
        "[http]\nstranger_body_grace_seconds = 0",
        "[http]\nconnections_max = 0",
        "[plugins]\nversions_max = 0",
        "[plugins]\nrequire_signed = true",
        "[plugins.signers]\nus = \"RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO\"",
    ] {
        assert!(with(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_refusal_says_where_what_is_wrong_was_set_and_why_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.toml");
    for (text, sentence) in [
        (
            "[http]\nhead_bytes_max = 0\n",
            "http.head_bytes_max (in FILE) is 0; it can be 1024 to 1048576: the headers of \
             ordinary clients would not fit",
        ),
        (
            "[http]\nbody_bytes_max = 100000000\n",
            "http.held_body_bytes_max is 268435456; it can be 300000000 to 1099511627776: a body \
             of http.body_bytes_max gets at most half of what it leaves free",
        ),
        (
            "[queue]\nattempts_max = 1001\n",
            "queue.attempts_max (in FILE) is 1001; it can be 1 to 1000",
        ),
        (
            "[http]\npublic_url = \"nonsense\"\n",
            "http.public_url (in FILE) is \"nonsense\", which is not a URL (relative URL without \
             a base); it begins the URLs that are handed out, as in https://gateway.example",
        ),
        (
            "[models.m]\nkind = \"openai-compatible\"\nbase_url = \"http://a/\"\nmodel = \"\"\n",
            "models.m.model (in FILE) is empty",
        ),
        (
            "[plugins]\nrequire_signed = true\n",
            "plugins.require_signed (in FILE) is on, and plugins.signers names no key",
        ),
    ] {
        std::fs::write(&file, text).unwrap();
        let source = config::File::from(file.as_path()).format(config::FileFormat::Toml);
        let sources = Settings::defaults().add_source(source);
        let error = Settings::build(sources, Some(&file)).unwrap_err();
        let message = error.to_string().replace(file.to_str().unwrap(), "FILE");
        assert_eq!(message, format!("the settings are not valid: {sentence}"));
    }
}

#[test]
fn each_least_value_above_nothing_has_a_reason() {
    let settings = Settings::of_defaults().unwrap();
    for bound in settings.bounds().into_iter().chain(settings.http.bounds()) {
        assert_eq!(bound.why.is_some(), bound.min > 0, "{}", bound.key);
    }
}

#[test]
fn every_number_has_a_bound() {
    let defaults: toml::Table = toml::from_str(DEFAULTS).unwrap();
    let mut numbers = 0;
    for (section, settings) in &defaults {
        for (name, value) in settings.as_table().unwrap() {
            if !value.is_integer() {
                continue;
            }
            numbers += 1;
            let wrong = with(&format!("[{section}]\n{name} = 4611686018427387904"));
            let error = wrong.expect_err(name).to_string();
            assert!(error.contains(name.as_str()), "{name}: {error}");
            assert!(with(&format!("[{section}]\n{name} = -1")).is_err(), "{name}");
        }
    }
    assert!(numbers > 35, "{numbers}");
}

#[test]
fn what_is_no_url_is_refused_with_a_sentence() {
    for wrong in [
        "gateway.example",
        "ftp://gateway.example",
        "https://a.example/?x",
        "https://u:p@a.example",
    ] {
        let error = with(&format!("[http]\npublic_url = {wrong:?}")).unwrap_err().to_string();
        assert!(error.contains("http.public_url"), "{error}");
        assert!(!error.contains("u:p"), "{error}");
    }
    for right in ["", "https://a.example", "http://10.0.0.1:8080/wardgate/"] {
        with(&format!("[http]\npublic_url = {right:?}")).unwrap();
    }
    let model = "[models.m]\nkind = \"openai-compatible\"\nmodel = \"x\"\nbase_url = ";
    assert!(with(&format!("{model}\"ftp://a.example/\"")).is_err());
    assert!(with(&format!("{model}\"http://a.example/\"\nseconds_max = 0")).is_err());
    with(&format!("{model}\"http://a.example/\"")).unwrap();
}

#[test]
fn a_models_key_is_not_printed() {
    let settings = with(
        "[models.m]\nkind = \"openai-compatible\"\nbase_url = \"http://localhost/v1/\"\n\
         model = \"x\"\napi_key = \"very-secret\"",
    );
    let printed = format!("{:?}", settings.unwrap());
    assert!(printed.contains("localhost") && !printed.contains("very-secret"));
}

#[test]
fn a_variable_that_names_no_section_is_not_a_setting() {
    assert!(is_misnamed("WARDGATE_URL"));
    assert!(is_misnamed("WARDGATE_HTTP_LISTEN"));
    assert!(!is_misnamed("WARDGATE_HTTP__LISTEN"));
    assert!(!is_misnamed("WARDGATE_MODELS__GPT__API_KEY"));
    assert!(!is_misnamed("PATH") && !is_misnamed("NOT_WARDGATE_URL"));
}
