use super::GitHub;
use std::string::ToString;
use wardgate_sdk::integration::Integration;
use wardgate_sdk::testing::{
    ScriptedHost, assert_diagnostics, assert_every_byte_is_signed, run_vectors,
};

#[test]
fn vectors() {
    run_vectors::<GitHub>(include_str!("../../../tests/vectors/github.json"));
}

#[test]
fn every_byte_of_a_body_is_signed() {
    assert_every_byte_is_signed::<GitHub>(include_str!("../../../tests/vectors/github.json"));
}

#[test]
fn wrong_settings_are_pointed_at() {
    assert_diagnostics::<GitHub>(r#"{"events":"issues.* push","bots":"run"}"#, &[]);
    assert_diagnostics::<GitHub>(r#"{"bots":"yes"}"#, &["/bots"]);
    assert_diagnostics::<GitHub>(r#"{"events":["push"]}"#, &["/events"]);
}

/// Every event that GitHub sends gets a prompt without gaps, and a thread if it has a repository or an
/// organization.
#[test]
fn whatever_github_sends_is_mapped() {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../target/payloads/node_modules/@octokit/webhooks-examples/api.github.com/index.json"
    );
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| {
        panic!("{file}: {error}; to install it:\n\n  cargo xtask payloads\n")
    });
    let events: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut mapped_count = 0;
    for event in events.as_array().unwrap() {
        let name = event["name"].as_str().unwrap();
        for (payload, texts) in event["examples"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|payload| [(payload, "context"), (payload, "prompt")])
        {
            let host = ScriptedHost::new(&serde_json::json!({
                "headers": {"x-github-event": name, "x-github-delivery": "d"},
                "settings": {"bots": "run", "texts": texts},
                "body": payload.to_string(),
            }));
            let mapped = GitHub::map_payload(&host).unwrap();
            let param = |target: &str| {
                let found = mapped.params.iter().find(|(name, _)| name == target);
                found.map(|(_, value)| value.to_string())
            };
            mapped_count += 1;
            if name == "ping" {
                assert_eq!(mapped.action, "reply");
                continue;
            }
            let prompt = param("prompt").unwrap();
            let sentence = prompt.lines().next().unwrap();
            assert!(!sentence.contains("  ") && !sentence.starts_with(' '), "{name}: {sentence}");
            assert!(!sentence.contains("“”") && !sentence.contains("# "), "{name}: {sentence}");
            assert!(sentence.ends_with('.') && !sentence.contains(" ."), "{name}: {sentence}");
            assert!(texts == "prompt" || prompt == sentence, "{name}: {prompt}");
            assert_eq!(mapped.delivery_id.as_deref(), Some("d"));
            let has_location =
                payload["repository"].is_object() || payload["organization"].is_object();
            assert_eq!(param("task_id").is_some(), has_location, "{name}: {sentence}");
        }
    }
    assert_eq!(mapped_count, 2 * 329);
}
