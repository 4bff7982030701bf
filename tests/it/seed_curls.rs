//! Every curl command in the two documents that the product implements, run by curl as written. Only the host, the
//! ids and keys, and the paths of uploaded files are replaced; `-g` keeps curl from reading braces in a URL as a
//! pattern.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::Gateway;

/// Runs a documented command, and returns the status and the body.
async fn run_curl(gateway: &Gateway, documented: &str) -> (u16, Value) {
    let command = documented
        .replacen("curl ", "curl -g -sS -w '\\n%{http_code}' ", 1)
        .replace("https://webhook.xpander.ai", &format!("http://{}", gateway.listen))
        .replace("http://localhost:7091", &format!("http://{}", gateway.listen))
        .replace("YOUR_AGENT_ID", &gateway.agent)
        .replace("YOUR_API_KEY", &gateway.key)
        .replace("your_webhook_token", &gateway.token);
    let output = tokio::task::spawn_blocking(move || {
        // Without the machine's proxy and the user's settings.
        Command::new("sh").args(["-c", &command]).env_clear().env("PATH", "/usr/bin:/bin").output()
    });
    let output = output.await.unwrap().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (body, status) = text.rsplit_once('\n').unwrap_or_else(|| {
        panic!("curl says {}", String::from_utf8_lossy(&output.stderr));
    });
    (status.parse().unwrap(), serde_json::from_str(body).unwrap_or_else(|_| panic!("{body}")))
}

fn received(task: &Value) -> Value {
    let result: Value = serde_json::from_str(task["result"].as_str().unwrap()).unwrap();
    result["received"].clone()
}

#[tokio::test]
async fn xpander_make_requests() {
    let gateway = Gateway::start().await;
    let (status, task) = run_curl(
        &gateway,
        r#"curl -X POST 'https://webhook.xpander.ai/?agent_id=YOUR_AGENT_ID' \
  -H 'Content-Type: application/json' \
  -H 'x-api-key: YOUR_API_KEY' \
  -d '{"prompt": "Summarize the latest support tickets"}'"#,
    )
    .await;
    assert_eq!((status, &task["status"]), (200, &json!("completed")));
    assert_eq!(received(&task), "Summarize the latest support tickets");
}

#[tokio::test]
async fn xpander_asynchronous() {
    let gateway = Gateway::start().await;
    let answer = run_curl(
        &gateway,
        r#"curl -X POST 'https://webhook.xpander.ai/?agent_id=YOUR_AGENT_ID&asynchronous=true' \
  -H 'x-api-key: YOUR_API_KEY' \
  -d '{"prompt": "Generate the monthly report"}'"#,
    )
    .await;
    assert_eq!(answer, (200, json!({"status": "Started"})));
    assert_eq!(gateway.stored_task_count().await, 1);
}

/// Uploads are not supported yet. Until they are, the response says so and nothing runs: an agent that answered
/// without having seen the files would be worse.
#[tokio::test]
async fn xpander_upload_files_is_refused_honestly_for_now() {
    let gateway = Gateway::start().await;
    std::fs::write(gateway.home.path().join("document.pdf"), "%PDF-1.4").unwrap();
    std::fs::write(gateway.home.path().join("image.png"), "\u{89}PNG").unwrap();
    let documented = r#"curl -X POST 'https://webhook.xpander.ai/?agent_id=YOUR_AGENT_ID' \
  -H 'x-api-key: YOUR_API_KEY' \
  --form 'files=@"/path/to/document.pdf"' \
  --form 'files=@"/path/to/image.png"'"#;
    let folder: &Path = gateway.home.path();
    let (status, answer) =
        run_curl(&gateway, &documented.replace("/path/to", folder.to_str().unwrap())).await;
    assert_eq!(status, 415);
    let detail = answer["detail"].as_str().unwrap();
    assert!(detail.contains("document.pdf") && detail.contains("no file uploads"), "{detail}");
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn xpander_extract_data() {
    let gateway = Gateway::start().await;
    let answer = run_curl(
        &gateway,
        r#"curl -X POST 'https://webhook.xpander.ai/?agent_id=YOUR_AGENT_ID&getter=result.summary' \
  -H 'x-api-key: YOUR_API_KEY' \
  -d '{"prompt": "Analyze quarterly report"}'"#,
    )
    .await;
    assert_eq!(answer, (200, json!("Analyze quarterly report")));
}

#[tokio::test]
async fn xpander_map_dynamic_parameters() {
    let gateway = Gateway::start().await;
    let (status, task) = run_curl(
        &gateway,
        r#"curl -X POST 'https://webhook.xpander.ai/?agent_id=YOUR_AGENT_ID&params_mapping={"task_id":"message.chat.id","prompt":"message.text","user_email":"message.from.email"}' \
  -H 'x-api-key: YOUR_API_KEY' \
  -d '{
    "message": {
      "chat": {"id": 123456789},
      "from": {"email": "user@example.com"},
      "text": "Hello agent!"
    }
  }'"#,
    )
    .await;
    assert_eq!((status, received(&task)), (200, json!("Hello agent!")));
    let task = gateway.task(task["id"].as_str().unwrap()).await;
    assert_eq!(task["thread_id"], "123456789");
    assert_eq!(task["input"]["user"]["email"], "user@example.com");
}

#[tokio::test]
async fn xpander_pass_mcp_oauth_tokens() {
    let gateway = Gateway::start().await;
    let (status, task) = run_curl(
        &gateway,
        r#"curl -X POST 'https://webhook.xpander.ai/?agent_id=YOUR_AGENT_ID' \
  -H 'x-api-key: YOUR_API_KEY' \
  -d '{
    "prompt": "Check my calendar",
    "user_email": "user@example.com",
    "user_tokens": {
      "mcp-graph-item-uuid-1": "user-access-token-abc123"
    }
  }'"#,
    )
    .await;
    assert_eq!((status, received(&task)), (200, json!("Check my calendar")));
    assert!(!task.to_string().contains("user-access-token-abc123"), "{task}");
}

#[tokio::test]
async fn docsgpt_trigger_and_poll() {
    let gateway = Gateway::start().await;
    let (status, answer) = run_curl(
        &gateway,
        r#"curl -X POST \
  http://localhost:7091/api/webhooks/agents/your_webhook_token \
  -H "Content-Type: application/json" \
  -d '{"question": "Your message to agent"}'"#,
    )
    .await;
    assert_eq!((status, &answer["success"]), (200, &json!(true)));
    let id = answer["task_id"].as_str().unwrap();
    gateway.wait_for_end(id).await;
    let poll = "curl http://localhost:7091/api/task_status?task_id=YOUR_TASK_ID";
    let (status, polled) = run_curl(&gateway, &poll.replace("YOUR_TASK_ID", id)).await;
    assert_eq!((status, &polled["status"]), (200, &json!("SUCCESS")));
    let answer = polled["result"]["result"]["answer"].as_str().unwrap();
    assert!(answer.contains("Your message to agent"), "{answer}");
}

#[tokio::test]
async fn docsgpt_trigger_with_get() {
    let gateway = Gateway::start().await;
    let (status, answer) = run_curl(
        &gateway,
        r#"curl "http://localhost:7091/api/webhooks/agents/your_webhook_token?question=Your+message+to+agent""#,
    )
    .await;
    assert_eq!((status, &answer["success"]), (200, &json!(true)));
    let task = gateway.wait_for_end(answer["task_id"].as_str().unwrap()).await;
    assert_eq!(task["input"]["text"], r#"{"question":"Your message to agent"}"#);
}

#[tokio::test]
async fn docsgpt_duplicate_triggers() {
    let gateway = Gateway::start().await;
    let documented = r#"curl -X POST \
  http://localhost:7091/api/webhooks/agents/your_webhook_token \
  -H "Content-Type: application/json" \
  -H "Idempotency-Key: order-4567-created" \
  -d '{"question": "Your message to agent"}'"#;
    let first = run_curl(&gateway, documented).await;
    assert_eq!((first.0, run_curl(&gateway, documented).await), (200, first));
    assert_eq!(gateway.stored_task_count().await, 1);
}
