//! Every step of a run can be read: what the model was shown and said, every tool call with request and
//! answer, what a mapper did, where it failed, and how long each took.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Gateway, PATIENCE, Setup};

fn roles(thread: &[Value]) -> Vec<&str> {
    thread.iter().map(|step| step["role"].as_str().unwrap()).collect()
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
async fn a_failure_is_a_step_with_its_reason() {
    let gateway =
        Setup::new().agent(|agent| agent.tools = vec!["absent".parse().unwrap()]).start().await;
    let answer = gateway.ask(json!({"prompt": "hello"})).await;
    let thread = gateway.thread(&answer.task_id()).await;
    let last = thread.last().unwrap();
    assert_eq!((&last["is_error"], &last["content"]), (&json!(true), &answer.json()["result"]));
    assert!(last["content"].as_str().unwrap().contains("absent"), "{last}");
}

#[tokio::test]
async fn a_run_that_takes_too_long_shows_how_far_it_came() {
    let script = [Reply::Tool("calculate", r#"{"expression":"6*7"}"#), Reply::Silence];
    let mut server = ModelServer::start(script).await;
    server.turn_time_max = PATIENCE;
    let gateway = Setup::new()
        .settings(|settings| {
            server.put_into(settings);
            settings.queue.run_time_max = Duration::from_secs(3);
        })
        .agent(|agent| agent.model = "scripted".to_owned())
        .start()
        .await;
    let answer = gateway.ask(json!({"prompt": "hello"})).await;
    assert_eq!(answer.json()["status"], "failed");
    let reason = answer.json()["result"].clone();
    assert!(reason.as_str().unwrap().contains("did not end within 3 seconds"), "{reason}");
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
