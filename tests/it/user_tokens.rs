//! User tokens are passed with a request to its run, and stored nowhere (row X8).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::{Call, Gateway, GatewayProcess, Home, Setup};

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
    assert_eq!(gateway.stored_task_count().await, 0);
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
        // The offline model repeats the prompt.
        assert_eq!(answer.report()["received"], "repeat [redacted]");
        let thread = gateway.thread(&answer.task_id()).await;
        assert_eq!(thread[0]["graph_items"], json!(["mcp-1", "mcp-2"]));
        assert!(!json!(thread).to_string().contains(TOKEN));
    }
    let without = gateway.ask(json!({"prompt": prompt})).await;
    assert_eq!(without.report()["received"], prompt);
}

/// The part of [`AWKWARD`] that no encoding changes, so that tests can search for it.
const MARK: &str = "abc123mark456";
const AWKWARD: &str = "sé/cret+abc123mark456\"=";

#[tokio::test]
async fn x8_their_name_counts_in_any_case_and_twice_is_refused() {
    let gateway = Gateway::start().await;
    let tokens = json!({"mcp-1": AWKWARD});
    for name in ["user_tokens", "USER_TOKENS", "User_Tokens"] {
        let in_query = name.replace('_', "%5F");
        for call in [
            gateway.webhook("").json(&json!({"prompt": "hi", name: tokens})),
            gateway
                .webhook(&format!("&{in_query}={{\"mcp-1\":\"{TOKEN}\"}}"))
                .json(&json!({"prompt": "hi"})),
            gateway.post_to_agent("invoke").json(&json!({"input": {"text": "hi"}, name: tokens})),
        ] {
            let answer = call.expect(200).await;
            let thread = gateway.thread(&answer.task_id()).await;
            assert_eq!(thread[0]["graph_items"], json!(["mcp-1"]), "{name}");
            assert!(!json!(thread).to_string().contains("mark"), "{thread:?}");
        }
        for call in [
            gateway.webhook("").json(&json!({"user_tokens": tokens, "USER_tokens": tokens})),
            gateway.webhook(&format!("&user_tokens={{}}&{in_query}={{}}")).json(&json!({})),
        ] {
            assert_eq!(call.expect(400).await.detail(), "user_tokens was sent more than once");
        }
    }
}

/// Requests that repeat a token, each in another place, with the name of that place.
fn repeating(gateway: &Gateway) -> Vec<(&'static str, Call)> {
    let tokens = json!({"mcp-1": {"authorization": format!("Bearer {AWKWARD}")}, "mcp-2": TOKEN});
    let query = format!("&user_tokens={}", percent(&tokens.to_string()));
    let encoded = percent(AWKWARD);
    let json = |body: Value| gateway.webhook("").json(&body);
    let text = |body: String| gateway.webhook("").text("application/json", body);
    let spelt = |token: &str| format!(r#"{{"user_tokens":{tokens},"note":"{token}","n":1.50}}"#);
    let parts = reqwest::multipart::Form::new().text("note", AWKWARD);
    let event = |call: Call| {
        let call = call.header("ce-specversion", "1.0").header("ce-id", "1");
        call.header("ce-source", "/s").header("ce-type", "t").header("ce-note", &encoded)
    };
    let mapping = r#"&params_mapping={"prompt":"deep.0.note","user_id":"note"}"#;
    let deep =
        json!({"user_tokens": tokens, "note": AWKWARD, "deep": [{"note": AWKWARD}, AWKWARD]});
    vec![
        ("a prompt", json(json!({"prompt": format!("say {AWKWARD}"), "user_tokens": tokens}))),
        ("a name", json(json!({"user_tokens": tokens, AWKWARD: 1}))),
        ("escapes of slashes", text(spelt("s\u{e9}\\/cret+abc123mark456\\\"="))),
        ("escapes of all", text(spelt("\\u0073\\u00e9/cret\\u002babc123mark456\\u0022="))),
        (
            "JSON in a text",
            json(json!({"user_tokens": tokens, "raw": json!([AWKWARD]).to_string()})),
        ),
        ("what is mapped", gateway.webhook(mapping).json(&deep)),
        (
            "the user",
            json(json!({"user_tokens": tokens, "user_id": AWKWARD, "user_email": AWKWARD})),
        ),
        (
            "the query",
            gateway.webhook(&format!("{query}&note={encoded}&{encoded}=1")).json(&json!({})),
        ),
        ("a header", json(json!({"user_tokens": tokens})).header("x-note", &format!("v={TOKEN}"))),
        (
            "a form",
            gateway.webhook(&query).text(FORM, format!("note={encoded}&note=2&more={encoded}")),
        ),
        ("a part", gateway.webhook(&query).multipart(parts)),
        ("an event", event(gateway.webhook(&query)).json(&json!({"note": AWKWARD}))),
        ("an event of bytes", event(gateway.webhook(&query)).text("text/plain", AWKWARD)),
        (
            "an invocation",
            gateway.post_to_agent("invoke").json(&json!({
                "input": {"text": AWKWARD, "user": {"id": AWKWARD}}, "user_tokens": tokens,
                "payload_extension": {"note": AWKWARD}, "additional_context": AWKWARD,
            })),
        ),
    ]
}

const FORM: &str = "application/x-www-form-urlencoded";

fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

#[tokio::test]
async fn x8_a_token_that_the_sender_repeats_is_taken_out_there_too() {
    let gateway = Gateway::start().await;
    for (place, call) in repeating(&gateway) {
        let answer = call.expect(200).await;
        let id = answer.task_id();
        let recorded =
            gateway.admin_request("GET", &format!("/tasks/{id}/recording")).expect(200).await;
        let task = gateway.task(&id).await.to_string();
        let thread = json!(gateway.thread(&id).await).to_string();
        let body = recorded.json()["request"]["body_base64"].as_str().unwrap().to_owned();
        let body = String::from_utf8(STANDARD.decode(body).unwrap()).unwrap();
        for shown in [&answer.text, &task, &thread, &recorded.text, &body] {
            for secret in [MARK, TOKEN, &percent(MARK)] {
                assert!(!shown.contains(secret), "{place}: {shown}");
            }
        }
        let left = [&answer.text, &body, &recorded.text];
        assert!(left.iter().any(|text| text.contains("redacted")), "{place}: {left:?}");
    }
    let database = gateway.home.database_bytes();
    for secret in [MARK, TOKEN, &percent(MARK)] {
        assert!(!database.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
    }
}

#[tokio::test]
async fn x8_what_is_beside_a_repeated_token_stays_as_it_was() {
    let gateway = Gateway::start().await;
    let body = format!(
        r#"{{"user_tokens":{{"m":"{TOKEN}"}}, "big":12345678901234567890.10, "note" : "a {TOKEN} b", "e":"\u00e9"}}"#
    );
    let answer = gateway.webhook("").text("application/json", body).expect(200).await;
    let expected = r#"{"big":12345678901234567890.10,"note":"a [redacted] b","e":"\u00e9"}"#;
    assert_eq!(answer.report()["received"], expected);
}

#[tokio::test]
async fn x8_no_conversation_and_no_key_is_named_by_a_token() {
    let gateway = Gateway::start().await;
    let body = |name: &str| json!({"prompt": "hi", "user_tokens": {"m": TOKEN}, name: TOKEN});
    for call in [
        gateway.webhook("").json(&body("task_id")),
        gateway.webhook(&format!("&task_id=chat-{TOKEN}")).json(&body("note")),
        gateway.webhook(r#"&params_mapping={"task_id":"note"}"#).json(&body("note")),
        gateway.webhook("").json(&body("note")).idempotent(TOKEN),
        gateway.post_to_agent("invoke").json(&json!({
            "id": TOKEN, "input": {"text": "hi"}, "user_tokens": {"m": TOKEN},
        })),
    ] {
        let detail = call.expect(400).await.detail();
        assert!(detail.contains("user_tokens") && !detail.contains(TOKEN), "{detail}");
    }
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn a_key_that_the_sender_repeats_is_taken_out_of_everything_but_its_own_place() {
    let gateway = Gateway::start().await;
    let key = gateway.key.clone();
    let deep = json!({"headers": {"x-api-key": key, "authorization": format!("Bearer {key}")},
                      "note": [format!("it is {key}, you see")], "n": 1});
    let form = format!("prompt=say+{key}&note={key}");
    let hidden =
        format!("{{\"prompt\":\"say {}\\u{:04x}{}\"}}", &key[..6], key.as_bytes()[6], &key[7..]);
    let bearer = "other-bearer-token-42";
    let in_query = format!("/?agent_id={}&x-api-key={key}", gateway.agent);
    for (place, call) in [
        ("a prompt", gateway.webhook("").json(&json!({"prompt": format!("say {key}")}))),
        ("below the top", gateway.webhook("").json(&deep)),
        ("an escaped letter", gateway.webhook("").text("application/json", hidden)),
        ("a form", gateway.webhook("").text(FORM, form)),
        ("a header", gateway.webhook("").header("x-note", &key).json(&json!({"prompt": "hi"}))),
        ("the query", gateway.webhook(&format!("&note={key}")).json(&json!({"prompt": "hi"}))),
        ("a key of the query", gateway.post(&in_query).json(&deep)),
        (
            "a key of the body",
            gateway.webhook("").json(&json!({"x-api-key": bearer, "note": bearer})),
        ),
        (
            "a bearer",
            gateway
                .webhook("")
                .header("authorization", &format!("Bearer {bearer}"))
                .json(&json!({"note": bearer})),
        ),
        (
            "an invocation",
            gateway.post_to_agent("invoke").json(&json!({
                "input": {"text": format!("say {key}")}, "payload_extension": {"x-api-key": key},
            })),
        ),
    ] {
        let answer = call.expect(200).await;
        let id = answer.task_id();
        let recorded =
            gateway.admin_request("GET", &format!("/tasks/{id}/recording")).expect(200).await;
        let body = recorded.json()["request"]["body_base64"].as_str().unwrap().to_owned();
        let body = String::from_utf8(STANDARD.decode(body).unwrap()).unwrap();
        let thread = json!(gateway.thread(&id).await).to_string();
        for shown in [&answer.text, &thread, &recorded.text, &body] {
            assert!(!shown.contains(&key) && !shown.contains(bearer), "{place}: {shown}");
        }
        let left = [&answer.text, &body, &recorded.text];
        assert!(left.iter().any(|text| text.contains("redacted")), "{place}: {left:?}");
    }
    let database = gateway.home.database_bytes();
    for secret in [key.as_str(), bearer] {
        assert!(!database.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
    }
    // The key of another caller is data, and so is a field that only has the name of a credential.
    let other = json!({"headers": {"x-api-key": "wgk_somebody-elses", "authorization": "pending"}});
    let answer = gateway.webhook("").json(&other).expect(200).await;
    assert_eq!(answer.report()["received"], other.to_string());
    // The key can name neither a conversation nor an idempotency key.
    for call in [
        gateway.webhook("").json(&json!({"prompt": "hi", "task_id": key})),
        gateway.webhook("").json(&json!({"prompt": "hi"})).idempotent(&key),
    ] {
        let detail = call.expect(400).await.detail();
        assert!(detail.contains("the API key") && !detail.contains(&key), "{detail}");
    }
}

#[tokio::test]
async fn x8_after_a_restart_a_run_goes_on_without() {
    let waiting = Setup::new().settings(|settings| settings.queue.runs_max = 0).start().await;
    let body = json!({"prompt": "hi", "user_tokens": {"mcp-1": TOKEN}});
    let id = waiting.webhook("&asynchronous=true").json(&body).expect(200).await.task_id();
    let gateway = Setup::new().home(waiting.stop().await).start().await;
    assert_eq!(gateway.wait_for_end(&id).await["status"], "completed");
    assert_eq!(gateway.thread(&id).await[0].get("graph_items"), None);
}

#[tokio::test]
async fn x8_a_token_is_in_no_answer_trace_log_or_file() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &["--log", "trace"]);
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
    assert!(!find(&home.database_bytes()), "while it serves");
    let (_, logs) = gateway.terminate();
    assert!(!find(logs.as_bytes()) && !find(&home.database_bytes()));
}
