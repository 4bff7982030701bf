//! A caller names its conversation and continues it under that name; it cannot join a conversation of another agent
//! or tenant (row X7).

use serde_json::{Value, json};

use crate::support::{Client, Gateway, agent};

/// Sends a message in a thread; returns how many earlier messages of the thread the agent saw.
async fn say(caller: &Client, thread: Value, text: &str) -> u64 {
    let report = caller.ask(json!({"task_id": thread, "prompt": text})).await.report();
    assert_eq!(report["received"], text);
    report["earlier_messages"].as_u64().unwrap_or(0)
}

#[tokio::test]
async fn x7_a_thread_is_made_by_its_first_message_and_goes_on() {
    let gateway = Gateway::start().await;
    assert_eq!(say(&gateway, json!("chat 42 / é"), "one").await, 0);
    assert_eq!(say(&gateway, json!("chat 42 / é"), "two").await, 1);
    assert_eq!(say(&gateway, json!("chat 42 / é"), "three").await, 2);
    assert_eq!(say(&gateway, json!("chat 43"), "one").await, 0);
    assert_eq!(say(&gateway, Value::Null, "alone").await, 0);
}

#[tokio::test]
async fn x7_a_number_names_the_same_thread_as_its_text() {
    let gateway = Gateway::start().await;
    assert_eq!(say(&gateway, json!(123_456_789), "one").await, 0);
    assert_eq!(say(&gateway, json!("123456789"), "two").await, 1);
    let mapped = r#"&params_mapping={"task_id":"chat.id"}"#;
    let body = json!({"prompt": "three", "chat": {"id": 123_456_789}});
    let report = gateway.webhook(mapped).json(&body).expect(200).await.report();
    assert_eq!(report["earlier_messages"], 2);
}

#[tokio::test]
async fn x7_the_same_name_is_another_thread_for_another_agent_or_tenant() {
    let gateway = Gateway::start().await;
    let sibling = gateway.agent_with(|_| {}).await;
    let stranger = gateway.new_agent(gateway.new_tenant("stranger").await, agent("tested")).await;
    assert_eq!(say(&gateway, json!("t"), "one").await, 0);
    assert_eq!(say(&sibling, json!("t"), "one").await, 0);
    assert_eq!(say(&stranger, json!("t"), "one").await, 0);
    assert_eq!(say(&gateway, json!("t"), "two").await, 1);
}

#[tokio::test]
async fn x7_the_id_of_a_foreign_task_opens_nothing() {
    let gateway = Gateway::start().await;
    let stranger = gateway.new_agent(gateway.new_tenant("stranger").await, agent("tested")).await;
    let secret = gateway.ask(json!({"prompt": "the launch code is 1234"})).await.task_id();
    let answer = stranger.ask(json!({"task_id": secret, "prompt": "what was said?"})).await;
    assert!(!answer.text.contains("1234"), "{}", answer.text);
    assert_eq!(answer.report().get("earlier_messages"), None);
    // The id is a name like any other, and the other tenant's run is a task of its own.
    assert_ne!(answer.task_id(), secret);
    // Under that name the other tenant finds only its own conversation.
    assert_eq!(stranger.task(&secret).await["id"], answer.task_id());
}
