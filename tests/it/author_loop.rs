//! The tools of plugin authors: `plugin test` and `plugin try` run a plugin without a server, `--watch` reloads
//! new builds in a running one.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::{GatewayProcess, Home, guest_path, poll_until, wardgate};

/// A folder with golden cases.
struct CaseFolder(Home);

impl CaseFolder {
    fn new() -> Self {
        Self(Home::new())
    }

    fn case(&self, name: &str, case: &Value) -> &Self {
        fs::create_dir_all(self.0.path().join("fixtures")).unwrap();
        self.0.write(&format!("fixtures/{name}.json"), &case.to_string());
        self
    }

    fn fixtures(&self) -> String {
        self.0.path().join("fixtures").display().to_string()
    }
}

fn guest(name: &str) -> String {
    guest_path(name).display().to_string()
}

/// Whether a command succeeded, and its output.
fn run_command(arguments: &[&str]) -> (bool, String) {
    let output = wardgate(arguments);
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// A golden case for the guest `speaks_for_a_provider`, with these members added or replaced.
fn case(call: &str, more: Value) -> Value {
    let mut case = json!({
        "call": call,
        "request": {"headers": {"x-token": "the token", "x-delivery": "d-1"}, "body": {"text": "hi"}},
        "secrets": {"secret": ["the newer token", "the token"]},
        "settings": {"deliver-url": "https://provider.example/messages"},
        "task": {"id": "t", "status": "completed", "result": "42"},
    });
    for (name, value) in more.as_object().unwrap() {
        case[name] = value.clone();
    }
    case
}

#[test]
fn golden_cases_of_every_role_pass_and_say_what_they_cost() {
    let case_folder = CaseFolder::new();
    let mapped = json!({"action": "run", "delivery_id": "d-1"});
    let sent = json!([{"body": "hi: \"42\"", "credential": "bot"}]);
    let answer = |status: u16| {
        let url = "https://provider.example/messages";
        json!([{"method": "POST", "url": url, "answer": {"status": status}}])
    };
    let wrong = json!({"headers": {"x-token": "wrong"}});
    case_folder.case("verify", &case("verify", json!({"expect": {"ok": {"id": "provider"}}})))
        .case("forged", &case("verify", json!({"request": wrong, "expect": {"failure": {"code": "unauthorized"}}})))
        .case("map", &case("map-payload", json!({"expect": {"ok": mapped}})))
        .case("reply", &case("reply", json!({"expect": {"ok": {"status": 200, "headers": {"content-type": "application/xml"}}}})))
        .case("deliver", &case("deliver", json!({"egress": answer(200), "expect": {"ok": null, "egress_sent": sent}})))
        .case("refused", &case("deliver", json!({"egress": answer(400), "expect": {"failure": {"code": "refused"}}})))
        .case("unscripted", &case("deliver", json!({"expect": {"failure": {"code": "not-scripted"}}})))
        .case("settings", &case("check-config", json!({"config": {"x": "1"}, "expect": {"ok": [{"pointer": "/x"}]}})))
        .case("none", &case("call-tool", json!({"tool": "t", "expect": {"refusal": "no-such-role"}})));
    let (passed, text) =
        run_command(&["plugin", "test", &guest("speaks_for_a_provider"), &case_folder.fixtures()]);
    assert!(passed, "{text}");
    assert!(text.ends_with("9 cases passed\n") && text.contains(" ms, cpu "), "{text}");
}

#[test]
fn a_case_that_fails_says_where_and_how_and_can_be_taken_over() {
    let case_folder = CaseFolder::new();
    let expect = json!({"ok": {"status": 201, "headers": {"content-type": "text/plain"}}});
    case_folder
        .case("reply", &case("reply", json!({"about": "Answers are plain.", "expect": expect})));
    let arguments = ["plugin", "test", &guest("speaks_for_a_provider"), &case_folder.fixtures()];
    let (passed, text) = run_command(&arguments);
    assert!(!passed);
    for part in [
        "FAILED reply.json  Answers are plain.",
        "ok/status: expected 201, got 200",
        "ok/headers/content-type: expected \"text/plain\", got \"application/xml\"",
        "1 of 1 cases failed",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (taken, text) = run_command(&[arguments.as_slice(), &["--accept"]].concat());
    assert!(taken && text.contains("taken  reply.json"), "{text}");
    assert!(run_command(&arguments).0, "what was taken over is expected from now on");
}

#[test]
fn what_a_plugin_is_stopped_for_can_be_expected() {
    let case_folder = CaseFolder::new();
    for (guest_name, limit, refusal) in [
        ("spin_forever", "cpu_ms = 100", "out-of-cpu-time"),
        ("eat_memory", "cpu_ms = 5000\nmemory_mib = 8", "out-of-memory"),
    ] {
        case_folder.case("limit", &json!({"call": "map-payload", "expect": {"refusal": refusal}}));
        let grants =
            case_folder.0.write("grants.toml", &format!("[limits]\nwall_ms = 40000\n{limit}\n"));
        let grants = grants.display().to_string();
        let arguments =
            ["plugin", "test", &guest(guest_name), &case_folder.fixtures(), "--grants", &grants];
        let (passed, text) = run_command(&arguments);
        assert!(passed, "{guest_name}: {text}");
    }
}

#[test]
fn cases_that_cannot_be_run_are_refused_with_a_reason() {
    let case_folder = CaseFolder::new();
    let test = |case_folder: &CaseFolder| {
        run_command(&["plugin", "test", "dot-mapper", &case_folder.fixtures()])
    };
    fs::create_dir_all(case_folder.0.path().join("fixtures")).unwrap();
    assert!(test(&case_folder).1.contains("holds no case"));
    for (wrong, reason) in [
        (json!({"call": "map"}), "not one of verify, map-payload"),
        (json!({"call": "map-payload", "expct": {}}), "expct"),
        (json!({"call": "map-payload", "now": "yesterday"}), "RFC 3339"),
        (json!({"call": "call-tool"}), "needs a tool"),
        (json!({"call": "map-payload"}), "it expects nothing"),
        (
            json!({"call": "map-payload", "egress": [{"method": "GET", "url": "u"}]}),
            "needs an answer",
        ),
    ] {
        case_folder.case("wrong", &wrong);
        let (passed, text) = test(&case_folder);
        assert!(!passed && text.contains(reason), "{wrong}: {text}");
    }
    let (found, text) = run_command(&["plugin", "test", "absent.wasm", &case_folder.fixtures()]);
    assert!(!found && text.contains("absent.wasm"), "{text}");
}

#[test]
fn one_call_is_tried_from_the_command_line() {
    let home = Home::new();
    let body = home.write("body.json", r#"{"message": {"text": "hi"}}"#).display().to_string();
    let spec = r#"{"prompt": "message.text"}"#;
    let (went, text) = run_command(&[
        "plugin", "try", "dot-mapper", "map-payload", "--body", &body, "--spec", spec,
    ]);
    assert!(went && text.contains(r#""prompt": "hi""#) && text.contains("memory"), "{text}");

    let sum = r#"{"expression": "6*7"}"#;
    let tool = ["plugin", "try", "calculator", "call-tool", "--tool", "calculate"];
    let (went, text) = run_command(&[tool.as_slice(), &["--arguments", sum]].concat());
    assert!(went && text.contains("\"value\": 42"), "{text}");

    let twice = r#"{"expression": "6*7", "expression": "1"}"#;
    let (went, text) = run_command(&[tool.as_slice(), &["--arguments", twice]].concat());
    assert!(!went && text.contains("the field \"expression\" is there twice"), "{text}");

    let secret = home.write("secret", "the token\n").display().to_string();
    let secret = format!("secret={secret}");
    let verify = |token: &str| {
        let guest = guest("speaks_for_a_provider");
        run_command(&["plugin", "try", &guest, "verify", "-H", token, "--secret", &secret])
    };
    assert!(verify("x-token: the token").1.contains("\"id\": \"provider\""));
    let (went, text) = verify("x-token: another");
    assert!(!went && text.contains("unauthorized"), "{text}");

    // Without a grant, no request is sent.
    let url = r#"{"url": "https://example.com/"}"#;
    let fetch = ["plugin", "try", "http-fetch", "call-tool", "--tool", "http_fetch"];
    let (went, text) = run_command(&[fetch.as_slice(), &["--arguments", url]].concat());
    assert!(!went && text.contains("no grant allows GET"), "{text}");
    let (_, text) = run_command(&["plugin", "try", &guest("logs_flood"), "map-payload"]);
    assert!(text.contains("log: "), "{text}");
}

/// The log message for a build that cannot be installed.
const BROKEN: &str = "this build is broken";

/// Puts a guest into the watched folder by a rename, so that the gateway never sees a half-written file.
fn build(folder: &Path, guest: &str) {
    fs::copy(guest_path(guest), folder.join("hook.new")).unwrap();
    fs::rename(folder.join("hook.new"), folder.join("hook.wasm")).unwrap();
}

#[tokio::test]
async fn a_running_gateway_takes_a_new_build_and_leaves_a_broken_one() {
    let (home, build_folder) = (Home::new(), tempfile::tempdir().unwrap());
    build(build_folder.path(), "counts_calls");
    let watched = build_folder.path().display().to_string();
    let gateway = GatewayProcess::serve(&home, &["--watch", &watched]);
    let operator = gateway.startup_line["operator_key"].as_str().unwrap().to_owned();
    let tenant = gateway.startup_line["organization_id"].as_str().unwrap().to_owned();
    let digest = async || {
        let plugins = gateway.get(&format!("/admin/tenants/{tenant}/plugins")).key(&operator);
        let plugins = plugins.expect(200).await.json();
        let hook = plugins.as_array().unwrap().iter().find(|plugin| plugin["name"] == "hook");
        hook.map(|hook| hook["digest"].clone())
    };
    let first = poll_until("the first build", async || digest().await).await;
    let path = format!("/admin/tenants/{tenant}/agents/{}", gateway.agent);
    let agent = json!({"name": "demo", "mapper": "hook", "tools": ["calculator"]});
    gateway.request("PUT", &path).key(&operator).json(&agent).expect(200).await;
    assert_eq!(gateway.ask(json!({})).await.report()["received"], "1");

    build(build_folder.path(), "ignores");
    poll_until("the second build", async || (digest().await? != first).then_some(())).await;
    let ignored = gateway.webhook("").json(&json!({})).expect(200).await;
    assert_eq!(ignored.json()["status"], "Ignored", "the next call gets the new build");

    let second = digest().await;
    fs::write(build_folder.path().join("hook.wasm"), b"not a component").unwrap();
    poll_until("the broken build to be looked at", async || {
        gateway.log().contains(BROKEN).then_some(())
    })
    .await;
    assert_eq!(digest().await, second);
    assert_eq!(gateway.webhook("").json(&json!({})).expect(200).await.json()["status"], "Ignored");
    build(build_folder.path(), "counts_calls");
    poll_until("the build after the broken one", async || (digest().await? == first).then_some(()))
        .await;

    // After a rollback, the older build stays installed even if the grants beside the newer one change.
    let data = home.path().to_str().unwrap();
    let back = wardgate(&["plugin", "rollback", "hook", "--data", data]);
    assert!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));
    assert_eq!(digest().await, second);
    fs::write(build_folder.path().join("hook.grants.toml"), "[limits]\nmemory_mib = 32\n").unwrap();
    poll_until("the grants to be looked at", async || {
        gateway.log().contains("its grants have changed").then_some(())
    })
    .await;
    assert_eq!(digest().await, second);
    // A build that was refused for its grants is installed once they are valid.
    fs::write(build_folder.path().join("late.grants.toml"), "nonsense = 1").unwrap();
    fs::copy(guest_path("ignores"), build_folder.path().join("late.wasm")).unwrap();
    poll_until("the build to be refused", async || {
        let log = gateway.log();
        log.lines().any(|line| line.contains(BROKEN) && line.contains("late.wasm")).then_some(())
    })
    .await;
    fs::write(build_folder.path().join("late.grants.toml"), "[limits]\nmemory_mib = 32\n").unwrap();
    poll_until("the build to be installed", async || {
        let plugins = gateway.get(&format!("/admin/tenants/{tenant}/plugins")).key(&operator);
        plugins.expect(200).await.text.contains("\"late\"").then_some(())
    })
    .await;
    // Two files with the same plugin name are reported.
    fs::copy(guest_path("ignores"), build_folder.path().join("Hook.wasm")).unwrap();
    poll_until("both files to be named", async || {
        gateway.log().contains("two files are one plugin").then_some(())
    })
    .await;
    let (_, log) = gateway.terminate();
    assert!(log.lines().any(|line| line.contains(BROKEN) && line.contains("hook.wasm")), "{log}");
}
