//! Tasks over REST: lists, reads by id and by thread, messages, updates and deletion.

use serde_json::{Value, json};

use crate::support::{Answer, Gateway, Setup};

async fn get(gateway: &Gateway, target: &str) -> Answer {
    gateway.get(target).key(&gateway.key).expect(200).await
}

/// The ids in a list of tasks.
fn ids(items: &Value) -> Vec<&str> {
    items.as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
}

/// A gateway that accepts tasks but runs none.
async fn accepting() -> Gateway {
    Setup::new().settings(|settings| settings.queue.runs_max = 0).start().await
}

#[tokio::test]
async fn tasks_are_listed_page_by_page_newest_first() {
    let gateway = Gateway::start().await;
    let mut made = Vec::new();
    for number in 0..5 {
        made.insert(0, gateway.invoke("invoke", &number.to_string()).expect(200).await.task_id());
    }
    let mut seen = Vec::new();
    for (page, length) in [(1, 2), (2, 2), (3, 1), (4, 0)] {
        let target = format!("/v1/tasks?page={page}&per_page=2");
        let answer = get(&gateway, &target).await;
        assert_eq!(answer.text, get(&gateway, target.trim_start_matches("/v1")).await.text);
        let mut answer = answer.json();
        let items = answer["items"].take();
        let expected =
            json!({"items": null, "total": 5, "page": page, "per_page": 2, "total_pages": 3});
        assert_eq!(answer, expected);
        assert_eq!(items.as_array().unwrap().len(), length);
        seen.extend(ids(&items).into_iter().map(str::to_owned));
    }
    assert_eq!(seen, made);
    let history = format!("/agent-execution/executions/history/{}", gateway.agent);
    assert_eq!(ids(&get(&gateway, &history).await.json()), made, "the SDK's list is an array");
    let second = get(&gateway, &format!("{history}?page=2&per_page=3")).await.json();
    assert_eq!(ids(&second), made[3..]);
}

#[tokio::test]
async fn a_list_is_filtered_by_agent_user_and_status() {
    let gateway = Gateway::start().await;
    let broken = gateway.agent_with(|agent| agent.model = "gone".to_owned()).await;
    let ask = async |agent: &str, user: &str| {
        let body = json!({"input": {"text": "x", "user": {"id": user, "email": ""}}});
        let call = gateway.post(&format!("/v1/agents/{agent}/invoke")).key(&gateway.key);
        call.json(&body).expect(200).await.task_id()
    };
    let mine = ask(&gateway.agent, "u/1").await;
    let failed = ask(&broken.agent, "u/1").await;
    let another = ask(&gateway.agent, "u2").await;
    for (query, expected) in [
        (format!("agent_id={}", gateway.agent), vec![&another, &mine]),
        (format!("agent_id={}", broken.agent), vec![&failed]),
        ("user_id=u%2F1".to_owned(), vec![&failed, &mine]),
        ("status=failed".to_owned(), vec![&failed]),
        ("status=completed&user_id=u2".to_owned(), vec![&another]),
        (format!("status=failed&agent_id={}", gateway.agent), vec![]),
        ("status=pending".to_owned(), vec![]),
        ("agent_id=no-agent".to_owned(), vec![]),
        // An empty filter has no effect.
        ("agent_id=&user_id=".to_owned(), vec![&another, &failed, &mine]),
    ] {
        let answer = get(&gateway, &format!("/v1/tasks?{query}")).await.json();
        assert_eq!(ids(&answer["items"]), expected, "{query}");
        assert_eq!(answer["total"], expected.len(), "{query}");
    }
    let refused = gateway.get("/v1/tasks?status=done").key(&gateway.key).expect(422).await;
    assert!(refused.detail().contains("status"), "{}", refused.text);
    let item = get(&gateway, "/v1/tasks?status=failed").await.json()["items"][0].clone();
    assert_eq!((&item["user_id"], &item["source_node_type"]), (&json!("u/1"), &json!("api")));
    assert!(item["result"].as_str().unwrap().contains("gone"), "{item}");
}

#[tokio::test]
async fn a_task_is_read_under_its_id_and_its_threads_name() {
    let gateway = Gateway::start().await;
    let ask = async |text: &str| {
        let body = json!({"task_id": "chat 42/é", "prompt": text});
        gateway.ask(body).await.task_id()
    };
    let (first, newest) = (ask("one").await, ask("two").await);
    for (name, id) in
        [(first.as_str(), &first), (&newest, &newest), ("chat%2042%2F%C3%A9", &newest)]
    {
        let task = get(&gateway, &format!("/v1/tasks/{name}")).await;
        assert_eq!(
            (&task.json()["id"], &task.json()["thread_id"]),
            (&json!(id), &json!("chat 42/é"))
        );
        for alias in [format!("/tasks/{name}"), format!("/agent-execution/{name}/status")] {
            assert_eq!(get(&gateway, &alias).await.text, task.text, "{alias}");
        }
    }
}

#[tokio::test]
async fn what_happened_in_a_task_is_read_in_three_shapes() {
    let gateway = Gateway::start().await;
    let prompt = "calculate {\"expression\":\"6*7\"}";
    let body = json!({"prompt": prompt, "task_id": "t", "user_id": "u", "user_email": "a@b.c"});
    let answer = gateway.ask(body).await;
    let id = answer.task_id();
    let thread = get(&gateway, &format!("/v1/tasks/{id}/thread")).await.json();
    let roles: Vec<_> = thread.as_array().unwrap().iter().map(|m| m["role"].clone()).collect();
    assert_eq!(roles, ["user", "assistant", "tool", "assistant"]);
    let whole = get(&gateway, &format!("/v1/tasks/{id}/thread/full")).await.json();
    assert_eq!(whole, json!({"root": thread}));
    for shape in ["thread", "thread/full"] {
        let plain = get(&gateway, &format!("/tasks/t/{shape}")).await.text;
        assert_eq!(plain, get(&gateway, &format!("/v1/tasks/{id}/{shape}")).await.text);
    }

    let log = get(&gateway, &format!("/activity/{}/{id}", gateway.agent)).await.json();
    assert_eq!((&log["id"], &log["user"]["email"]), (&json!("t"), &json!("a@b.c")));
    let [asked, called, told] = log["messages"].as_array().unwrap().as_slice() else {
        panic!("{log}");
    };
    assert_eq!((&asked["role"], &asked["content"]["text"]), (&json!("user"), &json!(prompt)));
    assert_eq!(
        (&called["tool_name"], &called["payload"]),
        (&json!("calculate"), &json!({"expression": "6*7"}))
    );
    assert_eq!((&called["result"]["value"], &called["is_error"]), (&json!(42), &json!(false)));
    assert_eq!(
        (&told["role"], &told["content"]["text"]),
        (&json!("agent"), &answer.json()["result"])
    );
    for message in [&log, asked, called, told] {
        assert!(message["id"].is_string() && message["created_at"].is_string(), "{message}");
    }
    // A task cannot be read under another agent.
    let other = gateway.agent_with(|_| {}).await;
    let target = format!("/activity/{}/{id}", other.agent);
    gateway.get(&target).key(&gateway.key).expect(404).await;
}

#[tokio::test]
async fn a_task_that_is_deleted_is_gone_with_all_that_belongs_to_it() {
    let gateway = Gateway::start().await;
    let call = || {
        let body = json!({"prompt": "my secret plan", "task_id": "t"});
        gateway.webhook("").json(&body).idempotent("k")
    };
    let id = call().expect(200).await.task_id();
    let target = format!("/v1/tasks/{id}");
    assert_eq!(gateway.delete(&target).key(&gateway.key).expect(204).await.text, "");
    gateway.delete(&target).key(&gateway.key).expect(404).await;
    for more in ["", "/thread", "/thread/full"] {
        gateway.get(&format!("{target}{more}")).key(&gateway.key).expect(404).await;
    }
    gateway.get("/v1/tasks/t").key(&gateway.key).expect(404).await;
    assert_eq!(get(&gateway, "/v1/tasks").await.json()["total"], 0);

    // The idempotency key is free, and the thread starts over.
    let again = call().expect(200).await;
    assert_ne!(again.task_id(), id);
    assert_eq!(
        (again.header("idempotent-replayed"), &again.report()["earlier_messages"]),
        (None, &Value::Null)
    );
}

#[tokio::test]
async fn a_task_takes_one_end_from_outside_and_no_other() {
    let gateway = accepting().await;
    for end in ["completed", "failed", "error", "stopped"] {
        let id = gateway.start_run("hello").await;
        let update = |body: Value| {
            gateway.patch(&format!("/agent-execution/{id}/update")).key(&gateway.key).json(&body)
        };
        // Other fields of a task in the body are ignored.
        let body =
            json!({"id": "x", "status": end, "result": "by hand", "source": "evil", "title": 7});
        let task = update(body.clone()).expect(200).await.json();
        assert_eq!((&task["status"], &task["result"]), (&json!(end), &json!("by hand")));
        assert_eq!((&task["id"], &task["source"]), (&json!(id), &json!("api")));
        assert!(task["finished_at"].is_string(), "{task}");
        assert_eq!(task["is_manually_stopped"], end == "stopped");
        assert_eq!(update(body).expect(200).await.json(), task, "the same end again");
        for other in ["completed", "failed", "error", "stopped"] {
            let call = update(json!({"status": other, "result": "another"}));
            let refused = call.expect(409).await;
            assert!(refused.detail().contains(end), "{}", refused.text);
        }
        assert_eq!(gateway.task(&id).await, task);
    }
}

#[tokio::test]
async fn an_update_that_cannot_be_changes_nothing() {
    let gateway = accepting().await;
    let id = gateway.start_run("hello").await;
    let task = gateway.task(&id).await;
    let target = format!("/agent-execution/{id}/update");
    for (body, status) in [
        (r#"{"status": "executing"}"#, 409),
        (r#"{"status": "paused"}"#, 409),
        (r#"{"status": "done"}"#, 422),
        (r#"{"status": "completed"}"#, 422),
        (r#"{"status": "completed", "result": 7}"#, 422),
        ("[]", 422),
        ("no JSON", 400),
        // The current status, and an empty object, change nothing either.
        (r#"{"status": "pending", "result": "x"}"#, 200),
        ("{}", 200),
    ] {
        let call = gateway.patch(&target).key(&gateway.key).text("application/json", body);
        call.expect(status).await;
        assert_eq!(gateway.task(&id).await, task, "{body}");
    }
}
