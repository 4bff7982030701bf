//! `plugin inspect` shows what a component is and which grants it needs before it is installed; an installation and a
//! change of grants report which grants are missing.

use serde_json::{Value, json};

use crate::support::{Gateway, Home, Setup, guest_path, wardgate};

/// The import of a plugin that sends requests.
const EGRESS: &str = concat!("wardgate:plugin/egress@", env!("PLUGIN_INTERFACE_VERSION"));

/// Runs `wardgate plugin inspect`, and returns whether it succeeded and its output.
fn inspect(plugin: &str, more: &[&str]) -> (bool, String) {
    let output = wardgate(&[&["plugin", "inspect", plugin], more].concat());
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn guest(name: &str) -> String {
    guest_path(name).display().to_string()
}

#[test]
fn roles_tools_settings_imports_needs_size_and_digest_are_told() {
    let (ok, message) = inspect("slack", &[]);
    assert!(ok, "{message}");
    for part in [
        "name     slack\n",
        " bytes\ndigest   sha256:",
        "roles    verifier, payload-mapper, replier, about\n",
        "settings:\n",
        "tolerance-seconds [default: 300]: ",
        "imports:\n  ",
        &format!("  {EGRESS}\n"),
        "needs:\n",
        &format!(
            "  [[egress]]: it sends HTTP requests; without a rule that allows one, nothing is sent ({EGRESS})\n"
        ),
        "  [secrets]: ",
    ] {
        assert!(message.contains(part), "{part:?}: {message}");
    }
    assert!(!message.contains("missing:"), "nobody said what it would be granted: {message}");
    let (_, calculator) = inspect("calculator", &[]);
    assert!(calculator.contains("\n  calculate (changes nothing): "), "{calculator}");
    let (_, result) = inspect("slack", &["--json"]);
    let result: Value = serde_json::from_str(&result).unwrap();
    assert_eq!(result["roles"], json!(["verifier", "payload-mapper", "replier", "about"]));
    assert!(result["size"].as_u64().unwrap() > 50_000, "{result}");
    assert_eq!(result["settings"]["properties"]["tolerance-seconds"]["default"], "300");
}

#[test]
fn what_a_grants_file_lacks_is_a_sentence_that_names_it() {
    let home = Home::new();
    let grants = |text: &str| home.write("grants.toml", text).display().to_string();
    let (ok, message) = inspect("slack", &["--grants", &grants("")]);
    assert!(ok, "{message}");
    for part in [
        "missing:\n",
        &format!(
            "  no [[egress]] is granted: it sends HTTP requests; without a rule that allows one, nothing is \
             sent ({EGRESS})\n"
        ),
        "  no [secrets] is granted: ",
    ] {
        assert!(message.contains(part), "{part:?}: {message}");
    }
    let whole = "[[egress]]\nhost = \"slack.com\"\n[secrets]\nsecret = \"slack\"\n";
    let (_, message) = inspect("slack", &["--grants", &grants(whole)]);
    assert!(!message.contains("missing:") && !message.contains("does not accept"), "{message}");
    let wrong = format!("{whole}[settings]\ntolerance-seconds = \"soon\"\n");
    let (_, message) = inspect("slack", &["--grants", &grants(&wrong)]);
    assert!(message.contains("does not accept the settings:\n  `tolerance-seconds` "), "{message}");
    let counted = inspect("slack", &["--grants", &grants("egress-mode = \"count\"")]).1;
    assert!(!counted.contains("no [[egress]]"), "{counted}");
    let (_, message) = inspect(&guest("keeps_values"), &["--grants", &grants("")]);
    assert!(message.contains("no [key-value] is granted: it keeps values"), "{message}");
    // Most languages' standard libraries import files, so a missing [folder] is not reported.
    let (_, message) = inspect(&guest("opens_files"), &["--grants", &grants("")]);
    assert!(
        message.contains("  [folder]: it can use files") && !message.contains("no [folder]"),
        "{message}"
    );
    let (ok, message) = inspect("slack", &["--grants", &grants("[limit]\ncpu_ms = 1\n")]);
    assert!(!ok && message.contains("unknown field `limit`"), "{message}");
}

#[test]
fn components_from_elsewhere_and_files_that_are_none_are_told_apart() {
    let (ok, message) = inspect(&guest("foreign_kinds"), &[]);
    assert!(
        ok && message.contains("roles    toolbox\n") && message.contains("tools:\n"),
        "{message}"
    );
    let (ok, message) = inspect(&guest("foreign_resources"), &[]);
    assert!(!ok && message.contains("its answer holds the resource counter"), "{message}");
    let (ok, message) = inspect(&guest("no_role"), &[]);
    assert!(!ok && message.contains("none of the roles"), "{message}");
    let home = Home::new();
    let text = home.write("text.wasm", "not a component");
    let (ok, message) = inspect(text.to_str().unwrap(), &[]);
    assert!(!ok && message.contains("not a WebAssembly component"), "{message}");
    let core = home.path().join("core.wasm");
    std::fs::write(&core, b"\0asm\x01\0\0\0").unwrap();
    let (ok, message) = inspect(core.to_str().unwrap(), &[]);
    assert!(!ok && message.contains("it is a core module"), "{message}");
    let (ok, message) = inspect("/dev/zero", &[]);
    assert!(!ok && message.contains("it is not a regular file"), "{message}");
    let (ok, message) = inspect("/nowhere/at/all.wasm", &[]);
    assert!(!ok && message.contains("cannot read /nowhere/at/all.wasm"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_installs_is_told_what_it_lacks() {
    let gateway = Gateway::start().await;
    let data = gateway.home.path().to_str().unwrap();
    let arguments =
        ["plugin", "install", &guest("keeps_values"), "--data", data, "--tenant", "tests"];
    let output = wardgate(&arguments);
    let message = String::from_utf8(output.stdout).unwrap();
    assert!(message.contains("note: no [key-value] is granted: it keeps values"), "{message}");
    let granted = gateway.home.write("kv.toml", "[key-value]\nbytes = 1000\n");
    let granted = [arguments.as_slice(), &["--grants", granted.to_str().unwrap()]].concat();
    let message = String::from_utf8(wardgate(&granted).stdout).unwrap();
    assert!(
        message.starts_with("installed keeps-values") && !message.contains("note:"),
        "{message}"
    );
    let shown = gateway.admin_request("GET", "/plugins/slack").expect(200).await.json();
    let notes = shown["notes"].as_array().unwrap();
    let says = |what: &str| notes.iter().any(|note| note.as_str().unwrap().starts_with(what));
    assert!(says("no [[egress]] is granted: ") && says("no [secrets] is granted: "), "{shown}");
    let imports = shown["imports"].as_array().unwrap();
    assert!(imports.contains(&json!(EGRESS)), "{shown}");
}

#[tokio::test]
async fn settings_that_the_plugin_does_not_accept_are_not_granted() {
    let gateway = Gateway::start().await;
    let put = |text: &'static str| {
        gateway.admin_request("PUT", "/plugins/slack/grants").text("application/toml", text)
    };
    put("[settings]\ntolerance-seconds = \"120\"\n").expect(200).await;
    let refused = put("[settings]\ntolerance-seconds = \"soon\"\n").expect(422).await;
    let detail = refused.detail();
    let sentence = "plugin slack does not accept the settings that it is granted: \
                    `tolerance-seconds` ";
    assert!(detail.starts_with(sentence), "{detail}");
    let stays = gateway.admin_request("GET", "/plugins/slack/grants").expect(200).await;
    assert_eq!(stays.text, "[settings]\ntolerance-seconds = \"120\"\n");
    // The same at an installation.
    let component = guest_path("speaks_for_a_provider");
    let wrong = gateway.try_install(&component, "[settings]\nx = \"1\"\n").await.unwrap_err();
    assert!(wrong.to_string().contains("does not accept the settings"), "{wrong}");
    gateway.try_install(&component, "").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_installs_two_things_at_once_and_others_wait_or_are_refused() {
    for (patience, status) in [(0, 429), (600, 200)] {
        let setup = Setup::new();
        let gateway = setup
            .settings(|settings| settings.plugins.install_wait_seconds_max = patience)
            .start()
            .await;
        let plugins = &gateway.services.plugins;
        let one = plugins.install_permit(gateway.tenant).await.unwrap();
        let two = plugins.install_permit(gateway.tenant).await.unwrap();
        let other = gateway.new_tenant("other").await;
        assert!(plugins.install_permit(other).await.is_some(), "others have turns of their own");
        let component = std::fs::read(guest_path("ignores")).unwrap();
        let part = reqwest::multipart::Part::bytes(component);
        let form = reqwest::multipart::Form::new().part("component", part);
        let third = gateway.admin_request("PUT", "/plugins/ignores").multipart(form);
        let third = tokio::spawn(third.expect(status));
        if status == 200 {
            drop(one);
        }
        let answer = third.await.unwrap();
        if status == 429 {
            assert_eq!(answer.header("retry-after"), Some("1"));
            assert!(answer.detail().contains("two installations"), "{}", answer.text);
        }
        drop(two);
    }
}
