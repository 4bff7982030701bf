//! Each installed component is a version; earlier versions are kept for rollbacks.

use serde_json::{Value, json};
use wardgate::tenants::KeyHolder;

use super::{digest, guest, install, installation_form, stored_components, versioned, versions};
use crate::support::{Answer, Gateway, Setup};

/// Rolls `hook` back.
async fn roll_back(gateway: &Gateway, to: Option<&str>, status: u16) -> Answer {
    let call = gateway.admin_request("POST", "/plugins/hook/rollback");
    call.json(&json!({"to": to})).expect(status).await
}

#[tokio::test]
async fn a_version_says_where_it_came_from_and_who_installed_it() {
    let gateway = Gateway::start().await;
    let first = install(&gateway, versioned(&guest("ignores"), "1.0.0")).await;
    assert_eq!((&first["version"], &first["provenance"]), (&json!("1.0.0"), &json!("file")));
    let pinned = format!("ghcr.io/acme/hook:2@{}", digest(b"a manifest"));
    let message = [("provenance", pinned.as_str()), ("version", "2.0.0")];
    let admin = gateway.new_key(KeyHolder::Admin(gateway.tenant)).await;
    let target = format!("/admin/tenants/{}/plugins/hook", gateway.tenant);
    let put = gateway.request("PUT", &target).key(&admin);
    put.multipart(installation_form(guest("replies_now"), &message)).expect(200).await;

    let of_admin = gateway.get(&format!("{target}/versions")).key(&admin).expect(200).await.json();
    let field = |name: &str| -> Vec<Value> {
        of_admin.as_array().unwrap().iter().map(|version| version[name].clone()).collect()
    };
    assert_eq!(field("version"), ["2.0.0", "1.0.0"]);
    assert_eq!(field("provenance"), [pinned.as_str(), "file"]);
    assert_eq!(field("installed_by"), ["admin", "operator"]);
    assert_eq!(field("signed_by"), [Value::Null, Value::Null]);
    assert_eq!(field("current"), [true, false]);
    let listed = gateway.admin_request("GET", "/plugins").expect(200).await.json();
    let hook = listed.as_array().unwrap().iter().find(|p| p["name"] == "hook").unwrap();
    assert_eq!((&hook["version"], &hook["provenance"]), (&json!("2.0.0"), &json!(pinned)));
}

#[tokio::test]
async fn rolling_back_takes_effect_at_once_and_leaves_the_grants() {
    const GRANTS: &str = "# Agreed on in March.\n[limits]\nmemory_mib = 64\n";
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with(|agent| agent.mapper = Some("hook".parse().unwrap())).await;
    let first = install(&gateway, guest("ignores")).await;
    let put = gateway.admin_request("PUT", "/plugins/hook/grants").text("application/toml", GRANTS);
    put.expect(200).await;
    agent.webhook("").json(&json!({})).expect(200).await;
    install(&gateway, guest("replies_now")).await;
    agent.webhook("").json(&json!({})).answered_by_a_plugin().expect(202).await;

    let back = roll_back(&gateway, None, 200).await.json();
    assert_eq!((&back["digest"], &back["roles"]), (&first["digest"], &first["roles"]));
    let answer = agent.webhook("").json(&json!({})).expect(200).await;
    assert_eq!(answer.json(), json!({"status": "Ignored"}));
    assert_eq!(gateway.admin_request("GET", "/plugins/hook/grants").expect(200).await.text, GRANTS);
    let answer = roll_back(&gateway, None, 409).await;
    assert_eq!(answer.detail(), "there is no earlier version to roll back to");
    agent.webhook("").json(&json!({})).expect(200).await;
}

#[tokio::test]
async fn rolling_back_again_goes_further_and_passes_over_what_was_given_up() {
    let gateway = Gateway::start().await;
    let components = ["1", "2", "3", "4"].map(|version| versioned(&guest("ignores"), version));
    let [a, b, c, d] = components.each_ref().map(|component| digest(component));
    for component in components.iter().take(3) {
        install(&gateway, component.clone()).await;
    }
    assert_eq!(versions(&gateway).await, [format!("*{c}"), b.clone(), a.clone()]);
    roll_back(&gateway, None, 200).await;
    roll_back(&gateway, None, 200).await;
    assert_eq!(versions(&gateway).await, [c.clone(), b.clone(), format!("*{a}")]);
    // Forward again to a named version, and back from there.
    roll_back(&gateway, Some(&c), 200).await;
    roll_back(&gateway, Some(&c), 200).await;
    assert_eq!(versions(&gateway).await, [format!("*{c}"), b.clone(), a.clone()]);
    roll_back(&gateway, Some(&a), 200).await;

    let [_, _, _, fourth] = components;
    install(&gateway, fourth).await;
    let given_up = [format!("*{d}"), format!("-{c}"), format!("-{b}"), a.clone()];
    assert_eq!(versions(&gateway).await, given_up);
    roll_back(&gateway, None, 200).await;
    let after = [d.clone(), format!("-{c}"), format!("-{b}"), format!("*{a}")];
    assert_eq!(versions(&gateway).await, after);
    // A skipped version can still be selected by its digest, and is then a normal version again.
    roll_back(&gateway, Some(&b), 200).await;
    assert_eq!(versions(&gateway).await, [d, format!("-{c}"), format!("*{b}"), a]);
}

#[tokio::test]
async fn the_same_component_again_is_the_same_version() {
    let gateway = Gateway::start().await;
    let (first, second) = (guest("ignores"), guest("replies_now"));
    let (a, b) = (digest(&first), digest(&second));
    install(&gateway, first.clone()).await;
    install(&gateway, second.clone()).await;
    install(&gateway, second).await;
    assert_eq!(versions(&gateway).await, [format!("*{b}"), a.clone()]);
    roll_back(&gateway, None, 200).await;
    // The current version again: the one that was rolled back from stays the later one.
    install(&gateway, first.clone()).await;
    assert_eq!(versions(&gateway).await, [b.clone(), format!("*{a}")]);
    // An earlier version that is installed again becomes the newest.
    roll_back(&gateway, Some(&b), 200).await;
    install(&gateway, first).await;
    assert_eq!(versions(&gateway).await, [format!("*{a}"), b]);
}

#[tokio::test]
async fn only_so_many_versions_are_kept_and_no_file_that_nobody_needs() {
    let setup = Setup::new().settings(|settings| settings.plugins.versions_max = 2);
    let gateway = setup.start().await;
    let components = ["1", "2", "3", "4"].map(|version| versioned(&guest("ignores"), version));
    let [a, _, c, d] = components.each_ref().map(|component| digest(component));
    // Another tenant has the first component installed.
    let other = gateway.new_tenant("other").await;
    let plugins = &gateway.services.plugins;
    let theirs = "theirs".parse().unwrap();
    plugins.install(other, &theirs, components[0].clone(), None).await.unwrap();
    for component in components {
        install(&gateway, component).await;
    }
    assert_eq!(versions(&gateway).await, [format!("*{d}"), c.clone()]);
    let sorted = |mut digests: Vec<String>| {
        digests.sort();
        digests
    };
    assert_eq!(stored_components(&gateway.home), sorted(vec![a.clone(), c, d]));
    gateway.admin_request("DELETE", "/plugins/hook").expect(204).await;
    gateway.admin_request("GET", "/plugins/hook/versions").expect(404).await;
    assert_eq!(stored_components(&gateway.home), [a]);
    assert!(plugins.remove(other, &theirs).await.unwrap());
    assert!(stored_components(&gateway.home).is_empty());
}

#[tokio::test]
async fn what_cannot_be_rolled_back_to_is_said_and_changes_nothing() {
    let gateway = Gateway::start().await;
    install(&gateway, guest("ignores")).await;
    install(&gateway, guest("replies_now")).await;
    let before = versions(&gateway).await;
    for (to, status, reason) in [
        (digest(b"something else").as_str(), 404, "version not found"),
        ("sha256:12", 422, "64 hex digits"),
        ("../../etc/passwd", 422, "64 hex digits"),
    ] {
        let answer = roll_back(&gateway, Some(to), status).await;
        assert!(answer.detail().contains(reason), "{to}: {}", answer.text);
    }
    let rollback = |name: &str| gateway.admin_request("POST", &format!("/plugins/{name}/rollback"));
    rollback("absent").json(&json!({})).expect(404).await;
    rollback("calculator").json(&json!({})).expect(404).await;
    rollback("..%2Fhook").json(&json!({})).expect(404).await;
    rollback("hook").json(&json!({"too": 1})).expect(422).await;
    rollback("hook").json(&json!([])).expect(422).await;
    assert_eq!(versions(&gateway).await, before);
}

#[tokio::test]
async fn a_version_whose_file_was_changed_is_not_rolled_back_to() {
    let (first, second) = (versioned(&guest("ignores"), "of this test"), guest("replies_now"));
    let gateway = Gateway::start().await;
    install(&gateway, first.clone()).await;
    install(&gateway, second.clone()).await;
    // Restarted, so that the component is not loaded yet.
    let home = gateway.stop().await;
    let file = digest(&first).replace("sha256:", "") + ".wasm";
    std::fs::write(home.path().join("plugins").join(file), guest("spin_forever")).unwrap();
    let gateway = Setup::new().home(home).start().await;
    let answer = roll_back(&gateway, None, 500).await;
    assert!(answer.detail().contains("digest"), "{}", answer.text);
    assert_eq!(versions(&gateway).await, [format!("*{}", digest(&second)), digest(&first)]);
}

#[tokio::test]
async fn what_is_said_of_a_component_is_checked() {
    let gateway = Gateway::start().await;
    let long = "1".repeat(129);
    let traversing = format!("ghcr.io/../admin@{}", digest(b""));
    for (part, text, reason) in [
        ("provenance", "ghcr.io/acme/hook:1", "sha256"),
        ("provenance", traversing.as_str(), "separators"),
        ("provenance", "https://ghcr.io/acme/hook", "reference"),
        ("provenance", "", "reference"),
        ("version", "", "version"),
        ("version", "1\x1b[2J", "version"),
        ("version", &long, "version"),
    ] {
        let call = gateway.admin_request("PUT", "/plugins/hook");
        let answer =
            call.multipart(installation_form(guest("ignores"), &[(part, text)])).expect(422).await;
        assert!(answer.detail().contains(reason), "{text:?}: {}", answer.text);
    }
    gateway.admin_request("GET", "/plugins/hook/versions").expect(404).await;
}
