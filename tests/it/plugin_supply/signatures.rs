//! Components are signed with minisign, by keys that the operator pins. A signature that is sent must be valid; with
//! `require_signed`, unsigned components are neither installed nor run.

use serde_json::{Value, json};
use wardgate::settings::Settings;
use wardgate::tenants::KeyHolder;

use super::{command, command_error, versions, write};
use super::{
    digest, frozen, frozen_path, guest, home, install, installation_form, stored_components,
    supply_file, versioned,
};
use crate::support::{Gateway, Setup};

/// The second line of a public key's file.
fn key(name: &str) -> String {
    supply_file(name).lines().nth(1).unwrap().to_owned()
}

/// Pins the vendor's key.
fn pinned(settings: &mut Settings) {
    settings.plugins.signers.insert("vendor".to_owned(), key("vendor.pub"));
}

fn required(settings: &mut Settings) {
    pinned(settings);
    settings.plugins.require_signed = true;
}

#[tokio::test]
async fn who_signed_a_version_is_kept_and_shown() {
    let gateway = Setup::new().settings(pinned).start().await;
    let signed = [("signature", &*supply_file("plugin.wasm.minisig"))];
    let put = gateway
        .admin_request("PUT", "/plugins/hook")
        .multipart(installation_form(frozen(), &signed));
    let expected = json!({
        "name": "vendor", "key_id": "5225658B963831A8", "trusted_comment": "plugin 1.0.0",
    });
    assert_eq!(put.expect(200).await.json()["signed_by"], expected);
    // The same component again without the signature still counts as signed.
    install(&gateway, frozen()).await;
    install(&gateway, guest("ignores")).await;
    let versions = gateway.admin_request("GET", "/plugins/hook/versions").expect(200).await.json();
    assert_eq!(versions[0]["signed_by"], Value::Null);
    assert_eq!(versions[1]["signed_by"], expected);
}

/// Invalid signatures: a label, the component, the signature, and a part of the refusal.
fn badly_signed() -> Vec<(&'static str, Vec<u8>, String, &'static str)> {
    let (plugin, good) = (frozen(), supply_file("plugin.wasm.minisig"));
    let tampered = [&plugin[..plugin.len() - 1], &[plugin[plugin.len() - 1] ^ 1]].concat();
    let comment = good.replace("plugin 1.0.0", "plugin 9.0.0");
    let of_other = supply_file("plugin-2.0.0.wasm.minisig");
    vec![
        ("tampered", tampered, good.clone(), "vendor is not for this component"),
        ("another component", guest("ignores"), good.clone(), "is not for this component"),
        ("another's signature", plugin.clone(), of_other, "is not for this component"),
        ("another comment", plugin.clone(), comment, "is not for this component"),
        (
            "another key",
            plugin.clone(),
            supply_file("plugin.wasm.by-other.minisig"),
            "D7BA95460DFDF213",
        ),
        ("the legacy kind", plugin.clone(), supply_file("plugin.wasm.legacy.minisig"), "legacy"),
        ("a public key", plugin.clone(), supply_file("vendor.pub"), "not a minisign signature"),
        ("nothing", plugin.clone(), String::new(), "not a minisign signature"),
        ("garbage", plugin.clone(), "\u{0}\u{7f}\n".repeat(900), "not a minisign signature"),
        ("cut off", plugin.clone(), good[..150].to_owned(), "not a minisign signature"),
        ("a book", plugin, format!("{good}{}", "x".repeat(5_000)), "longer"),
    ]
}

#[tokio::test]
async fn a_signature_that_is_sent_has_to_be_good() {
    for settings in [pinned, required] {
        let gateway = Setup::new().settings(settings).start().await;
        let admin = gateway.new_key(KeyHolder::Admin(gateway.tenant)).await;
        let target = format!("/admin/tenants/{}/plugins/hook", gateway.tenant);
        for (what, component, signature, reason) in badly_signed() {
            for key in [&gateway.operator_key(), &admin] {
                let put = gateway.request("PUT", &target).key(key);
                let form = installation_form(component.clone(), &[("signature", &signature)]);
                let answer = put.multipart(form).expect(422).await;
                assert!(answer.detail().contains(reason), "{what}: {}", answer.text);
            }
        }
        assert!(stored_components(&gateway.home).is_empty());
    }
}

#[tokio::test]
async fn a_signature_that_nobody_could_check_is_refused() {
    let gateway = Gateway::start().await;
    let signed = [("signature", &*supply_file("plugin.wasm.minisig"))];
    let put = gateway
        .admin_request("PUT", "/plugins/hook")
        .multipart(installation_form(frozen(), &signed));
    let message = put.expect(422).await.detail();
    assert!(
        message.contains("5225658B963831A8") && message.contains("no keys at all"),
        "{message}"
    );
}

#[tokio::test]
async fn where_signatures_are_required_nothing_else_is_taken() {
    let gateway = Setup::new().settings(required).start().await;
    let admin = gateway.new_key(KeyHolder::Admin(gateway.tenant)).await;
    let target = format!("/admin/tenants/{}/plugins/hook", gateway.tenant);
    for key in [&gateway.operator_key(), &admin] {
        let put =
            gateway.request("PUT", &target).key(key).multipart(installation_form(frozen(), &[]));
        let message = put.expect(422).await.detail();
        assert!(
            message.contains("not signed") && message.contains("vendor (5225658B963831A8)"),
            "{message}"
        );
    }
    let signed = [("signature", &*supply_file("plugin.wasm.minisig"))];
    let put =
        gateway.request("PUT", &target).key(&admin).multipart(installation_form(frozen(), &signed));
    put.expect(200).await;
    // Bundled plugins need no signature.
    let mapping = gateway.webhook(r#"&params_mapping={"prompt":"a"}"#);
    let answer = mapping.json(&json!({"a": "mapped"})).expect(200).await;
    assert_eq!(answer.report()["received"], "mapped");
}

#[tokio::test]
async fn what_was_installed_unsigned_is_neither_run_nor_rolled_back_to_once_signatures_are_required()
 {
    let gateway = Setup::new().settings(pinned).start().await;
    let agent = gateway.agent_with(|agent| agent.mapper = Some("hook".parse().unwrap())).await;
    install(&gateway, guest("ignores")).await;
    let second = versioned(&frozen(), "2.0.0");
    let signed = [("signature", &*supply_file("plugin-2.0.0.wasm.minisig"))];
    let put = gateway
        .admin_request("PUT", "/plugins/hook")
        .multipart(installation_form(second.clone(), &signed));
    put.expect(200).await;
    gateway.install("replies_now", "").await;
    let unsigned = gateway.agent_with(|agent| agent.mapper = Some("replies-now".parse().unwrap()));
    let unsigned = unsigned.await;
    unsigned.webhook("").json(&json!({})).answered_by_a_plugin().expect(202).await;

    let home = gateway.stop().await;
    let gateway = Setup::new().settings(required).home(home).start().await;
    let ask = |agent: &str, key: &str| {
        gateway.post(&format!("/?agent_id={agent}")).key(key).json(&json!({"text": "hi"}))
    };
    let answer = ask(&agent.agent, &agent.key).expect(200).await;
    assert_eq!(answer.report()["received"], "hi", "the signed version works");
    let call = gateway.admin_request("POST", "/plugins/hook/rollback").json(&json!({}));
    let message = call.expect(422).await.detail();
    assert!(message.contains("not signed"), "{message}");
    let current = format!("*{}", digest(&second));
    assert_eq!(versions(&gateway).await[0], current);
    let message = ask(&unsigned.agent, &unsigned.key).expect(500).await.detail();
    assert!(message.contains("replies-now") && message.contains("not signed"), "{message}");

    // A signature by a key that is no longer pinned is not valid.
    let home = gateway.stop().await;
    let change = |settings: &mut Settings| {
        settings.plugins.require_signed = true;
        settings.plugins.signers.insert("vendor".to_owned(), key("other.pub"));
    };
    let gateway = Setup::new().settings(change).home(home).start().await;
    let call = gateway.post(&format!("/?agent_id={}", agent.agent)).key(&agent.key);
    let message = call.json(&json!({"text": "hi"})).expect(500).await.detail();
    assert!(message.contains("not signed"), "{message}");
}

#[tokio::test]
async fn the_command_takes_the_signature_that_lies_beside_the_component() {
    let home = home();
    let settings = format!(
        "[plugins]\nrequire_signed = true\n[plugins.signers]\nvendor = \"{}\"\n",
        key("vendor.pub")
    );
    let settings = write(&home, "settings.toml", settings.as_bytes());
    let plugin = write(&home, "hook.wasm", &std::fs::read(frozen_path()).unwrap());
    let install = ["--settings", &settings, "plugin", "install", &plugin];
    assert!(command_error(&home, &install).contains("not signed"));
    let elsewhere = write(&home, "a.minisig", supply_file("plugin.wasm.minisig").as_bytes());
    let message = command(&home, &[&install[..], &["--signature", &elsewhere]].concat());
    assert!(message.contains("signed by vendor (5225658B963831A8): plugin 1.0.0"), "{message}");

    write(&home, "hook.wasm.minisig", supply_file("plugin.wasm.minisig").as_bytes());
    let message = command(&home, &install);
    assert!(message.contains("signed by vendor"), "{message}");
    let unsigned = [&install[..], &["--unsigned"]].concat();
    assert!(command_error(&home, &unsigned).contains("not signed"));
    write(&home, "hook.wasm.minisig", supply_file("plugin-2.0.0.wasm.minisig").as_bytes());
    assert!(command_error(&home, &install).contains("not for this component"));
    let listed = command(&home, &["plugin", "versions", "hook"]);
    assert!(listed.starts_with("current\tsha256:") && listed.contains("\tvendor ("), "{listed}");
}

#[test]
fn a_key_that_is_none_is_refused_when_the_settings_are_read() {
    let home = home();
    for wrong in ["RWshort", "", &key("vendor.pub")[1..], "untrusted comment: minisign public key"]
    {
        let settings = format!("[plugins.signers]\nvendor = \"{wrong}\"\n");
        let settings = write(&home, "settings.toml", settings.as_bytes());
        let message = command_error(&home, &["--settings", &settings, "plugin", "list"]);
        assert!(message.contains("plugins.signers.vendor"), "{message}");
    }
}
