//! Keys and tokens never appear in plain text: neither in the log at its most verbose level, nor in the database, nor
//! in a trace.

use serde_json::json;

use crate::support::mcp_server::{McpServer, Revision};
use crate::support::model_server::{MODEL_KEY, ModelServer, Reply};
use crate::support::{Client, GatewayProcess, Home, wardgate};

const USER_TOKEN: &str = "user-access-token-abc123";
const WRONG_KEY: &str = "wgk_wrong-key-wrong-key-wrong-key-wrong-key-012";

/// Sends every kind of request, valid and invalid, with credentials in every place that accepts them.
async fn use_everything(gateway: &Client, agent: &Client) {
    let body =
        json!({"prompt": "calculate {\"expression\":\"1+1\"}", "user_tokens": {"m": USER_TOKEN}});
    let by_header = gateway.webhook("").json(&body).expect(200).await;
    gateway
        .webhook(r#"&params_mapping={"prompt":"prompt"}&getter=status"#)
        .json(&body)
        .expect(200)
        .await;
    let in_query = |key: &str| format!("/?agent_id={}&x-api-key={key}", gateway.agent);
    gateway.post(&in_query(&gateway.key)).json(&body).expect(200).await;
    gateway.post(&in_query(&gateway.key)).json(&json!({"asynchronous": "maybe"})).expect(400).await;
    gateway.post(&in_query(WRONG_KEY)).json(&body).expect(403).await;
    gateway.post("/nowhere").key(&gateway.key).expect(404).await;
    gateway.get(&format!("/nowhere?x-api-key={}", gateway.key)).expect(404).await;
    gateway.get(&format!("/?x-api-key={}", gateway.key)).expect(405).await;
    gateway.thread(&by_header.task_id()).await;
    slips(gateway).await;
    failures_that_repeat(gateway).await;

    // Here the whole body is the payload, which the agent sees, so it does not contain the user's token.
    let body = json!({"question": "calculate {\"expression\":\"1+1\"}"});
    let id = gateway.trigger().json(&body).idempotent("once").expect(200).await.task_id();
    gateway.wait_for_final_status(&id).await;
    gateway.trigger().text("application/json", "{").expect(400).await;
    let hook = format!("/api/webhooks/agents/{}", gateway.token);
    gateway.get(&format!("{hook}?question=x")).expect(200).await;
    gateway.get(&format!("{hook}x")).expect(404).await;
    gateway
        .exchange_raw(format!("GET {hook} HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n").as_bytes())
        .await;
    let long =
        format!("POST {} HTTP/1.1\r\nx: {}\r\n\r\n", in_query(&gateway.key), "x".repeat(100_000));
    gateway.exchange_raw(long.as_bytes()).await;

    agent.ask(json!({"prompt": "hello", "user_tokens": {"m": USER_TOKEN}})).await;
}

/// Sends requests with a key in places where it does not belong, its name in upper, lower and mixed case, besides the
/// credential that authenticates the request.
async fn slips(gateway: &Client) {
    let hook = format!("/api/webhooks/agents/{}", gateway.token);
    for name in ["x-api-key", "X-API-KEY", "X-Api-Key"] {
        let body = json!({name: WRONG_KEY, "note": "kept"});
        let form = format!("note=kept&{}={WRONG_KEY}", name.replace('-', "%2D"));
        let parts = reqwest::multipart::Form::new().text("note", "kept").text(name, WRONG_KEY);
        let invocation = json!({"input": {"text": "hi"}, name: WRONG_KEY});
        for call in [
            gateway.webhook(&format!("&note=kept&{name}={WRONG_KEY}")).json(&json!({})),
            gateway.webhook(&format!("&{}={WRONG_KEY}", name.replace('-', "%2d"))).json(&body),
            gateway.webhook(r#"&params_mapping={"prompt":"note"}"#).json(&body),
            gateway.webhook("").text("application/x-www-form-urlencoded", form),
            gateway.webhook("").multipart(parts),
            gateway.post_to_agent(&format!("invoke?{name}={WRONG_KEY}")).json(&invocation),
            gateway.post(&format!("{hook}?{name}={WRONG_KEY}")).json(&body),
            gateway.get(&format!("{hook}?note=kept&{name}={WRONG_KEY}")),
        ] {
            let answer = call.expect(200).await;
            let task = gateway.wait_for_end(&answer.task_id()).await.to_string();
            let thread = json!(gateway.thread(&answer.task_id()).await).to_string();
            for shown in [&answer.text, &task, &thread] {
                assert!(!shown.contains(WRONG_KEY), "{name}: {shown}");
            }
            assert!(thread.contains("kept") || thread.contains("hi"), "{name}: {thread}");
        }
    }
}

/// Has tools fail with texts that repeat a credential.
async fn failures_that_repeat(gateway: &Client) {
    // Escaped, the token is not found in the prompt, but the tool receives it as it is.
    let escaped = USER_TOKEN.replace('-', "\\u002d");
    let prompt = format!("calculate {{\"{escaped}\":1}}");
    let body = json!({"prompt": prompt, "user_tokens": {"m": USER_TOKEN}});
    let run = gateway.webhook("").json(&body).expect(200).await;
    let thread = json!(gateway.thread(&run.task_id()).await).to_string();
    assert!(thread.contains("('[redacted]' was unexpected)"), "{thread}");
    let call = format!("/v1/agents/{}/operations/calculate", gateway.agent);
    let call = gateway.post(&call).key(&gateway.key).json(&json!({gateway.key.as_str(): 1}));
    assert!(call.expect(400).await.text.contains("unknown field"));
}

#[tokio::test]
async fn a_full_run_at_log_level_trace_writes_none_of_them() {
    let (home, model) = (Home::new(), ModelServer::start([Reply::Error(401, MODEL_KEY)]).await);
    let settings = home.write("settings.toml", &model.as_toml());
    let settings = settings.to_str().unwrap();
    let gateway =
        GatewayProcess::serve(&home, &["--settings", settings, "--log", "trace,rmcp=trace"]);
    let data = home.path().to_str().unwrap();
    let mcp = McpServer::start(Revision::WithSessions).await;
    let file = home.write("m.toml", &format!("url = {:?}\n", mcp.url()));
    assert!(
        wardgate(&["mcp", "apply", "m", file.to_str().unwrap(), "--data", data]).status.success()
    );
    let file = "name = \"modelled\"\nmodel = \"scripted\"\nmcp_servers = [{ server = \"m\" }]\n";
    let file = home.write("agent.toml", file);
    let applied = wardgate(&[
        "agent",
        "apply",
        file.to_str().unwrap(),
        "--data",
        data,
        "--settings",
        settings,
    ]);
    let applied: serde_json::Value = serde_json::from_slice(&applied.stdout).unwrap();
    let key = wardgate(&["key", "create", "--name", "second", "--data", data]);
    let key = String::from_utf8(key.stdout).unwrap().trim().to_owned();
    let (_, token) = applied["webhook_path"].as_str().unwrap().rsplit_once('/').unwrap();
    let agent = Client::new(&gateway.listen, applied["agent_id"].as_str().unwrap(), &key, token);
    use_everything(&gateway, &agent).await;
    let (headers, _) = mcp.requests().pop().unwrap();
    assert_eq!(headers["authorization"], format!("Bearer {USER_TOKEN}"), "it was sent");

    let operator = gateway.startup_line["operator_key"].as_str().unwrap().to_owned();
    // An operator's key cannot call a tenant's agents.
    gateway
        .post(&format!("/?agent_id={}", gateway.agent))
        .key(&operator)
        .json(&json!({}))
        .expect(403)
        .await;

    let secrets = [
        ("the api key", gateway.key.clone()),
        ("a second api key", key),
        ("the operator key", operator),
        ("a webhook token", gateway.token.clone()),
        ("another webhook token", agent.token.clone()),
        ("a wrong key", WRONG_KEY.to_owned()),
        ("a user's token", USER_TOKEN.to_owned()),
        ("the model's key", MODEL_KEY.to_owned()),
    ];
    let serving = home.database_bytes();
    let (status, logs) = tokio::task::spawn_blocking(move || gateway.terminate()).await.unwrap();
    assert!(status.success());
    assert!(logs.contains("TRACE") && logs.contains("DEBUG"), "the log was not talkative");
    let places = [
        ("the log", logs.into_bytes()),
        ("the database", serving),
        ("the database, closed", home.database_bytes()),
    ];
    for (secret, text) in &secrets {
        assert!(text.len() > 12, "{secret}");
        for (place, bytes) in &places {
            let at = bytes.windows(text.len()).position(|part| part == text.as_bytes());
            let shown = at
                .map(|at| String::from_utf8_lossy(&bytes[at.saturating_sub(200)..at]).into_owned());
            assert_eq!(shown, None, "{secret} is in {place}, behind this");
        }
    }
}
