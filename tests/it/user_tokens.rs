//! Tokens of users travel with a request to MCP servers, and are kept nowhere (row X8). There are no
//! MCP servers yet: until then the tokens are checked and forgotten.

use serde_json::{Value, json};

use crate::support::{Child, Gateway, Home};

const TOKEN: &str = "user-access-token-abc123";

#[tokio::test]
async fn x8_tokens_are_an_object_or_a_string_that_holds_one() {
    let gateway = Gateway::start().await;
    let headers = json!({"mcp-1": {"Authorization": format!("Bearer {TOKEN}")}});
    for good in
        [json!({"mcp-1": TOKEN}), json!({"mcp-1": TOKEN}).to_string().into(), headers, json!("")]
    {
        gateway.ask(json!({"prompt": "hi", "user_tokens": good})).await;
    }
    let in_query = format!(r#"&user_tokens={{"mcp-1":"{TOKEN}"}}"#);
    gateway.webhook(&in_query).json(&json!({"prompt": "hi"})).expect(200).await;
}

#[tokio::test]
async fn x8_what_is_no_object_is_refused_without_being_repeated() {
    let gateway = Gateway::start().await;
    let broken = Value::from(format!("{{\"mcp-1\":\"{TOKEN}\""));
    for wrong in [json!(TOKEN), json!([TOKEN]), json!(7), broken] {
        let body = json!({"prompt": "hi", "user_tokens": wrong});
        let detail = gateway.webhook("").json(&body).expect(400).await.detail();
        assert!(detail.contains("user_tokens") && !detail.contains(TOKEN), "{detail}");
    }
    assert_eq!(gateway.tasks_stored().await, 0);
}

#[tokio::test]
async fn x8_a_token_is_in_no_answer_trace_log_or_file() {
    let home = Home::new();
    let gateway = Child::serve(&home, &["--log", "trace"]);
    let spelt = format!(r#"{{"user\u005ftokens":{{"mcp-1":"{TOKEN}"}},"event":"x"}}"#);
    let mapped = r#"&params_mapping={"prompt":"user_tokens.mcp-1","user_id":"event"}"#;
    for call in [
        gateway.webhook(mapped).json(&json!({"event": "x", "user_tokens": {"mcp-1": TOKEN}})),
        gateway.webhook("").json(&json!({"prompt": "hi", "user_tokens": {"mcp-1": TOKEN}})),
        gateway.webhook("").json(&json!({"event": "no prompt", "user_tokens": {"mcp-1": TOKEN}})),
        gateway.webhook("").text("application/json", spelt),
        gateway.webhook(&format!(r#"&user_tokens={{"mcp-1":"{TOKEN}"}}"#)).json(&json!({"x": 1})),
    ] {
        let answer = call.expect(200).await;
        assert!(!answer.text.contains(TOKEN), "{}", answer.text);
        let thread = json!(gateway.thread(&answer.task_id()).await).to_string();
        assert!(!thread.contains(TOKEN), "{thread}");
    }
    let find = |bytes: &[u8]| bytes.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes());
    assert!(!find(&home.database()), "while it serves");
    let (_, logs) = gateway.terminate();
    assert!(!find(logs.as_bytes()) && !find(&home.database()));
}
