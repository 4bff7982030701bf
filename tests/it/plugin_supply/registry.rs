//! Components in OCI registries: fetched by the command, always pinned to a digest, in the format of `wkg`.

use serde_json::{Value, json};

use super::{
    command, command_error, digest, frozen, frozen_path, guest, home, supply_file, versioned, write,
};
use crate::support::Home;
use crate::support::oci_registry::{BASIC, MANIFEST, OciRegistry, RegistryAuth, USER};

/// The reference of a name in a registry.
fn oci_reference(registry: &OciRegistry, name: &str) -> String {
    format!("oci://{}/{name}", registry.host())
}

/// The fields of a plugin's versions, as `plugin versions` prints them.
fn listed_versions(home: &Home, name: &str) -> Vec<Vec<String>> {
    let lines = command(home, &["plugin", "versions", name]);
    lines.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_installed_and_known_by_its_digest() {
    let (home, registry) = (home(), OciRegistry::start(RegistryAuth::None).await);
    let first = write(&home, "first.wasm", &versioned(&guest("ignores"), "1.0.0"));
    let to = oci_reference(&registry, "acme/tools/my_hook:stable");
    let pinned = command(&home, &["plugin", "push", &first, &to]).trim().to_owned();
    let (name, manifest) = pinned.split_once('@').unwrap();
    assert_eq!(name, to.strip_prefix("oci://").unwrap());

    let message = command(&home, &["plugin", "install", &to]);
    let component = digest(&versioned(&guest("ignores"), "1.0.0"));
    assert!(message.starts_with(&format!("installed my-hook ({component})")), "{message}");
    assert!(message.contains(&format!("from {pinned}")), "{message}");

    // The tag moves. The installed version stays the same, and can be installed again by its digest.
    let second = write(&home, "second.wasm", &versioned(&guest("ignores"), "2.0.0"));
    let next = command(&home, &["plugin", "push", &second, &to]).trim().to_owned();
    assert_ne!(next, pinned);
    command(&home, &["plugin", "install", &to]);
    let old = format!("{}@{manifest}", oci_reference(&registry, "acme/tools/my_hook"));
    command(&home, &["plugin", "install", &old, "--name", "old"]);
    assert_eq!(listed_versions(&home, "old")[0][1], component);
    let versions = listed_versions(&home, "my-hook");
    let facts: Vec<_> =
        versions.iter().map(|line| (&*line[0], &*line[3], &*line[4], &*line[5])).collect();
    let expected = [("current", "2.0.0", &*next, "operator"), ("-", "1.0.0", &*pinned, "operator")];
    assert_eq!(facts, expected);
    let message = command(&home, &["plugin", "rollback", "my-hook"]);
    assert!(message.contains(&component) && message.contains(&pinned), "{message}");
    assert_eq!(listed_versions(&home, "my-hook")[1][0], "current");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_what_other_tools_read() {
    let (home, registry) = (home(), OciRegistry::start(RegistryAuth::None).await);
    let plugin = frozen_path();
    command(
        &home,
        &["plugin", "push", plugin.to_str().unwrap(), &oci_reference(&registry, "a/frozen:1")],
    );
    let manifest = registry.manifest("a/frozen:1");
    // The artifact layout of the CNCF working group, which `wkg` was verified to read.
    assert_eq!((&manifest["schemaVersion"], &manifest["mediaType"]), (&json!(2), &json!(MANIFEST)));
    let config = &manifest["config"];
    assert_eq!(config["mediaType"], "application/vnd.wasm.config.v0+json");
    let layer = json!({
        "mediaType": "application/wasm",
        "digest": digest(&frozen()),
        "size": frozen().len(),
    });
    assert_eq!(manifest["layers"], json!([layer]));
    let config: Value = serde_json::from_slice(&registry.blob(&config["digest"])).unwrap();
    assert_eq!((&config["architecture"], &config["os"]), (&json!("wasm"), &json!("wasip2")));
    assert_eq!(config["layerDigests"], json!([digest(&frozen())]));
    assert!(config["created"].as_str().unwrap().contains('T'), "{config}");
    let has = |list: &str, name: &str| {
        config["component"][list].as_array().unwrap().contains(&json!(name))
    };
    assert!(has("exports", "wardgate:plugin/payload-mapper@0.1.0"), "{config}");
    assert!(has("imports", "wasi:keyvalue/store@0.2.0-draft"), "{config}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_wkg_has_pushed_is_installed() {
    let (home, registry) = (home(), OciRegistry::start(RegistryAuth::None).await);
    registry.put_blob(&frozen());
    let manifest = supply_file("wkg-0.16.1.manifest.json");
    let digest = registry.put_manifest("acme/frozen:1.0.0", manifest.into());
    command(&home, &["plugin", "install", &oci_reference(&registry, "acme/frozen:1.0.0")]);
    let version = &listed_versions(&home, "frozen")[0];
    let expected = format!("{}/acme/frozen:1.0.0@{digest}", registry.host());
    assert_eq!((version[3].as_str(), &version[4]), ("1.0.0", &expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_goes_with_the_artefact() {
    let (home, registry) = (home(), OciRegistry::start(RegistryAuth::None).await);
    let key = supply_file("vendor.pub").lines().nth(1).unwrap().to_owned();
    let settings =
        format!("[plugins]\nrequire_signed = true\nsigners = {{ vendor = \"{key}\" }}\n");
    let settings = write(&home, "settings.toml", settings.as_bytes());
    let plugin = write(&home, "hook.wasm", &frozen());
    write(&home, "hook.wasm.minisig", supply_file("plugin.wasm.minisig").as_bytes());
    let to = oci_reference(&registry, "acme/hook:1");
    command(&home, &["plugin", "push", &plugin, &to]);
    let install = ["--settings", &settings, "plugin", "install", &to];
    assert!(command_error(&home, &[&install[..], &["--unsigned"]].concat()).contains("not signed"));
    let message = command(&home, &install);
    assert!(message.contains("signed by vendor (5225658B963831A8): plugin 1.0.0"), "{message}");

    // A signature from a file, if the artifact has none.
    std::fs::remove_file(home.path().join("hook.wasm.minisig")).unwrap();
    command(&home, &["plugin", "push", &plugin, &to]);
    assert!(command_error(&home, &install).contains("not signed"));
    let beside = write(&home, "a.minisig", supply_file("plugin.wasm.minisig").as_bytes());
    command(&home, &[&install[..], &["--signature", &beside]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_registry_is_used_by_its_user_alone() {
    for open in [RegistryAuth::Basic, RegistryAuth::Bearer] {
        let (home, registry) = (home(), OciRegistry::start(open).await);
        let (plugin, to) =
            (write(&home, "hook.wasm", &guest("ignores")), oci_reference(&registry, "a/hook:1"));
        let password = write(&home, "password", format!("{}\n", USER.1).as_bytes());
        let as_user = ["--registry-user", USER.0, "--registry-password-file", &password];
        let wrong = write(&home, "wrong", b"no such horse");
        let as_other = ["--registry-user", USER.0, "--registry-password-file", &wrong];
        for who in [&[][..], &as_other] {
            for what in [&["plugin", "push", &plugin, &to][..], &["plugin", "install", &to]] {
                let message = command_error(&home, &[what, who].concat());
                assert!(message.contains("401"), "{message}");
                assert!(!message.contains("horse"), "{message}");
            }
        }
        command(&home, &[&["plugin", "push", &plugin, &to][..], &as_user].concat());
        command(&home, &[&["plugin", "install", &to][..], &as_user].concat());
        assert_eq!(listed_versions(&home, "hook").len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_is_found_where_docker_has_him() {
    let (home, registry) = (home(), OciRegistry::start(RegistryAuth::Basic).await);
    registry.put("a/hook:1", &guest("ignores"), |_| {});
    let auth = BASIC.strip_prefix("Basic ").unwrap();
    let config = json!({"auths": {registry.host(): {"auth": auth}, "ghcr.io": {}}});
    write(&home, "config.json", config.to_string().as_bytes());
    let install = ["plugin", "install", &oci_reference(&registry, "a/hook:1"), "--data"];
    let output = crate::support::wardgate_command(
        &[&install[..], &[home.path().to_str().unwrap()]].concat(),
    )
    .env("DOCKER_CONFIG", home.path())
    .output()
    .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
