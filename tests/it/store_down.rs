//! While the store is unavailable, no request is acknowledged: 503 with the time to retry after (row D3).

use serde_json::json;

use crate::support::{Answer, Gateway};

/// Asserts the retry headers that every answer of a gateway without a store has.
fn assert_unavailable(answer: &Answer, retry: &str) {
    assert_eq!(answer.header("retry-after"), Some("1"), "{}", answer.text);
    assert_eq!(answer.header("x-wardgate-retry"), Some(retry), "{}", answer.text);
    assert_eq!(answer.header("x-wardgate-fault"), Some("host"));
    assert_eq!(answer.json()["retry"], retry);
}

#[tokio::test]
async fn d3_without_a_store_a_trigger_is_503_in_docsgpts_shape() {
    let gateway = Gateway::start().await;
    gateway.services.store.close().await;
    let answer = gateway.trigger().json(&json!({"q": 1})).expect(503).await;
    assert_unavailable(&answer, "safe");
    assert_eq!(answer.json()["success"], false);
    let status = "/api/task_status?task_id=00000000-0000-4000-8000-000000000000";
    assert_unavailable(&gateway.get(status).expect(503).await, "safe");
}

#[tokio::test]
async fn without_a_store_every_surface_says_when_to_try_again() {
    let gateway = Gateway::start().await;
    gateway.services.store.close().await;
    let agent = format!("/v1/agents/{}", gateway.agent);
    let invoke = gateway.post(&format!("{agent}/invoke")).json(&json!({"input": {"text": "hi"}}));
    for call in [
        gateway.post(&format!("/?agent_id={}", gateway.agent)).json(&json!({"prompt": "hi"})),
        gateway.get(&agent),
        gateway.get("/v1/tasks"),
        invoke,
        gateway.get("/admin/tenants"),
    ] {
        assert_unavailable(&call.key(&gateway.key).expect(503).await, "safe");
    }
    assert_unavailable(&gateway.get("/healthz").expect(503).await, "safe");
}

#[tokio::test]
async fn a_task_that_may_have_been_accepted_is_safe_to_send_again_with_a_key() {
    let gateway = Gateway::start().await;
    // The key and the agent are cached now and need no store for a while; the task does.
    gateway.ask(json!({"prompt": "hi"})).await;
    gateway.trigger().json(&json!({"q": 1})).expect(200).await;
    gateway.services.store.close().await;
    let call = gateway.webhook("").json(&json!({"prompt": "hi"})).expect(503).await;
    assert_unavailable(&call, "with-idempotency-key");
    let trigger = gateway.trigger().json(&json!({"q": 1})).expect(503).await;
    assert_unavailable(&trigger, "with-idempotency-key");
}
