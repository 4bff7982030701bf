//! Runs over REST: synchronous, asynchronous, with idempotency keys, and conversations over several runs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Answer, Gateway, Setup, poll_until};

/// A gateway whose agent uses a model that never responds.
async fn silent() -> (Gateway, ModelServer) {
    let server = ModelServer::start([Reply::Silence]).await;
    (Setup::new().model(&server).start().await, server)
}

/// `POST …/invoke` with this body.
async fn invoke(gateway: &Gateway, body: Value, status: u16) -> Answer {
    gateway.post_to_agent("invoke").json(&body).expect(status).await
}

#[tokio::test]
async fn who_waits_gets_the_whole_task() {
    let gateway = Gateway::start().await;
    let user = json!({"id": "u-1", "email": "a@b.c", "first_name": "A", "last_name": "B"});
    let body = json!({"input": {"text": "hello", "files": [], "user": user}});
    let answer = invoke(&gateway, body.clone(), 200).await;
    let task = answer.json();
    assert_eq!(answer.header("location"), Some(format!("/v1/tasks/{}", answer.task_id()).as_str()));
    assert_eq!(gateway.task(&answer.task_id()).await, task, "as it can be read");
    assert_eq!(answer.report()["received"], "hello");
    assert_eq!(task["input"], body["input"]);
    for (name, value) in [
        ("id", json!(answer.task_id())),
        ("agent_id", json!(gateway.agent)),
        ("organization_id", json!(gateway.tenant.to_string())),
        ("status", json!("completed")),
        ("source", json!("api")),
        ("execution_attempts", json!(1)),
        ("is_manually_stopped", json!(false)),
        ("title", Value::Null),
    ] {
        assert_eq!(task[name], value, "{name}");
    }
    for name in ["created_at", "started_at", "finished_at"] {
        assert!(task[name].as_str().unwrap().ends_with("+00:00"), "{name}: {task}");
    }
    let of_sdk = json!({"input": {"text": "hello"}, "source": "sdk"});
    assert_eq!(invoke(&gateway, of_sdk, 200).await.json()["source"], "sdk");
    let target = format!("/agents/{}/invoke", gateway.agent);
    let plain = gateway.post(&target).key(&gateway.key).json(&body).expect(200).await;
    assert_eq!(plain.report()["received"], "hello", "the same without /v1");
}

#[tokio::test]
async fn who_does_not_wait_gets_the_task_as_it_was_accepted() {
    let gateway = Gateway::start().await;
    for route in [
        "/v1/agents/{id}/invoke/async",
        "/v1/agents/{id}/invoke-async",
        "/v1/agents/{id}/invoke?asynchronous=true",
        "/agents/{id}/invoke/async",
        "/agents/{id}/invoke-async",
        "/agents/{id}/invoke?asynchronous=true",
        "/agent-execution/{id}",
    ] {
        let call = gateway.post(&route.replace("{id}", &gateway.agent)).key(&gateway.key);
        let answer = call.json(&json!({"input": {"text": route}})).expect(200).await;
        let task = answer.json();
        assert_eq!(
            (&task["status"], &task["result"]),
            (&json!("pending"), &Value::Null),
            "{route}"
        );
        assert_eq!((&task["started_at"], &task["execution_attempts"]), (&Value::Null, &json!(0)));
        assert_eq!(task["id"], answer.task_id());
        let ended = gateway.wait_for_end(&answer.task_id()).await;
        assert_eq!(
            (&ended["status"], &ended["input"]["text"]),
            (&json!("completed"), &json!(route))
        );
    }
    let call = gateway.invoke("invoke?asynchronous=perhaps", "x").expect(422).await;
    assert!(call.detail().contains("asynchronous"), "{}", call.text);
}

#[tokio::test]
async fn what_comes_with_the_text_reaches_the_agent_as_data() {
    let server = ModelServer::start([Reply::Text("ok")]).await;
    let gateway = Setup::new().model(&server).start().await;
    let body = json!({
        "input": {"text": "Summarise"},
        "payload_extension": {"ticket": 7},
        "additional_context": "the customer is angry",
        "expected_output": "one line",
    });
    let task = invoke(&gateway, body, 200).await.json();
    assert_eq!(task["payload_extension"]["payload_extension"]["ticket"], 7);
    let (asked, _) = server.requests().remove(0);
    let content = asked["messages"][1]["content"].as_str().unwrap();
    assert!(content.starts_with("Summarise\n\n"), "{content}");
    for part in [r#""ticket":7"#, "the customer is angry", "one line", "[end of payload "] {
        assert!(content.contains(part), "{content}");
    }
}

#[tokio::test]
async fn a_body_of_another_shape_is_refused_and_leaves_nothing_behind() {
    let gateway = Gateway::start().await;
    for (body, status, what) in [
        ("", 400, ""),
        ("{", 400, ""),
        ("{}", 422, "input"),
        ("[]", 422, ""),
        (r#"{"input": "hello"}"#, 422, ""),
        // An array of the fields is not an object.
        (r#"["thread", {"text": "x"}]"#, 422, "the body"),
        (r#"{"input": ["x"]}"#, 422, "input"),
        (r#"{"input": {"text": "x", "user": ["u"]}}"#, 422, "input.user"),
        (r#"{"input": {"text": 7}}"#, 422, ""),
        (r#"{"input": {"text": "x", "files": ["https://example.com/a.pdf"]}}"#, 422, "input.files"),
        (r#"{"input": {"text": "x"}, "mcp_servers": [{}]}"#, 422, "mcp_servers"),
        (r#"{"input": {"text": "x"}, "id": {}}"#, 422, "id"),
    ] {
        for route in ["invoke", "invoke/async", "invoke/stream"] {
            let call = gateway.post_to_agent(route).text("application/json", body);
            let answer = call.expect(status).await;
            assert!(answer.detail().contains(what), "{body}: {}", answer.text);
        }
    }
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn x7_the_id_of_the_last_answer_continues_the_conversation() {
    let gateway = Gateway::start().await;
    let mut id = Value::Null;
    for earlier in 0..4 {
        let text = format!("turn {}", earlier + 1);
        let answer = invoke(&gateway, json!({"id": id, "input": {"text": text}}), 200).await;
        let seen = answer.report()["earlier_messages"].as_u64().unwrap_or_default();
        assert_eq!(seen, earlier, "{text}");
        // Each turn is a separate task; the next turn refers to it by its id.
        assert_ne!(answer.json()["id"], id);
        id = answer.json()["id"].clone();
    }
}

#[tokio::test]
async fn x7_the_id_of_a_task_in_a_named_thread_continues_that_thread() {
    let gateway = Gateway::start().await;
    let first = invoke(&gateway, json!({"id": "chat 42", "input": {"text": "one"}}), 200).await;
    let by_id = json!({"id": first.json()["id"], "input": {"text": "two"}});
    let second = invoke(&gateway, by_id, 200).await.json();
    assert_eq!(second["thread_id"], "chat 42");
    // The webhook continues the same conversation, by its name and by a task's id.
    for (earlier, thread) in [(2, json!("chat 42")), (3, second["id"].clone())] {
        let report = gateway.ask(json!({"task_id": thread, "prompt": "more"})).await.report();
        assert_eq!(report["earlier_messages"], earlier);
    }
}

#[tokio::test]
async fn x24_a_key_that_was_used_answers_the_first_task() {
    let gateway = Gateway::start().await;
    for route in ["invoke", "invoke/async"] {
        let call = |text| gateway.invoke(route, text).idempotent(route);
        let first = call("one").expect(200).await;
        let ended = gateway.wait_for_end(&first.task_id()).await;
        let again = call("one").expect(200).await;
        assert_eq!((&again.text, again.header("idempotent-replayed")), (&first.text, Some("true")));
        assert_eq!(again.headers["x-task-id"], ended["id"].as_str().unwrap());
        let other = call("two").expect(422).await;
        assert!(other.detail().contains("Idempotency-Key"), "{}", other.text);
    }
    assert_eq!(gateway.stored_task_count().await, 2);
}

#[tokio::test]
async fn x24_a_key_whose_task_still_runs_is_409() {
    let (gateway, server) = silent().await;
    let call = || gateway.invoke("invoke", "hello").idempotent("k");
    let (first, second) = tokio::join!(call().send(), async {
        poll_until("the run", async || (!server.requests().is_empty()).then_some(())).await;
        let second = call().expect(409).await;
        gateway.stop_task(&second.task_id()).await;
        second
    });
    assert_eq!(second.header("retry-after"), Some("1"));
    assert_eq!(second.header("location"), first.header("location"));
    assert_eq!(call().expect(200).await.text, first.text, "once it has ended");
    assert_eq!(gateway.stored_task_count().await, 1);
}

#[tokio::test]
async fn x22_who_does_not_want_to_wait_gets_202_and_can_poll() {
    let (gateway, server) = silent().await;
    for (times, preference) in [(1, "wait=0"), (2, "respond-async"), (3, "wait=1")] {
        let call = gateway.invoke("invoke", "hello").header("prefer", preference);
        let answer = call.expect(202).await;
        let location = answer.header("location").unwrap();
        assert_eq!(location, format!("/v1/tasks/{}", answer.task_id()));
        assert_eq!(answer.header("preference-applied"), Some(preference));
        let task = answer.json();
        assert_eq!((&task["id"], &task["result"]), (&json!(answer.task_id()), &Value::Null));
        assert!(["pending", "executing"].contains(&task["status"].as_str().unwrap()), "{task}");
        // The run continues: its model is called whether or not a caller waits.
        poll_until("the run", async || (server.requests().len() == times).then_some(())).await;
        let polled = gateway.get(location).key(&gateway.key).expect(200).await.json();
        assert_eq!(polled["status"], "executing");
        gateway.stop_task(&answer.task_id()).await;
    }
}

#[tokio::test]
async fn x22_who_has_waited_as_long_as_the_settings_allow_gets_202() {
    let server = ModelServer::start([Reply::Silence]).await;
    let settings = |settings: &mut wardgate::settings::Settings| {
        settings.http.sync_wait_max = Duration::from_secs(1);
    };
    let gateway = Setup::new().model(&server).settings(settings).start().await;
    for call in [
        gateway.invoke("invoke", "hello"),
        gateway.invoke("invoke", "hello").header("prefer", "wait=600"),
    ] {
        let answer = call.expect(202).await;
        assert_eq!(answer.header("preference-applied"), None, "a longer wait is not applied");
        let status = answer.json()["status"].clone();
        assert!(status == "pending" || status == "executing", "{status}");
        gateway.stop_task(&answer.task_id()).await;
    }
}
