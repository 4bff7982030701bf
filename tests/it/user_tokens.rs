//! Tokens of users travel with a request to its run, and are kept nowhere (row X8).

use serde_json::{Value, json};

use crate::support::{Child, Gateway, Home, Setup};

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
async fn x8_the_run_has_them_and_says_for_which_items() {
    let gateway = Gateway::start().await;
    let tokens = json!({"mcp-1": TOKEN, "mcp-2": {"x-session": TOKEN}});
    let invoke = format!("/v1/agents/{}/invoke", gateway.agent);
    let prompt = format!("repeat {TOKEN}");
    for call in [
        gateway.webhook("").json(&json!({"prompt": prompt, "user_tokens": tokens})),
        gateway
            .post(&invoke)
            .key(&gateway.key)
            .json(&json!({"input": {"text": prompt}, "user_tokens": tokens})),
    ] {
        let answer = call.expect(200).await;
        // The offline model repeats what it got: had the run no tokens, it could not know this one.
        assert_eq!(answer.report()["received"], "repeat [redacted]");
        let thread = gateway.thread(&answer.task_id()).await;
        assert_eq!(thread[0]["graph_items"], json!(["mcp-1", "mcp-2"]));
        assert!(!json!(thread).to_string().contains(TOKEN));
    }
    let without = gateway.ask(json!({"prompt": prompt})).await;
    assert_eq!(without.report()["received"], prompt);
}

#[tokio::test]
async fn x8_after_a_restart_a_run_goes_on_without() {
    let waiting = Setup::new().settings(|settings| settings.queue.runs_max = 0).start().await;
    let body = json!({"prompt": "hi", "user_tokens": {"mcp-1": TOKEN}});
    let id = waiting.webhook("&asynchronous=true").json(&body).expect(200).await.task_id();
    let gateway = Setup::new().home(waiting.stop().await).start().await;
    assert_eq!(gateway.ended(&id).await["status"], "completed");
    assert_eq!(gateway.thread(&id).await[0].get("graph_items"), None);
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
