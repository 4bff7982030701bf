//! A tenant's admin installs and removes plugins; only an operator sets their grants.

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use wardgate::ids::PluginDigest;
use wardgate::tenants::KeyHolder;

use crate::support::{Answer, Call, Gateway, guest_path};

const GRANTS: &str = "[limits]\nmemory_mib = 32\n";

/// The multipart form of an installation: a guest's component and, optionally, its grants.
fn parts(guest: &str, grants: Option<&str>) -> Form {
    let component = std::fs::read(guest_path(guest)).unwrap();
    let form = Form::new().part("component", Part::bytes(component).file_name("component.wasm"));
    match grants {
        Some(grants) => form.text("grants", grants.to_owned()),
        None => form,
    }
}

/// A request about the tenant's plugins, with a key of the tenant's admin.
async fn by_admin(gateway: &Gateway, method: &str, below: &str) -> Call {
    let key = gateway.new_key(KeyHolder::Admin(gateway.tenant)).await;
    let target = format!("/admin/tenants/{}/plugins{below}", gateway.tenant);
    gateway.request(method, &target).key(&key)
}

/// The names of the plugins that the tenant installed.
async fn own(gateway: &Gateway) -> Vec<String> {
    let listed = gateway.admin_request("GET", "/plugins").expect(200).await.json();
    let own = listed.as_array().unwrap().iter().filter(|plugin| !plugin["digest"].is_null());
    own.map(|plugin| plugin["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_admin_installs_lists_replaces_and_removes_a_plugin() {
    let gateway = Gateway::start().await;
    let install = async |guest: &str| -> Answer {
        let call = by_admin(&gateway, "PUT", "/hook").await;
        call.multipart(parts(guest, None)).expect(200).await
    };
    let first = install("ignores").await.json();
    assert_eq!((&first["name"], &first["roles"]), (&json!("hook"), &json!(["payload-mapper"])));
    let listed = by_admin(&gateway, "GET", "").await.expect(200).await.json();
    let hook = listed.as_array().unwrap().iter().find(|plugin| plugin["name"] == "hook").unwrap();
    assert_eq!(hook["digest"], first["digest"]);
    let bundled = listed.as_array().unwrap().iter().find(|p| p["name"] == "calculator").unwrap();
    assert_eq!(bundled["digest"], Value::Null);

    assert_ne!(install("replies_now").await.json()["digest"], first["digest"]);
    assert_eq!(own(&gateway).await, ["hook"]);
    by_admin(&gateway, "DELETE", "/hook").await.expect(204).await;
    by_admin(&gateway, "DELETE", "/hook").await.expect(404).await;
    assert!(own(&gateway).await.is_empty());
    // A bundled plugin cannot be removed.
    by_admin(&gateway, "DELETE", "/calculator").await.expect(404).await;
}

#[tokio::test]
async fn a_component_that_is_refused_leaves_nothing_behind() {
    let gateway = Gateway::start().await;
    let kept = |folder: &str| {
        let files = std::fs::read_dir(gateway.home.path().join(folder));
        files.map(|files| files.count()).unwrap_or_default()
    };
    let install = async |guest: &str, status: u16| {
        let call = by_admin(&gateway, "PUT", "/hook").await;
        call.multipart(parts(guest, None)).expect(status).await;
    };
    install("ignores", 200).await;
    // Bundled plugins may be compiled in the meantime, so the cache is checked by digest, not by count.
    let before = kept("plugins");
    install("no_role", 422).await;
    assert_eq!(kept("plugins"), before);
    let digest = PluginDigest::of(&std::fs::read(guest_path("no_role")).unwrap()).hex();
    let cache = std::fs::read_dir(gateway.home.path().join("cache")).unwrap();
    let names = cache.map(|file| file.unwrap().file_name().into_string().unwrap());
    assert!(!names.into_iter().any(|name| name.starts_with(&digest)));
}

#[tokio::test]
async fn what_is_no_plugin_is_refused_with_a_reason() {
    let gateway = Gateway::start().await;
    let no_wasm = || Form::new().part("component", Part::bytes(b"not wasm at all".to_vec()));
    for (what, form, reason) in [
        ("a text", no_wasm(), "not a WebAssembly component"),
        ("a component without a role", parts("no_role", None), "payload-mapper"),
        ("one of another version", parts("wrong_version", None), "0.9.0"),
        ("not a component", Form::new().text("grants", GRANTS), "component is missing"),
        ("another part", parts("ignores", None).text("limits", "x"), "the parts are component"),
        ("grants that are none", parts("ignores", Some("[limit]\n")), "limit"),
    ] {
        let answer =
            gateway.admin_request("PUT", "/plugins/hook").multipart(form).expect(422).await;
        assert!(answer.detail().contains(reason), "{what}: {}", answer.text);
    }
    let no_form = gateway.admin_request("PUT", "/plugins/hook").text("application/wasm", "x");
    assert!(no_form.expect(400).await.detail().contains("multipart/form-data"));
    gateway
        .admin_request("PUT", "/plugins/Not-A-Name")
        .multipart(parts("ignores", None))
        .expect(404)
        .await;
    assert!(own(&gateway).await.is_empty());
}

#[tokio::test]
async fn what_a_plugin_may_do_is_for_an_operator_to_say() {
    let gateway = Gateway::start().await;
    let install = by_admin(&gateway, "PUT", "/hook").await;
    let refused = install.multipart(parts("ignores", Some(GRANTS))).expect(403).await;
    assert!(refused.detail().contains("operator"), "{}", refused.text);
    assert!(own(&gateway).await.is_empty());

    let install = gateway.admin_request("PUT", "/plugins/hook");
    install.multipart(parts("ignores", Some(GRANTS))).expect(200).await;
    by_admin(&gateway, "GET", "/hook/grants").await.expect(403).await;
    let grab = by_admin(&gateway, "PUT", "/hook/grants").await.text("application/toml", "");
    grab.expect(403).await;
    // Another component under the same name gets the same grants.
    let replace = by_admin(&gateway, "PUT", "/hook").await;
    replace.multipart(parts("replies_now", None)).expect(200).await;
    let granted = gateway.admin_request("GET", "/plugins/hook/grants").expect(200).await;
    assert_eq!(
        (granted.text.as_str(), granted.header("content-type")),
        (GRANTS, Some("application/toml"))
    );
}

#[tokio::test]
async fn grants_are_replaced_as_a_whole_or_not_at_all() {
    let gateway = Gateway::start().await;
    gateway.install("ignores", GRANTS).await;
    let put = |text: &str| {
        gateway
            .admin_request("PUT", "/plugins/ignores/grants")
            .text("application/toml", text.to_owned())
    };
    for (wrong, status, reason) in [
        ("[limits]\nmemory_mb = 5\n", 422, "memory_mb"),
        ("[[egress]]\n", 422, "egress"),
        ("limits", 422, "TOML"),
    ] {
        let answer = put(wrong).expect(status).await;
        assert!(answer.detail().contains(reason), "{wrong:?}: {}", answer.text);
        assert_eq!(
            gateway.admin_request("GET", "/plugins/ignores/grants").expect(200).await.text,
            GRANTS
        );
    }
    let larger = "# Agreed on in March.\n[limits]\nmemory_mib = 64\n";
    assert_eq!(put(larger).expect(200).await.text, larger);
    assert_eq!(
        gateway.admin_request("GET", "/plugins/ignores/grants").expect(200).await.text,
        larger
    );
    gateway.admin_request("GET", "/plugins/absent/grants").expect(404).await;
}

#[tokio::test]
async fn who_installs_a_plugin_under_a_name_that_ships_is_told_so_once() {
    let gateway = Gateway::start().await;
    let install = async |guest: &str, name: &str| {
        let call = gateway.admin_request("PUT", &format!("/plugins/{name}"));
        call.multipart(parts(guest, None)).expect(200).await.json()["notes"].to_string()
    };
    let note = "it takes the place of the plugin calculator that ships with the gateway";
    assert!(install("mapper_custom", "calculator").await.contains(note));
    assert!(!install("getter_upper", "calculator").await.contains(note), "it was replaced already");
    assert!(!install("mapper_custom", "my-own").await.contains(note));
    by_admin(&gateway, "DELETE", "/calculator").await.expect(204).await;
    assert!(install("mapper_custom", "calculator").await.contains(note));
}

#[tokio::test]
async fn a_setting_of_the_grants_that_the_plugin_does_not_have_is_noted() {
    let gateway = Gateway::start().await;
    let hmac = "hmac".parse().unwrap();
    let notes = async |settings: &str| {
        let grants = format!("[settings]\n{settings}\n");
        let plugins = &gateway.services.plugins;
        plugins.put_grants(gateway.tenant, &hmac, &grants).await.unwrap().join("; ")
    };
    assert!(!notes("header = \"x-sig\"").await.contains("it has no setting"));
    let noted = notes("header = \"x-sig\"\nseparater = \";\"").await;
    assert!(noted.contains("it has no setting \"separater\"; it has "), "{noted}");
}

#[tokio::test]
async fn grants_that_give_what_nobody_gets_are_noted() {
    let gateway = Gateway::start().await;
    let notes = async |grants: &str| {
        let (plugins, name) = (&gateway.services.plugins, "opens-files".parse().unwrap());
        gateway.install("opens_files", "").await;
        plugins.put_grants(gateway.tenant, &name, grants).await.unwrap().join("; ")
    };
    let noted = notes("[limits]\nmemory_mib = 100000\n[folder]\npath = \"/no/such\"\n").await;
    assert!(noted.contains("memory_mib is 100000, and a call has "), "{noted}");
    assert!(noted.contains("there is no folder /no/such"), "{noted}");
    let home = gateway.home.path().display();
    let noted = notes(&format!("[limits]\nmemory_mib = 16\n[folder]\npath = \"{home}\"\n")).await;
    assert_eq!(noted, "");
}
