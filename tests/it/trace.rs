//! Every step of a run can be read: the model's input and output, every tool call with its arguments and result, the
//! mapping, any failure, and how long each took.

use std::time::Duration;

use serde_json::{Value, json};

use wardgate::sandbox::{Exchange, HostResponse, Recording};
use wardgate::trace::{Event, PluginRun};

use crate::support::model_server::{ModelServer, Reply};
use crate::support::web::Web;
use crate::support::{Gateway, Setup, guest_path, poll_until, wardgate};

fn roles(thread: &[Value]) -> Vec<&str> {
    thread.iter().map(|step| step["role"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn why_a_plugin_panicked_and_what_it_wrote_before_is_in_the_log_of_its_call() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_tool("panics_in_tool", "").await;
    let prompt = "panic {\"why\":\"message 4711\"}";
    let answer = agent.ask(json!({"prompt": prompt})).await;
    let thread = agent.thread(&answer.task_id()).await;
    let called = thread.iter().find(|step| step["role"] == "tool").unwrap();
    let logs = called["logs"].to_string();
    for line in ["Output: about to panic", "panicked at", "Output: message 4711"] {
        assert!(logs.contains(line), "{line}: {called}");
    }
    // `wardgate plugin try` shows it to the plugin's author.
    let path = guest_path("panics_in_tool");
    let tried = wardgate(&[
        "plugin",
        "try",
        path.to_str().unwrap(),
        "call-tool",
        "--tool",
        "panic",
        "--arguments",
        "{\"why\":\"message 4711\"}",
    ]);
    let message = String::from_utf8_lossy(&tried.stdout).into_owned()
        + &String::from_utf8_lossy(&tried.stderr);
    assert!(message.contains("message 4711") && message.contains("panicked at"), "{message}");
}

#[tokio::test]
async fn a_run_with_a_tool_is_four_messages() {
    let gateway = Gateway::start().await;
    let answer = gateway.ask(json!({"prompt": "calculate {\"expression\":\"6*7\"}"})).await;
    let thread = gateway.thread(&answer.task_id()).await;
    assert_eq!(roles(&thread), ["user", "assistant", "tool", "assistant"]);
    assert_eq!(thread[0]["content"], "calculate {\"expression\":\"6*7\"}");
    assert_eq!(thread[1]["model"], "offline");
    assert_eq!(thread[1]["tool_calls"][0]["arguments"], json!({"expression": "6*7"}));
    assert_eq!(thread[2]["tool_call_id"], thread[1]["tool_calls"][0]["id"]);
    assert_eq!(
        (&thread[2]["plugin"], &thread[2]["is_error"]),
        (&json!("calculator"), &json!(false))
    );
    assert_eq!(thread[2]["content"]["value"], 42);
    assert_eq!(thread[3]["content"], answer.json()["result"]);
    for step in &thread {
        assert!(step["created_at"].as_i64().unwrap() > 1_700_000_000, "{step}");
        assert!(step["metrics"]["duration_us"].is_u64(), "{step}");
    }
    let ids: std::collections::HashSet<_> =
        thread.iter().map(|step| step["id"].to_string()).collect();
    assert_eq!(ids.len(), thread.len());
}

#[tokio::test]
async fn what_a_mapper_did_comes_first() {
    let gateway = Gateway::start().await;
    let mapping = r#"&params_mapping={"prompt":"m.text","user_id":"m.from"}"#;
    let body = json!({"m": {"text": "hello", "from": 7}});
    let answer = gateway.webhook(mapping).json(&body).expect(200).await;
    let thread = gateway.thread(&answer.task_id()).await;
    assert_eq!(roles(&thread), ["system", "user", "assistant"]);
    let mapped = &thread[0]["mapping"];
    assert_eq!(mapped["plugin"], "dot-mapper");
    assert_eq!(mapped["params"], json!({"prompt": "hello", "user_id": "7"}));
    assert!(mapped["digest"].as_str().unwrap().starts_with("sha256:"), "{mapped}");
}

#[tokio::test]
async fn a_mapping_and_a_tool_show_what_they_cost() {
    let gateway = Gateway::start().await;
    let mapping = r#"&params_mapping={"prompt":"text"}"#;
    let body = json!({"text": "calculate {\"expression\":\"6*7\"}"});
    let answer = gateway.webhook(mapping).json(&body).expect(200).await;
    let thread = gateway.thread(&answer.task_id()).await;
    let tool = thread.iter().find(|step| step["role"] == "tool").unwrap();
    for ran in [&thread[0]["mapping"], &tool["metrics"]] {
        let [all, computing, memory] =
            ["micros", "cpu_micros", "memory_bytes"].map(|name| ran[name].as_u64().unwrap());
        assert!(computing > 0 && computing <= all, "{ran}");
        assert!((64 << 10..16 << 20).contains(&memory), "{ran}");
    }
    let metrics = &tool["metrics"];
    assert!(metrics["micros"].as_u64() <= metrics["duration_us"].as_u64(), "{tool}");
    assert!(tool["digest"].as_str().unwrap().starts_with("sha256:"), "{tool}");
}

/// The stored plugin runs of a task's tool steps.
async fn tool_runs(gateway: &Gateway, task: &str) -> Vec<PluginRun> {
    let store = &gateway.services.store;
    let found = store.task_with_steps_by_id(task.parse().unwrap()).await.unwrap();
    let (_, steps) = found.unwrap();
    let runs = steps.into_iter().filter_map(|step| match step.event {
        Event::Tool { ran, .. } => ran.map(|ran| *ran),
        _ => None,
    });
    runs.collect()
}

#[tokio::test]
async fn what_a_plugin_was_answered_is_kept_for_a_replay_without_secrets_and_is_not_shown() {
    const TOKEN: &str = "user-access-token-abc123";
    // The token is redacted from the request itself, so here the server knows it too and returns it.
    let echo = axum::Router::new().fallback(async || format!("you: /{TOKEN}/kept"));
    let (gateway, web) = (Gateway::start().await, Web::serve(echo).await);
    let grants = format!(
        "[[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = {}\n\
         networks = [\"127.0.0.0/8\"]\n",
        web.port
    );
    gateway.write_grants("http-fetch", &grants);
    let url = format!("http://127.0.0.1:{}/kept", web.port);
    let prompt = format!("http_fetch {}", json!({"url": url}));
    let answer = gateway.ask(json!({"prompt": prompt, "user_tokens": {"m": TOKEN}})).await;
    let ran = &tool_runs(&gateway, &answer.task_id()).await[0];
    assert!(ran.digest.starts_with("sha256:") && ran.settings.starts_with("sha256:"), "{ran:?}");
    let recording: Recording = serde_json::from_value(ran.recording.clone().unwrap()).unwrap();
    let exchange = recording.answers.iter().find_map(|answered| match answered {
        HostResponse::Egress(exchange) => Some(exchange.clone()),
        _ => None,
    });
    let Exchange { url, outcome, .. } = exchange.unwrap();
    assert_eq!(url, format!("http://127.0.0.1:{}/kept", web.port));
    let body = String::from_utf8(outcome.unwrap().body).unwrap();
    assert_eq!(body, "you: /[redacted]/kept");
    // Callers see the tool's result, which contains the body too.
    let shown = json!(gateway.thread(&answer.task_id()).await).to_string();
    assert!(shown.contains("you: /[redacted]/kept"), "{shown}");
    for hidden in ["recording", "answers", &ran.settings] {
        assert!(!shown.contains(hidden), "{hidden}: {shown}");
    }
}

#[tokio::test]
async fn a_mapping_keeps_what_it_was_answered_and_does_not_show_it() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper("asks_time", "").await;
    let id = agent.trigger().json(&json!({})).expect(200).await.task_id();
    gateway.wait_for_final_status(&id).await;
    let shown = json!(gateway.thread(&id).await).to_string();
    assert!(shown.contains("\"mapping\":{") && !shown.contains("recording"), "{shown}");
    let stored = gateway.services.store.task(gateway.tenant, id.parse().unwrap()).await.unwrap();
    let stored = stored.unwrap();
    let mapping: Value = serde_json::from_str(&stored.mapping.unwrap()).unwrap();
    let ran: PluginRun = serde_json::from_value(mapping).unwrap();
    let recording: Recording = serde_json::from_value(ran.recording.unwrap()).unwrap();
    let [.., HostResponse::WallClock { nanos }] = recording.answers[..] else {
        panic!("{recording:?}")
    };
    assert_eq!(stored.input.prompt, Some(nanos.to_string()), "the answer that the plugin got");
}

#[tokio::test]
async fn the_digest_of_the_settings_changes_with_the_grants() {
    let gateway = Gateway::start().await;
    let calculate = json!({"prompt": "calculate {\"expression\":\"6*7\"}"});
    let settings = async || {
        let task = gateway.ask(calculate.clone()).await.task_id();
        tool_runs(&gateway, &task).await[0].settings.clone()
    };
    let before = settings().await;
    assert_eq!(settings().await, before);
    gateway.write_grants("calculator", "[limits]\nmemory_mib = 32\n");
    gateway.reload_grants().await;
    assert_ne!(settings().await, before);
}

#[tokio::test]
async fn a_failure_is_a_step_with_its_reason() {
    let gateway = Setup::new().agent(|agent| agent.model = "absent".to_owned()).start().await;
    let answer = gateway.ask(json!({"prompt": "hello"})).await;
    let thread = gateway.thread(&answer.task_id()).await;
    let last = thread.last().unwrap();
    assert_eq!((&last["is_error"], &last["content"]), (&json!(true), &answer.json()["result"]));
    assert!(last["content"].as_str().unwrap().contains("absent"), "{last}");
}

#[tokio::test]
async fn a_run_that_takes_too_long_shows_how_far_it_came() {
    let script = [Reply::Tool("calculate", r#"{"expression":"6*7"}"#), Reply::Silence];
    let server = ModelServer::start(script).await;
    // Long enough for the run to get to its second turn.
    let setup = Setup::new().model(&server);
    let setup = setup.settings(|settings| settings.queue.run_time_max = Duration::from_secs(10));
    let gateway = setup.start().await;
    let answer = gateway.ask(json!({"prompt": "hello"})).await;
    assert_eq!(answer.json()["status"], "failed");
    let reason = answer.json()["result"].clone();
    assert!(reason.as_str().unwrap().contains("did not end within 10 seconds"), "{reason}");
    let thread = gateway.thread(&answer.task_id()).await;
    assert_eq!(roles(&thread), ["user", "assistant", "tool", "system"]);
    assert_eq!(thread[3]["content"], reason);
}

#[tokio::test]
async fn a_task_shows_what_it_was_given() {
    let gateway = Gateway::start().await;
    let body = json!({"prompt": "hello", "task_id": "t-1", "user_email": "a@b.c"});
    let id = gateway.ask(body).await.task_id();
    let task = gateway.task(&id).await;
    assert_eq!(task["organization_id"], gateway.tenant.to_string());
    assert_eq!((&task["thread_id"], &task["input"]["text"]), (&json!("t-1"), &json!("hello")));
    assert_eq!(
        task["input"]["user"],
        json!({"id": null, "email": "a@b.c", "first_name": null, "last_name": null})
    );
    let times =
        ["created_at", "started_at", "finished_at"].map(|name| task[name].as_str().unwrap());
    assert!(times[0] <= times[1] && times[1] <= times[2], "{times:?}");
}

#[tokio::test]
async fn a_getter_and_a_replier_are_in_the_trace_once_the_task_has_ended() {
    let gateway = Gateway::start().await;
    let asked = gateway.webhook("&getter=result.summary&json=true");
    let asked = asked.json(&json!({"prompt": "hello"})).expect(200).await;
    let task = asked.header("x-task-id").unwrap().to_owned();
    let step = poll_until("the getter's step", async || {
        gateway.thread(&task).await.into_iter().find(|step| step["call"] == "get-value")
    })
    .await;
    assert_eq!((&step["plugin"], &step["path"]), (&json!("dot-getter"), &json!("result.summary")));
    assert_eq!((&step["value"], &step["is_error"]), (&json!("hello"), &json!(false)));
    assert!(step["metrics"]["cpu_micros"].as_u64().unwrap() > 0, "{step}");
    assert!(step["digest"].as_str().unwrap().starts_with("sha256:"), "{step}");
    gateway.store_secret("hook-token", "a token of the provider", false).await;
    gateway.install("speaks_for_a_provider", "").await;
    let hook = gateway
        .apply_channel(json!({
            "name": "hook", "agent": "tested", "secrets": {"secret": "hook-token"}, "answer": "wait",
            "verifier": "speaks-for-a-provider", "mapper": "speaks-for-a-provider",
            "replier": "speaks-for-a-provider",
        }))
        .await;
    let sent = gateway.post(&hook).header("x-token", "a token of the provider");
    let sent = sent.json(&json!({"text": "hi"})).answered_by_a_plugin().expect(200).await;
    let task = sent.header("x-task-id").unwrap().to_owned();
    let step = poll_until("the replier's step", async || {
        gateway.thread(&task).await.into_iter().find(|step| step["call"] == "reply")
    })
    .await;
    assert_eq!(step["plugin"], "speaks-for-a-provider");
    // The steps of the run itself do not change, for clients that follow it.
    let roles: Vec<_> = gateway.thread(&task).await;
    assert_eq!(roles.last().unwrap()["call"], "reply");
}

#[tokio::test]
async fn asking_for_a_value_again_and_again_does_not_fill_the_trace() {
    let gateway = Gateway::start().await;
    let ask = async || {
        let call = gateway.webhook("&getter=result").idempotent("the-same");
        call.json(&json!({"prompt": "hello"})).expect(200).await
    };
    let task = ask().await.header("x-task-id").unwrap().to_owned();
    for _ in 0..30 {
        ask().await;
    }
    let getters = async || {
        let thread = gateway.thread(&task).await;
        thread.iter().filter(|step| step["call"] == "get-value").count()
    };
    poll_until("twenty of them", async || (getters().await == 20).then_some(())).await;
    ask().await;
    assert_eq!(getters().await, 20);
}
