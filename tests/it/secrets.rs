//! A tenant's secret is available only to the plugins and channels that it is granted to, and is never shown: not to
//! its author, not to a plugin, and not in the log or the database.

use std::io::Write as _;
use std::process::Stdio;

use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _};
use wardgate::tenants::KeyHolder;

use crate::support::wardgate_command;
use crate::support::{Answer, Client, Gateway, GatewayProcess, Home, guest_path, wardgate};

/// Grants the tenant's secret `partner` to the guest under the name `signing`.
const GRANTS: &str = "[secrets]\nsigning = \"partner\"\n";

const OLD: &str = "an-old-value-0123456789";
const NEW: &str = "a-new-value-0123456789";

async fn set(gateway: &Gateway, name: &str, body: Value) -> Answer {
    gateway.admin_request("PUT", &format!("/secrets/{name}")).json(&body).send().await
}

/// The outcome when a mapper opens its granted secret: `opened`, or a failure's code.
async fn opening(gateway: &Gateway, agent: &Client) -> String {
    let body = json!({"secret": "signing"});
    let task = agent.trigger().json(&body).expect(200).await.task_id();
    gateway.wait_for_final_status(&task).await["result"].to_string()
}

/// A channel whose verifier compares the header `x-token` with the secret `partner`.
async fn channel(gateway: &Gateway) -> String {
    gateway.install("speaks_for_a_provider", "").await;
    let definition = json!({
        "name": "hook", "agent": "tested", "secrets": {"secret": "partner"},
        "verifier": "speaks-for-a-provider", "mapper": "speaks-for-a-provider",
    });
    gateway.apply_channel(definition).await
}

async fn status(gateway: &Gateway, hook: &str, token: &str) -> u16 {
    gateway.post(hook).header("x-token", token).json(&json!({})).send().await.status
}

#[tokio::test]
async fn an_admin_keeps_lists_and_removes_a_secret_and_never_sees_it_again() {
    let gateway = Gateway::start().await;
    let admin = gateway.new_key(KeyHolder::Admin(gateway.tenant)).await;
    let secrets = format!("/admin/tenants/{}/secrets", gateway.tenant);
    let one = format!("{secrets}/partner");
    let list = async || gateway.get(&secrets).key(&admin).expect(200).await.json();
    assert_eq!(list().await, json!([]));

    let put = gateway.request("PUT", &one).key(&admin).json(&json!({"value": OLD}));
    let kept = put.expect(200).await.json();
    assert_eq!((&kept["name"], &kept["rotating"]), (&json!("partner"), &json!(false)));
    assert_eq!(list().await, json!([kept]));
    let rotated = json!({"value": NEW, "rotate": true});
    let kept = gateway.request("PUT", &one).key(&admin).json(&rotated).expect(200).await.json();
    assert_eq!(kept["rotating"], true);
    assert_eq!(list().await, json!([kept]));
    let fields: Vec<_> = kept.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["name", "rotating", "use", "set_by", "updated_at"]);

    gateway.delete(&one).key(&admin).expect(204).await;
    gateway.delete(&one).key(&admin).expect(404).await;
    assert_eq!(list().await, json!([]));
}

#[tokio::test]
async fn a_plugin_and_a_channel_use_what_was_set_from_their_next_call_on() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper("asks_secret", GRANTS).await;
    let hook = channel(&gateway).await;
    // A secret that is not set yet is the operator's fault, and the sender may retry.
    assert!(opening(&gateway, &agent).await.contains("forbidden"));
    assert_eq!(status(&gateway, &hook, OLD).await, 503);

    assert_eq!(set(&gateway, "partner", json!({"value": OLD})).await.status, 200);
    assert!(opening(&gateway, &agent).await.contains("opened"));
    assert_eq!(status(&gateway, &hook, OLD).await, 200);

    gateway.admin_request("DELETE", "/secrets/partner").expect(204).await;
    assert!(opening(&gateway, &agent).await.contains("forbidden"));
    assert_eq!(status(&gateway, &hook, OLD).await, 503);
}

#[tokio::test]
async fn a_rotated_value_is_accepted_until_the_next_change_and_a_replaced_one_is_not() {
    let gateway = Gateway::start().await;
    let hook = channel(&gateway).await;
    let accepted =
        async || [status(&gateway, &hook, OLD).await, status(&gateway, &hook, NEW).await];
    set(&gateway, "partner", json!({"value": OLD})).await;
    assert_eq!(accepted().await, [200, 401]);
    set(&gateway, "partner", json!({"value": NEW, "rotate": true})).await;
    assert_eq!(accepted().await, [200, 200]);
    set(&gateway, "partner", json!({"value": NEW, "rotate": false})).await;
    assert_eq!(accepted().await, [401, 200]);
    set(&gateway, "partner", json!({"value": "another-value", "rotate": true})).await;
    assert_eq!(accepted().await, [401, 200]);
    set(&gateway, "partner", json!({"value": "the-last-value", "rotate": true})).await;
    assert_eq!(accepted().await, [401, 401], "two values at most are accepted");
}

#[tokio::test]
async fn what_is_no_secret_is_refused_without_being_repeated_and_changes_nothing() {
    let gateway = Gateway::start().await;
    set(&gateway, "partner", json!({"value": OLD})).await;
    let before = gateway.admin_request("GET", "/secrets").expect(200).await.text;
    let too_long = "x".repeat((16 << 10) + 1);
    for (what, body, wanted) in [
        ("an empty one", json!({"value": ""}).to_string(), 422),
        ("one that is too long", json!({"value": too_long}).to_string(), 422),
        ("a number", r#"{"value": 918273645546372819}"#.to_owned(), 422),
        ("no value", r#"{"rotate": true}"#.to_owned(), 422),
        ("no answer to rotate", format!(r#"{{"value": "x", "rotate": "{NEW}"}}"#), 422),
        ("another field", format!(r#"{{"value": "x", "{NEW}": 1}}"#), 422),
        ("a text alone", format!(r#""{NEW}""#), 422),
        ("no use", format!(r#"{{"value": "{NEW}", "use": []}}"#), 422),
        ("an unknown use", format!(r#"{{"value": "{NEW}", "use": ["read"]}}"#), 422),
        ("uses that are a text", format!(r#"{{"value": "{NEW}", "use": "verify"}}"#), 422),
        ("an array", format!(r#"["{NEW}", true]"#), 422),
        ("no JSON", NEW.to_owned(), 400),
        ("half of it", format!(r#"{{"value": "{NEW}"#), 400),
        ("a long body", " ".repeat(200_000), 413),
    ] {
        let call = gateway.admin_request("PUT", "/secrets/partner").text("application/json", body);
        let answer = call.send().await;
        assert_eq!(answer.status, wanted, "{what}: {}", answer.text);
        let repeats = [NEW, "918273645546372819"].iter().any(|value| answer.text.contains(value));
        assert!(!repeats, "{what}: {}", answer.text);
        assert_eq!(
            gateway.admin_request("GET", "/secrets").expect(200).await.text,
            before,
            "{what}"
        );
    }
    let longest = json!({"value": "\u{1}".repeat(16 << 10)});
    assert_eq!(set(&gateway, "partner", longest).await.status, 200);
    for name in ["Partner", "a_b", &"a".repeat(65)] {
        assert_eq!(set(&gateway, name, json!({"value": "x"})).await.status, 404, "{name}");
    }
}

#[tokio::test]
async fn a_tenant_has_a_thousand_secrets_at_most() {
    let gateway = Gateway::start().await;
    let names: Vec<_> = (1..1_000).map(|number| format!("s-{number}")).collect();
    let kept = names.iter().map(|name| gateway.store_secret(name, "x", false));
    futures::future::join_all(kept).await;
    assert_eq!(set(&gateway, "the-last", json!({"value": "x"})).await.status, 200);
    let refused = set(&gateway, "one-more", json!({"value": "x"})).await;
    assert_eq!(refused.status, 409, "{}", refused.text);
    assert_eq!(set(&gateway, "the-last", json!({"value": "y"})).await.status, 200);
}

#[tokio::test]
async fn secrets_are_managed_by_the_tenants_own_admins_and_used_by_its_own_plugins() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper("asks_secret", GRANTS).await;
    let other = gateway.new_tenant("other").await;
    let [admin, caller] = [KeyHolder::Admin(other), KeyHolder::Tenant(gateway.tenant)];
    for holder in [admin, caller] {
        let key = gateway.new_key(holder).await;
        for (method, below) in [("GET", ""), ("PUT", "/partner"), ("DELETE", "/partner")] {
            let target = format!("/admin/tenants/{}/secrets{below}", gateway.tenant);
            let call = gateway.request(method, &target).key(&key);
            call.json(&json!({"value": OLD})).expect(403).await;
        }
    }
    // Another tenant's secret of the same name is separate.
    let key = gateway.new_key(admin).await;
    let others = format!("/admin/tenants/{other}/secrets/partner");
    gateway.request("PUT", &others).key(&key).json(&json!({"value": OLD})).expect(200).await;
    assert!(opening(&gateway, &agent).await.contains("forbidden"));
    assert_eq!(gateway.admin_request("GET", "/secrets").expect(200).await.json(), json!([]));
}

#[tokio::test]
async fn a_sealed_value_that_is_moved_to_another_name_or_tenant_does_not_open() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper("asks_secret", GRANTS).await;
    let hook = channel(&gateway).await;
    let other = gateway.new_tenant("other").await;
    let theirs = format!("/admin/tenants/{other}/secrets/partner");
    let theirs = gateway.request("PUT", &theirs).key(&gateway.operator_key());
    theirs.json(&json!({"value": OLD})).expect(200).await;
    set(&gateway, "another", json!({"value": OLD})).await;
    let options = sqlx::sqlite::SqliteConnectOptions::new();
    let options = options.filename(gateway.home.path().join("wardgate.db"));
    let mut database = options.connect().await.unwrap();
    for from in ["name = 'another'", "name = 'partner' AND tenant_id <> ?1"] {
        set(&gateway, "partner", json!({"value": NEW})).await;
        assert_eq!(status(&gateway, &hook, NEW).await, 200);
        let moved = format!(
            "UPDATE secrets SET updated_at = updated_at + 1, \
             sealed = (SELECT sealed FROM secrets WHERE {from}) \
             WHERE name = 'partner' AND tenant_id = ?1"
        );
        let moved = sqlx::query(sqlx::AssertSqlSafe(moved));
        let moved = moved.bind(gateway.tenant.as_bytes().as_slice());
        assert_eq!(moved.execute(&mut database).await.unwrap().rows_affected(), 1);
        gateway.reload_grants().await;
        // Neither the moved nor the previous value is accepted, and no plugin can open the secret.
        for token in [OLD, NEW] {
            assert_eq!(status(&gateway, &hook, token).await, 503, "{from}");
        }
        let refused = agent.trigger().json(&json!({"secret": "signing"})).expect(500).await;
        assert!(!refused.text.contains(OLD) && !refused.text.contains(NEW), "{}", refused.text);
    }
    database.close().await.unwrap();
}

/// Runs `wardgate` with this standard input, which must succeed; returns its output.
fn run_with_input(input: &str, arguments: &[&str]) -> String {
    let mut command = wardgate_command(arguments);
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    running.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = running.wait_with_output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {message}");
    message + &String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_value_is_in_no_answer_no_log_no_trace_and_not_in_the_clear_in_the_database() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &["--log", "trace"]);
    let data = home.path().to_str().unwrap();
    let key = home.write("operator.key", gateway.startup_line["operator_key"].as_str().unwrap());
    let (url, key) = (format!("http://{}", gateway.listen), key.to_str().unwrap().to_owned());
    let through = ["--url", &url, "--key-file", &key, "--tenant", "demo"];
    let guest = guest_path("speaks_for_a_provider");
    let channel = home.write(
        "hook.json",
        r#"{"name": "hook", "agent": "demo", "secrets": {"secret": "partner"},
            "verifier": "speaks-for-a-provider", "mapper": "speaks-for-a-provider"}"#,
    );
    let mut message = run_with_input(OLD, &[&["secret", "set", "partner"], &through[..]].concat());
    run_with_input("", &[&["plugin", "install", guest.to_str().unwrap()], &through[..]].concat());
    let applied = run_with_input(
        "",
        &[&["channel", "apply", channel.to_str().unwrap()], &through[..]].concat(),
    );
    let hook = applied.split_whitespace().find(|word| word.contains("/hooks/")).unwrap();
    let hook = hook.split_once("/hooks/").map(|(_, id)| format!("/hooks/{id}")).unwrap();
    message +=
        &run_with_input(NEW, &[&["secret", "set", "partner", "--rotate"], &through[..]].concat());
    message += &run_with_input("", &[&["secret", "list"], &through[..]].concat());

    for token in [OLD, NEW, "wrong"] {
        // Wherever a provider sends it, the token goes no further than the verifier.
        let call = gateway.post(&format!("{hook}?also={token}")).header("x-token", token);
        let answer = call.header("x-again", token).json(&json!({"text": "hi"})).send().await;
        message += &answer.text;
        if answer.status == 200 {
            let task = answer.task_id();
            message += &gateway.wait_for_end(&task).await.to_string();
            message += &json!(gateway.thread(&task).await).to_string();
        }
    }
    message += &run_with_input("", &["channel", "show", "hook", "--data", data]);
    let serving = home.database_bytes();
    let (status, log) = tokio::task::spawn_blocking(move || gateway.terminate()).await.unwrap();
    assert!(status.success() && log.contains("TRACE"), "the log was not talkative");
    assert!(
        message.contains("partner\t") && message.contains("hi|"),
        "nothing was said: {message}"
    );
    for (place, text) in [
        ("an answer", message.as_bytes()),
        ("the log", log.as_bytes()),
        ("the database", &serving),
        ("the database, closed", &home.database_bytes()),
    ] {
        for value in [OLD, NEW] {
            let found = text.windows(value.len()).any(|part| part == value.as_bytes());
            assert!(!found, "{value} is in {place}");
        }
    }
}

#[test]
fn the_command_takes_a_value_from_standard_input_or_a_file_and_from_nowhere_else() {
    let home = Home::new();
    let data = ["--data", home.path().to_str().unwrap()];
    let run = |input: &str, arguments: &[&str]| run_with_input(input, &[arguments, &data].concat());
    run("", &["tenant", "create", "only"]);
    assert_eq!(run("value\n", &["secret", "set", "a"]), "keeps a\n");
    run("value", &["secret", "set", "c", "--use", "sign, verify"]);
    run("value", &["secret", "set", "c"]);
    let pem = home.write("key.pem", "-----BEGIN KEY-----\nAAAA\n-----END KEY-----\n");
    let pem = pem.to_str().unwrap();
    let set = run("", &["secret", "set", "b", "--from-file", pem]);
    assert_eq!(set, "keeps b\n");
    let set = run("", &["secret", "set", "b", "--rotate", "--from-file", pem]);
    assert_eq!(set, "keeps b; the value before is accepted until the next change\n");
    let listed = run("", &["secret", "list"]);
    let listed: Vec<_> = listed.lines().map(|line| line.split('\t').collect::<Vec<_>>()).collect();
    assert_eq!((listed[0][0], &listed[0][2..]), ("a", &["verify,compare,send"][..]));
    assert_eq!((listed[1][0], &listed[1][2..]), ("b", &["verify,compare,send", "rotating"][..]));
    assert_eq!((listed[2][0], &listed[2][2..]), ("c", &["verify,sign"][..]));
    assert_eq!(run("", &["secret", "remove", "a"]), "removed a\n");
    assert!(!run("", &["secret", "list"]).contains("a\t"));

    let long = home.write("long", &"x".repeat((16 << 10) + 1));
    for (arguments, reason) in [
        (&["secret", "set", "c", "--from-file", "/dev/null"][..], "1 to 16384 bytes"),
        (&["secret", "set", "c", "--from-file", long.to_str().unwrap()], "1 to 16384 bytes"),
        (&["secret", "set", "c", "--from-file", "absent"], "cannot read absent"),
        (&["secret", "set", "c", "value"], "unexpected argument"),
        (&["secret", "set", "c", "--use", "read"], "verify, compare, sign and send"),
        (&["secret", "remove", "absent"], "Secret not found"),
    ] {
        let output = wardgate(&[arguments, &data].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(reason), "{arguments:?}: {message}");
    }
    let both = ["secret", "set", "c", "--url", "http://127.0.0.1:1", "--key-file", "-"];
    let message = wardgate(&both).stderr;
    assert!(String::from_utf8_lossy(&message).contains("--from-file"));
}
