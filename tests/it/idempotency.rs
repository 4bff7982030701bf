//! One `Idempotency-Key`, one run: rows D6 and X24.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use wardgate::clock::{Clock, Timestamp};

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Call, Gateway, Setup, agent};

#[tokio::test]
async fn d6_the_same_key_answers_the_original_task() {
    let gateway = Gateway::start().await;
    let trigger =
        async || gateway.trigger().json(&json!({"q": 1})).idempotent("order-1").expect(200).await;
    let (first, second) = (trigger().await, trigger().await);
    assert_eq!(
        (first.header("idempotent-replayed"), second.header("idempotent-replayed")),
        (None, Some("true"))
    );
    assert_eq!((first.json(), second.header("idempotency-mismatch")), (second.json(), None));
    assert_eq!(gateway.stored_task_count().await, 1);
}

#[tokio::test]
async fn d6_another_payload_under_the_key_is_told_by_a_header() {
    let gateway = Gateway::start().await;
    let trigger = async |q: u32| {
        gateway.trigger().json(&json!({"q": q})).idempotent("order-1").expect(200).await
    };
    let (first, second) = (trigger(1).await, trigger(2).await);
    assert_eq!(second.json(), first.json());
    assert_eq!(second.header("idempotency-mismatch"), Some("true"));
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    let hook = format!("/api/webhooks/agents/{}", gateway.token);
    let get = gateway.get(&format!("{hook}?q=1")).idempotent("order-1").expect(200).await;
    assert_eq!(get.header("idempotency-mismatch"), Some("true"), "another method");
    assert_eq!(gateway.stored_task_count().await, 1);
}

#[tokio::test]
async fn x24_another_request_under_the_key_is_422() {
    let gateway = Gateway::start().await;
    let call = |more: &str, text: &str| {
        gateway.webhook(more).json(&json!({"prompt": text})).idempotent("k")
    };
    call("", "one").expect(200).await;
    let answer = call("", "two").expect(422).await;
    assert!(answer.detail().contains("Idempotency-Key"), "{}", answer.text);
    call("&user_id=u", "one").expect(422).await;
    assert_eq!(gateway.stored_task_count().await, 1);
}

#[tokio::test]
async fn x24_a_replay_answers_what_the_original_was_answered() {
    let gateway = Gateway::start().await;
    for more in ["", "&getter=result.received", "&json=true", "&asynchronous=true"] {
        let call =
            || gateway.webhook(more).json(&json!({"prompt": "hi"})).idempotent(&format!("k{more}"));
        let first = call().expect(200).await;
        gateway.wait_for_end(&first.task_id()).await;
        let second = call().expect(200).await;
        assert_eq!(second.text, first.text, "{more}");
        assert_eq!(second.task_id(), first.task_id());
        assert_eq!(second.header("idempotent-replayed"), Some("true"));
    }
    assert_eq!(gateway.stored_task_count().await, 4);
}

#[tokio::test]
async fn x24_where_the_key_is_sent_with_the_api_key_in_the_query_that_makes_no_difference() {
    let gateway = Gateway::start().await;
    let body = json!({"prompt": "hi"});
    let target = format!("/?agent_id={}", gateway.agent);
    let first =
        gateway.post(&target).key(&gateway.key).json(&body).idempotent("k").expect(200).await;
    let second = gateway.post(&format!("{target}&x-api-key={}", gateway.key));
    assert_eq!(second.json(&body).idempotent("k").expect(200).await.text, first.text);
}

#[tokio::test]
async fn x24_a_synchronous_original_that_still_runs_is_409() {
    let server = ModelServer::start([Reply::Held(&Reply::Text("done"))]).await;
    let gateway = Setup::new().model(&server).start().await;
    let call = || gateway.webhook("").json(&json!({"prompt": "hi"})).idempotent("k");
    let (first, second) = tokio::join!(call().send(), async {
        server.wait_for_requests(1).await;
        let second = call().expect(409).await;
        server.release(1);
        second
    });
    assert_eq!(second.header("retry-after"), Some("1"));
    assert_eq!(second.header("location"), first.header("location"));
    assert_eq!(
        (first.status, call().expect(200).await.text),
        (200, first.text),
        "once it has ended"
    );
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d6_however_many_arrive_at_once_there_is_one_task() {
    let gateway = Gateway::start().await;
    let mut calls = JoinSet::new();
    for _ in 0..200 {
        let caller = gateway.caller.clone();
        calls.spawn(async move {
            caller.trigger().json(&json!({"q": 1})).idempotent("storm").expect(200).await
        });
    }
    let answers = calls.join_all().await;
    assert!(answers.iter().all(|answer| answer.json() == answers[0].json()));
    let replayed = answers.iter().filter(|a| a.header("idempotent-replayed").is_some()).count();
    assert_eq!((replayed, gateway.stored_task_count().await), (199, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn x24_of_many_synchronous_duplicates_one_runs() {
    let gateway = Gateway::start().await;
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let caller = gateway.caller.clone();
        let body = json!({"prompt": "hi"});
        calls.spawn(async move { caller.webhook("").json(&body).idempotent("k").send().await });
    }
    let answers = calls.join_all().await;
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
    let original = |a: &&crate::support::Answer| a.header("idempotent-replayed").is_none();
    let done: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
    assert_eq!(done.iter().copied().filter(original).count(), 1);
    assert!(done.iter().all(|answer| answer.text == done[0].text));
    assert_eq!(gateway.stored_task_count().await, 1);
}

#[tokio::test]
async fn d6_a_key_is_remembered_over_a_restart() {
    let gateway = Gateway::start().await;
    let (hook, body) = (format!("/api/webhooks/agents/{}", gateway.token), json!({"q": 1}));
    let first = gateway.post(&hook).json(&body).idempotent("k").expect(200).await;
    let gateway = Setup::new().home(gateway.stop().await).start().await;
    let second = gateway.post(&hook).json(&body).idempotent("k").expect(200).await;
    assert_eq!(second.json(), first.json());
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
}

#[tokio::test]
async fn d6_a_key_is_free_again_after_24_hours() {
    let clock = Clock::manual(Timestamp::from_micros(1_769_647_246_000_000));
    let gateway = Setup::new().clock(&clock).start().await;
    let trigger =
        async || gateway.trigger().json(&json!({"q": 1})).idempotent("k").expect(200).await.json();
    let first = trigger().await;
    clock.advance(Duration::from_secs(24 * 3600 - 1));
    assert_eq!(trigger().await, first);
    // Counted from acceptance: a replay does not extend it.
    clock.advance(Duration::from_secs(2));
    assert_ne!(trigger().await, first);
}

#[tokio::test]
async fn d6_a_key_belongs_to_one_agent_of_one_tenant() {
    let gateway = Gateway::start().await;
    let sibling = gateway.agent_with(|_| {}).await;
    let stranger = gateway.new_agent(gateway.new_tenant("stranger").await, agent("tested")).await;
    let mut ids = Vec::new();
    for caller in [&gateway.caller, &sibling, &stranger] {
        let answer = caller.trigger().json(&json!({"q": 1})).idempotent("k").expect(200).await;
        assert_eq!(answer.header("idempotent-replayed"), None);
        ids.push(answer.task_id());
    }
    ids.dedup();
    assert_eq!((ids.len(), gateway.stored_task_count().await), (3, 3));
}

#[tokio::test]
async fn d6_a_rejected_request_leaves_its_key_free() {
    let gateway = Gateway::start().await;
    let call = |more: &str, body: Value| gateway.webhook(more).json(&body).idempotent("k");
    call("", json!({"asynchronous": "maybe"})).expect(400).await;
    call("&params_mapping={", json!({})).expect(400).await;
    call("", json!({"user_tokens": "no"})).expect(400).await;
    gateway.trigger().text("application/json", "{").idempotent("k").expect(400).await;
    gateway.webhook("").key("wrong").json(&json!({})).idempotent("k").expect(400).await;
    let answer = call("", json!({"prompt": "good"})).expect(200).await;
    assert_eq!(answer.header("idempotent-replayed"), None);
    assert_eq!(gateway.stored_task_count().await, 1);
}

#[tokio::test]
async fn d6_which_keys_are_keys() {
    let gateway = Gateway::start().await;
    let trigger = |key: &str| gateway.trigger().json(&json!({})).idempotent(key);
    // An empty key counts as absent: each of these is a separate task.
    for empty in ["", "  ", "\"\""] {
        assert_eq!(trigger(empty).expect(200).await.header("idempotent-replayed"), None);
    }
    let longest = "k".repeat(256);
    trigger(&longest).expect(200).await;
    trigger("case").expect(200).await;
    for (key, replayed) in [("\"case\"", true), (" case ", true), ("CASE", false), ("case2", false)]
    {
        let answer = trigger(key).expect(200).await;
        assert_eq!(answer.header("idempotent-replayed").is_some(), replayed, "{key:?}");
    }
    let stored = gateway.stored_task_count().await;
    let too_long = "k".repeat(257);
    for wrong in [too_long.as_str(), "two words", "tab\tbed"] {
        let message = trigger(wrong).expect(400).await.json()["message"].clone();
        assert!(message.as_str().unwrap().contains("Idempotency-Key"), "{message}");
        let call = gateway.webhook("").json(&json!({})).idempotent(wrong);
        assert!(call.expect(400).await.detail().contains("Idempotency-Key"));
    }
    let umlaut = reqwest::header::HeaderValue::from_bytes(b"\xfcber").unwrap();
    let request = gateway.trigger().json(&json!({})).request.header("idempotency-key", umlaut);
    Call::new(request).expect(400).await;
    assert_eq!(gateway.stored_task_count().await, stored);
}

#[tokio::test]
async fn d6_without_a_key_equal_requests_are_two_runs() {
    let gateway = Gateway::start().await;
    for _ in 0..2 {
        gateway.trigger().json(&json!({"q": 1})).expect(200).await;
        gateway.webhook("").json(&json!({"q": 1})).expect(200).await;
    }
    assert_eq!(gateway.stored_task_count().await, 4);
}
