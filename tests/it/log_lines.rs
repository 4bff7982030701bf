//! A log line names the request, tenant, task and plugin that it concerns.

use serde_json::{Value, json};

use crate::support::{GatewayProcess, Home};

/// The spans of the first log line with this message, outermost first.
fn spans(log: &[Value], message: &str) -> Vec<Value> {
    let line = log.iter().find(|line| line["fields"]["message"] == message);
    let line = line.unwrap_or_else(|| panic!("no line {message:?}: {log:#?}"));
    line["spans"].as_array().cloned().unwrap_or_default()
}

/// The value of a field in the innermost of these spans that has it.
fn field<'s>(spans: &'s [Value], name: &str) -> &'s str {
    let value = spans.iter().rev().find_map(|span| span[name].as_str());
    value.unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_a_request_its_run_and_its_plugin_calls_name_what_they_concern() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &["--log", "debug", "--log-json"]);
    let tenant = gateway.startup_line["organization_id"].as_str().unwrap().to_owned();
    let agent = gateway.startup_line["agent_id"].as_str().unwrap().to_owned();

    // {"prompt":"question"}
    let mapping = "%7B%22prompt%22%3A%22question%22%7D";
    let call = gateway.webhook(&format!("&params_mapping={mapping}&getter=status"));
    let answer = call.json(&json!({"question": "Which log lines concern me?"})).expect(200).await;
    assert_eq!(answer.json(), json!("completed"));
    let task = answer.header("x-task-id").unwrap().to_owned();
    let request = answer.header("x-request-id").unwrap().to_owned();
    let (_, log) = gateway.terminate();
    let log: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();

    let of_request = spans(&log, "a request was answered");
    assert_eq!(of_request[0]["name"], "request");
    assert_eq!(field(&of_request, "request"), request);
    assert_eq!(field(&of_request, "tenant"), tenant);
    assert_eq!(field(&of_request, "task"), task);

    let of_run = spans(&log, "task finished");
    assert_eq!(of_run[0]["name"], "run");
    assert_eq!(field(&of_run, "task"), task);
    assert_eq!(field(&of_run, "tenant"), tenant);
    assert_eq!(field(&of_run, "agent"), agent);
    assert_eq!(of_run[0]["attempt"], 1);

    // The mapper was called inside the request.
    let of_call = spans(&log, "a plugin call ended");
    assert_eq!(of_call[0]["name"], "request");
    assert_eq!(of_call.last().unwrap()["name"], "plugin_call");
    assert_eq!(field(&of_call, "plugin"), "dot-mapper");
    assert_eq!(field(&of_call, "export"), "map-payload");
    assert_eq!(field(&of_call, "tenant"), tenant);
    assert_eq!(field(&of_call, "request"), request);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_denied_names_no_tenant() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &["--log", "debug", "--log-json"]);
    gateway.get("/v1/tasks").key("not a key").expect(403).await;
    let (_, log) = gateway.terminate();
    let log: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let denied = spans(&log, "a request was answered");
    assert!(denied[0]["request"].is_string(), "{denied:?}");
    assert!(denied.iter().all(|span| span["tenant"].is_null()), "{denied:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_names_its_tenant_once_however_often_it_is_authenticated() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &["--log", "debug"]);
    // The key is checked before the body is read, and again for the agent that the body names.
    let body = json!({"agent_id": gateway.agent, "prompt": "Once?"});
    gateway.post("/").key(&gateway.key).json(&body).expect(200).await;
    let (_, log) = gateway.terminate();
    let line = log.lines().find(|line| line.contains("a request was answered")).unwrap();
    assert_eq!(line.matches(" tenant=").count(), 1, "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_names_what_it_concerns_at_every_level() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &["--log", "warn", "--log-json"]);
    let call = format!("/agents/{}/operations/calculate", gateway.agent);
    let answer = gateway.post(&call).key(&gateway.key).json(&json!({"no": 1})).expect(400).await;
    let request = answer.header("x-request-id").unwrap().to_owned();
    let (_, log) = gateway.terminate();
    let log: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let failed = spans(&log, "a tool that was called directly failed");
    assert_eq!(field(&failed, "request"), request);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_of_an_agents_webhook_names_its_task() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &["--log", "debug", "--log-json"]);
    let task = gateway.trigger().json(&json!({"question": "Who?"})).expect(200).await.task_id();
    let (_, log) = gateway.terminate();
    let log: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(field(&spans(&log, "a request was answered"), "task"), task);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_caller_sends_neither_begins_a_line_nor_controls_a_terminal() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &["--log", "debug"]);
    let forged = "x\nERROR forged\u{1b}[2J";
    let call = format!("/agents/{}/operations/calculate", gateway.agent);
    gateway.post(&call).key(&gateway.key).json(&json!({forged: 1})).expect(400).await;
    let (_, log) = gateway.terminate();
    assert!(log.contains(r"x\nERROR forged\u{1b}[2J"), "{log}");
    assert!(!log.contains('\u{1b}'), "{log}");
    assert!(log.lines().all(|line| line.starts_with("20")), "{log}");
}
