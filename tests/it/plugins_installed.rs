//! Integrations are components that an operator installs from the command line while the gateway runs. They map
//! payloads, get values, reply and offer tools, within their grants.

use std::path::Path;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    Gateway, GatewayProcess, Home, INTERFACE_VERSION, guest_path, guest_with_unique_digest,
    poll_until, wardgate,
};

/// Runs a command on a data folder, which must succeed, and returns its output.
fn command(home: &Home, arguments: &[&str]) -> String {
    let data = home.path().to_str().unwrap();
    let output = wardgate(&[arguments, &["--data", data]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn install(home: &Home, guest: &str) -> String {
    command(home, &["plugin", "install", guest_path(guest).to_str().unwrap()])
}

/// The failure message of the guest `fails_with`.
const FAILURE: &str = "this guest fails on purpose";

#[tokio::test]
async fn an_operator_installs_plugins_and_agents_while_the_gateway_serves() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &[]);
    let message = install(&home, "mapper_custom");
    assert!(message.contains("mapper-custom") && message.contains("payload-mapper"), "{message}");
    assert!(message.contains(&format!(
        "grants/{}",
        gateway.startup_line["organization_id"].as_str().unwrap()
    )));
    install(&home, "getter_upper");
    install(&home, "destructive_tool");
    let listed = command(&home, &["plugin", "list"]);
    for name in ["mapper-custom\tsha256:", "getter-upper\tsha256:", "calculator\tbundled"] {
        assert!(listed.contains(name), "{listed}");
    }

    let file = home.write(
        "chat.toml",
        "name = \"chat\"\nmapper = \"mapper-custom\"\ngetter = \"getter-upper\"\n\
         tools = [\"destructive-tool\", \"calculator\"]\nallow_destructive_tools = true\n",
    );
    let applied = command(&home, &["agent", "apply", file.to_str().unwrap()]);
    let applied: Value = serde_json::from_str(&applied).unwrap();
    assert!(command(&home, &["agent", "list"]).contains("\tchat"));

    let target = format!("/?agent_id={}&getter=/result", applied["agent_id"].as_str().unwrap());
    let body = json!({"chat": 7, "text": "wipe {} and calculate {\"expression\":\"2^10\"}"});
    let answer = gateway.post(&target).key(&gateway.key).json(&body).expect(200).await;
    let report = answer.json().as_str().unwrap().to_owned();
    // The mapper set the prompt and the context, both tools ran, and the getter converted the result to upper case.
    for part in
        [r#""SUMMARY":"WIPE {}"#, r#""CHANNEL":"MADE-UP""#, r#"{"WIPED":TRUE}"#, r#""VALUE":1024"#]
    {
        assert!(report.contains(part), "{report}");
    }
}

#[tokio::test]
async fn an_agent_that_is_applied_again_keeps_its_id_and_its_webhook() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &[]);
    let apply = |text: &str| -> Value {
        let file = home.write("agent.toml", text);
        serde_json::from_str(&command(&home, &["agent", "apply", file.to_str().unwrap()])).unwrap()
    };
    let first = apply("name = \"again\"\n");
    let body = json!({"prompt": "calculate {\"expression\":\"6*7\"}"});
    let target = format!("/?agent_id={}", first["agent_id"].as_str().unwrap());
    let ask =
        async || gateway.post(&target).key(&gateway.key).json(&body).expect(200).await.report();
    assert_eq!(ask().await["tools"], json!([]));
    let second = apply("name = \"again\"\ntools = [\"calculator\"]\n");
    for same in ["organization_id", "agent_id", "webhook_path"] {
        assert_eq!(second[same], first[same]);
    }
    assert_eq!((&first["version"], &second["version"]), (&json!(1), &json!(2)));
    // A running gateway uses it within five seconds.
    let tools = poll_until("the agent's new tool", async || {
        let tools = ask().await["tools"].clone();
        (tools != json!([])).then_some(tools)
    });
    assert_eq!(tools.await[0]["result"]["value"], 42);
    gateway.post(first["webhook_path"].as_str().unwrap()).json(&json!({})).expect(200).await;
}

#[tokio::test]
async fn what_cannot_be_installed_is_refused_with_a_reason() {
    let home = Home::new();
    command(&home, &["tenant", "create", "one"]);
    let no_wasm = home.write("text.wasm", "not wasm at all");
    let misspelt = home.write("grants.toml", "[limits]\nmemory_mb = 5\n");
    let install = |component: &Path, more: &[&str]| {
        let data = home.path().to_str().unwrap();
        let arguments = ["plugin", "install", component.to_str().unwrap(), "--data", data];
        let output = wardgate(&[arguments.as_slice(), more].concat());
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(install(&no_wasm, &[]).contains("not a WebAssembly component"));
    let no_role = install(&guest_path("no_role"), &[]);
    assert!(no_role.contains("payload-mapper") && no_role.contains("toolbox"), "{no_role}");
    // The message names both versions: the component's and the gateway's.
    let newer = install(&guest_path("wrong_version"), &[]);
    assert!(newer.contains("0.9.0") && newer.contains(INTERFACE_VERSION), "{newer}");
    let grants = install(&guest_path("ignores"), &["--grants", misspelt.to_str().unwrap()]);
    assert!(grants.contains("memory_mb"), "{grants}");
    install(&guest_path("ignores"), &["--tenant", "nobody"]);
    install(&guest_path("ignores"), &["--name", "Not A Name"]);
    assert!(!command(&home, &["plugin", "list"]).contains("sha256"), "nothing was installed");
}

#[tokio::test]
async fn a_mapper_chooses_prompt_thread_and_context() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper("mapper_custom", "").await;
    let answer =
        agent.ask(json!({"chat": 99, "text": "hello", "secret": "not for the agent"})).await;
    assert_eq!(answer.report()["received"], "hello");
    assert_eq!(answer.report()["payload"], json!({"channel": "made-up", "characters": 5}));
    assert_eq!(agent.task(&answer.task_id()).await["thread_id"], "99");
    // The same mapper works for the agent's own webhook.
    let body = json!({"chat": 99, "text": "again"});
    let id = agent.trigger().json(&body).expect(200).await.task_id();
    let task = agent.wait_for_end(&id).await;
    assert_eq!((&task["input"]["text"], &task["thread_id"]), (&json!("again"), &json!("99")));
}

#[tokio::test]
async fn a_mapper_may_answer_a_handshake_at_once() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper("replies_now", "").await;
    for call in [agent.webhook(""), agent.trigger()] {
        let call = call.json(&json!({"challenge": 1})).answered_by_a_plugin();
        let answer = call.expect(202).await;
        assert_eq!(answer.text, "challenge accepted");
        assert_eq!(answer.header("content-type"), Some("text/plain"));
        assert_eq!(answer.header("x-handshake"), Some("yes"));
    }
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn a_mapper_may_ignore_an_event() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper("ignores", "").await;
    let answer = agent.webhook("").json(&json!({"event": "ping"})).expect(200).await;
    assert_eq!(answer.json(), json!({"status": "Ignored"}));
    let answer = agent.trigger().json(&json!({"event": "ping"})).expect(200).await;
    assert_eq!(answer.json()["success"], true);
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn a_mappers_failure_becomes_an_http_status() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper("fails_with", "").await;
    for (code, status, fault) in [
        ("invalid-input", 400, "caller"),
        ("unauthorized", 401, "caller"),
        ("forbidden", 403, "caller"),
        ("not-found", 404, "caller"),
        ("conflict", 409, "caller"),
        ("rate-limited", 429, "caller"),
        ("upstream", 502, "upstream"),
        ("timeout", 504, "upstream"),
        ("something-of-its-own", 500, "guest"),
        // A guest cannot impersonate the host.
        ("deadline", 500, "guest"),
    ] {
        let body = json!({"code": code, "retry_after_ms": 1500});
        let answer = agent.webhook("").json(&body).expect(status).await;
        assert_eq!(answer.detail(), FAILURE);
        assert_eq!(answer.header("x-wardgate-fault"), Some(fault), "{code}");
        assert_eq!(answer.header("retry-after"), Some("2"), "{code}");
        let answer = agent.trigger().json(&body).expect(status).await;
        let message = answer.json();
        assert_eq!(
            (&message["success"], &message["message"]),
            (&json!(false), &json!(FAILURE)),
            "{code}"
        );
    }
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_honest_callers_at_once_are_all_mapped() {
    let gateway = Gateway::start().await;
    let mut calls = JoinSet::new();
    for n in 0..300 {
        let caller = gateway.caller.clone();
        calls.spawn(async move {
            let mapping = r#"&params_mapping={"prompt":"a.b"}"#;
            let call = caller.webhook(mapping).json(&json!({"a": {"b": n}}));
            (n, call.expect(200).await.report()["received"].clone())
        });
    }
    for (n, received) in calls.join_all().await {
        assert_eq!(received, n.to_string());
    }
}

#[tokio::test]
async fn a_large_payload_is_mapped_in_time() {
    let gateway = Gateway::start().await;
    let body = json!({"filler": "x".repeat(9 << 20), "list": [{"text": "found"}], "after": [1]});
    let mapping = r#"&params_mapping={"prompt":"list.0.text"}&getter=result.received"#;
    assert_eq!(gateway.webhook(mapping).json(&body).expect(200).await.json(), "found");
}

#[tokio::test]
async fn a_plugin_may_have_several_roles() {
    let gateway = Gateway::start().await;
    let plugin = gateway.install("two_roles", "").await;
    let agent = gateway.agent_with(|agent| {
        agent.mapper = Some(plugin.clone());
        agent.tools = vec![plugin];
        agent.allow_destructive_tools = true;
    });
    assert_eq!(agent.await.ask(json!({"x": 1})).await.report()["received"], "mapped");
}

#[tokio::test]
async fn a_plugin_of_a_tenant_comes_before_a_bundled_one_of_its_name() {
    let gateway = Gateway::start().await;
    let bytes = std::fs::read(guest_path("ignores")).unwrap();
    let plugins = &gateway.services.plugins;
    plugins.install(gateway.tenant, &"dot-mapper".parse().unwrap(), bytes, None).await.unwrap();
    let call = gateway.webhook(r#"&params_mapping={"prompt":"a"}"#).json(&json!({"a": "b"}));
    assert_eq!(call.expect(200).await.json(), json!({"status": "Ignored"}));
}

#[tokio::test]
async fn a_plugin_that_is_not_there_is_named() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with(|agent| agent.mapper = Some("absent".parse().unwrap())).await;
    let answer = agent.webhook("").json(&json!({})).expect(500).await;
    assert!(answer.detail().contains("absent"), "{}", answer.text);
    let agent = gateway.agent_with(|agent| agent.tools = vec!["absent".parse().unwrap()]).await;
    // A run goes on without its tools, and says so.
    let answer = agent.ask(json!({"prompt": "hi"})).await;
    assert_eq!(answer.json()["status"], "completed");
    let thread = json!(agent.thread(&answer.task_id()).await).to_string();
    assert!(thread.contains("without tools") && thread.contains("absent"), "{thread}");
}

#[tokio::test]
async fn a_component_whose_file_was_changed_is_not_run() {
    let gateway = Gateway::start().await;
    let (name, component) = ("ignores".parse().unwrap(), guest_with_unique_digest("ignores"));
    gateway.services.plugins.install(gateway.tenant, &name, component, None).await.unwrap();
    let agent = gateway.agent_with(|agent| agent.mapper = Some(name)).await;
    agent.webhook("").json(&json!({})).expect(200).await;
    let home = gateway.stop().await;
    let file = std::fs::read_dir(home.path().join("plugins")).unwrap().next().unwrap().unwrap();
    std::fs::copy(guest_path("replies_now"), file.path()).unwrap();
    let target = format!("/?agent_id={}", agent.agent);
    // Sealed code that was compiled from the original component is still valid.
    let gateway = crate::support::Setup::new().home(home).start().await;
    let answer = gateway.post(&target).key(&agent.key).json(&json!({})).expect(200).await;
    assert_eq!(answer.json()["status"], "Ignored");
    let home = gateway.stop().await;
    home.detach_code_cache();
    let gateway = crate::support::Setup::new().home(home).start().await;
    let answer = gateway.post(&target).key(&agent.key).json(&json!({})).expect(500).await;
    assert!(answer.detail().contains("digest"), "{}", answer.text);
}
