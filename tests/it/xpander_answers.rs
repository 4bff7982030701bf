//! The documented answers of `POST /`: rows X11, X12 and X20 to X23.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Gateway, Setup, poll_until};

#[tokio::test]
async fn x11_a_getter_answers_the_bare_value() {
    let gateway = Gateway::start().await;
    let body = json!({"prompt": "hello", "items": [{"name": "first"}]});
    for (path, value) in [
        ("status", json!("completed")),
        ("execution_attempts", json!(1)),
        // `result` is a string that contains JSON: the path continues inside it.
        ("result.received", json!("hello")),
        ("result.payload.items.0.name", json!("first")),
        ("result.payload.items", json!([{"name": "first"}])),
    ] {
        let call = gateway.webhook(&format!("&getter={path}")).json(&body);
        let answer = call.expect(200).await;
        assert_eq!(answer.json(), value, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
}

#[tokio::test]
async fn x11_the_getter_may_stand_in_the_body_and_the_query_comes_first() {
    let gateway = Gateway::start().await;
    let body = json!({"prompt": "hello", "getter": "result.received"});
    assert_eq!(gateway.ask(body.clone()).await.json(), "hello");
    let answer = gateway.webhook("&getter=source").json(&body).expect(200).await;
    assert_eq!(answer.json(), "webhook");
}

#[tokio::test]
async fn x11_a_path_to_nothing_is_404_and_named() {
    let gateway = Gateway::start().await;
    for path in ["nowhere", "result.nowhere", "result.received.deeper", "result.tools.7"] {
        let call = gateway.webhook(&format!("&getter={path}")).json(&json!({"prompt": "hello"}));
        let answer = call.expect(404).await;
        assert!(answer.detail().contains(path), "{}", answer.text);
        // The run has completed all the same, and its caller can read it.
        assert_eq!(gateway.task(&answer.task_id()).await["status"], "completed");
    }
}

#[tokio::test]
async fn x11_a_task_that_failed_is_answered_whole() {
    let gateway = Setup::new().agent(|agent| agent.model = "gone".to_owned()).start().await;
    let call = gateway.webhook("&getter=result.summary").json(&json!({"prompt": "hello"}));
    let task = call.expect(200).await.json();
    assert_eq!(task["status"], "failed");
    assert!(task["result"].as_str().unwrap().contains("gone"), "{task}");
}

#[tokio::test]
async fn x12_json_makes_the_result_json_where_it_is_json() {
    let server = ModelServer::start([Reply::Text("plain words")]).await;
    let gateway = Setup::new().settings(|settings| server.add_to_settings(settings)).start().await;
    let answer = gateway.webhook("&json=true").json(&json!({"prompt": "hello"})).expect(200).await;
    assert_eq!(answer.json()["result"]["received"], "hello");
    let answer = gateway.webhook("").json(&json!({"prompt": "hello"})).expect(200).await;
    assert!(answer.json()["result"].is_string());
    let other = gateway.agent_with(|agent| agent.model = "scripted".to_owned()).await;
    let answer = other.webhook("&json=true").json(&json!({"prompt": "hello"})).expect(200).await;
    assert_eq!(answer.json()["result"], "plain words");
}

#[tokio::test]
async fn x20_a_synchronous_answer_is_the_task() {
    let gateway = Gateway::start().await;
    let answer = gateway.ask(json!({"prompt": "hello"})).await;
    let task = answer.json();
    let fields: Vec<_> = task.as_object().unwrap().keys().map(String::as_str).collect();
    let documented = [
        "id", "agent_id", "status", "result", "created_at", "finished_at", "source",
        "execution_attempts",
    ];
    assert_eq!(fields, documented);
    assert_eq!((&task["status"], &task["source"]), (&json!("completed"), &json!("webhook")));
    assert_eq!(
        (&task["agent_id"], &task["execution_attempts"]),
        (&json!(gateway.agent), &json!(1))
    );
    assert_eq!(answer.header("x-task-id"), task["id"].as_str());
    for name in ["created_at", "finished_at"] {
        // 2026-01-29T00:40:46.161472+00:00
        let time = task[name].as_str().unwrap();
        let shape: String =
            time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(shape, "0000-00-00T00:00:00.000000+00:00", "{time}");
    }
}

#[tokio::test]
async fn x20_a_failed_run_is_answered_with_200() {
    let server = ModelServer::start([Reply::Error(500, "the model is on fire")]).await;
    let gateway = Setup::new()
        .settings(|settings| server.add_to_settings(settings))
        .agent(|agent| agent.model = "scripted".to_owned())
        .start()
        .await;
    let task = gateway.ask(json!({"prompt": "hello"})).await.json();
    assert_eq!(task["status"], "failed");
    assert!(task["finished_at"].is_string() && task["result"].is_string(), "{task}");
}

#[tokio::test]
async fn x21_an_asynchronous_answer_is_short_and_comes_first() {
    let server = ModelServer::start([Reply::Held(&Reply::Text("later"))]).await;
    let gateway = Setup::new().model(&server).start().await;
    let answer =
        gateway.webhook("&asynchronous=true").json(&json!({"prompt": "hello"})).expect(200).await;
    assert_eq!(answer.text, r#"{"status":"Started"}"#);
    let id = answer.task_id();
    assert_eq!(answer.header("location"), Some(format!("/v1/tasks/{id}").as_str()));
    // The task exists before the answer is sent, and its run has not ended.
    let status = gateway.task(&id).await["status"].clone();
    assert!(status == "pending" || status == "executing", "{status}");
    server.release(1);
    assert_eq!(gateway.wait_for_end(&id).await["result"], "later");
}

#[tokio::test]
async fn x22_who_waits_too_long_gets_202_and_the_run_goes_on() {
    let server = ModelServer::start([Reply::Held(&Reply::Text("at last"))]).await;
    let setup = Setup::new().model(&server);
    let setup = setup.settings(|settings| settings.http.sync_wait_max = Duration::from_millis(50));
    let gateway = setup.start().await;
    let call = gateway.webhook("&getter=result").json(&json!({"prompt": "hello"}));
    let answer = call.expect(202).await;
    let task = answer.json();
    assert_eq!((&task["result"], &task["finished_at"]), (&Value::Null, &Value::Null));
    let id = answer.task_id();
    assert_eq!(answer.header("location"), Some(format!("/v1/tasks/{id}").as_str()));
    assert_eq!(task["id"], id);
    server.release(1);
    assert_eq!(gateway.wait_for_end(&id).await["result"], "at last");
}

#[tokio::test]
async fn x22_who_hangs_up_does_not_stop_the_run() {
    let server = ModelServer::start([Reply::Held(&Reply::Text("done"))]).await;
    let gateway = Setup::new().model(&server).start().await;
    let call = || gateway.webhook("").json(&json!({"prompt": "hello"})).idempotent("k");
    let impatient = tokio::spawn(call().request.send());
    server.wait_for_requests(1).await;
    impatient.abort();
    assert!(impatient.await.unwrap_err().is_cancelled(), "it was not answered before");
    let id = call().expect(409).await.task_id();
    server.release(1);
    let task = gateway.wait_for_end(&id).await;
    assert_eq!((&task["status"], &task["result"]), (&json!("completed"), &json!("done")));
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn x23_a_task_goes_from_pending_over_executing_to_its_end() {
    let server = ModelServer::start([Reply::Held(&Reply::Text("done"))]).await;
    let setup = Setup::new().model(&server).settings(|settings| settings.queue.runs_max = 1);
    let gateway = setup.start().await;
    let start = async || {
        let call = gateway.webhook("&asynchronous=true").json(&json!({"prompt": "hello"}));
        call.expect(200).await.task_id()
    };
    let first = start().await;
    poll_until("the first run", async || {
        (gateway.task(&first).await["status"] == "executing").then_some(())
    })
    .await;
    // Only one run executes at a time.
    let second = start().await;
    let waiting = gateway.task(&second).await;
    assert_eq!((&waiting["status"], &waiting["started_at"]), (&json!("pending"), &Value::Null));
    server.release(2);
    assert_eq!(gateway.wait_for_end(&second).await["status"], "completed");
}
