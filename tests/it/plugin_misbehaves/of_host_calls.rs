//! What a guest has the host do for it is bounded like what it does itself.

use serde_json::{Value, json};

use super::{as_before, check, mapper, neighbour};
use crate::support::web::Web;
use crate::support::{Answer, Caller, Gateway};

/// A secret and values, for guests that use them up.
const GRANTED: &str = "[secrets]\nsigning = \"webhook\"\n[key-value]\nbytes = 1000\n\
                       [limits]\nconcurrency = 1\nwall_ms = 50000\n";

/// Calls an agent whose mapper uses up what it is granted, twice, beside a neighbour.
async fn granted(guest: &str, limits: &str, status: u16, what: &str) {
    let gateway = Gateway::start().await;
    gateway.keep_secret("webhook", "a key of the tenant", false).await;
    let agent = gateway.with_mapper(guest, &format!("{GRANTED}{limits}")).await;
    neighbour(&gateway).await;
    let plugin = guest.replace('_', "-");
    for _ in 0..2 {
        let call = agent.webhook("").json(&json!({}));
        let (answer, _) = tokio::join!(call.send(), neighbour(&gateway));
        check(&answer, status, &plugin, what);
    }
    as_before(&gateway, &plugin).await;
}

#[tokio::test]
async fn leaks_secrets() {
    granted("leaks_secrets", "cpu_ms = 5000", 502, "more than the 256 handles").await;
}

#[tokio::test]
async fn leaks_buckets() {
    granted("leaks_buckets", "cpu_ms = 5000", 502, "more than the 256 handles").await;
}

#[tokio::test]
async fn leaks_pollables() {
    mapper("leaks_pollables", "", 502, "more than the 256 handles").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signs_forever() {
    // The host's work for a guest counts like the guest's own.
    granted("signs_forever", "cpu_ms = 100", 504, "computed for longer than the 100 ms").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn matches_forever() {
    granted("matches_forever", "cpu_ms = 50000", 502, "too often").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looks_forever() {
    let gateway = Gateway::start().await;
    let limits = "[limits]\ncpu_ms = 20000\nwall_ms = 30000\n";
    let agent = gateway.with_mapper("looks_forever", limits).await;
    neighbour(&gateway).await;
    let payload = json!({"text": "x".repeat(1 << 20)});
    let call = agent.webhook("").json(&payload);
    let (answer, _) = tokio::join!(call.send(), neighbour(&gateway));
    check(&answer, 502, "looks-forever", "too often");
    as_before(&gateway, "looks-forever").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asks_forever() {
    mapper("asks_forever", "", 504, "computed for longer than the 200 ms").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_stdout() {
    mapper("floods_stdout", "", 504, "computed for longer than the 200 ms").await;
}

#[tokio::test]
async fn wants_random() {
    mapper("wants_random", "", 502, "broke the interface").await;
}

#[tokio::test]
async fn reads_clock_forever() {
    let gateway = Gateway::start().await;
    let limits = "[limits]\ncpu_ms = 20000\nwall_ms = 30000\n";
    let agent = gateway.with_mapper("reads_clock_forever", limits).await;
    let before = gateway.home.database().len();
    assert_eq!(agent.ask(json!({})).await.report()["received"], "read", "reading it is no failure");
    let kept = gateway.home.database().len() - before;
    assert!(kept < 4 << 20, "a hundred thousand answers are not kept: {kept}");
}

#[tokio::test]
async fn logs_lines() {
    let gateway = Gateway::start().await;
    let agent = gateway.with_mapper("logs_lines", "").await;
    let answer = agent.ask(json!({})).await;
    let thread = agent.thread(&answer.task_id()).await;
    let logs = thread[0]["mapping"]["logs"].as_array().unwrap();
    assert_eq!(logs.len(), 1, "one call is one line: {logs:?}");
    let line = logs[0].as_str().unwrap();
    assert!(line.contains("forged") && line.contains("end"), "{line}");
    assert!(!line.chars().any(char::is_control), "{line:?}");
}

/// A getter that hands over what the interface forbids.
async fn getter(guest: &str, path: &str, what: &str) {
    let gateway = Gateway::start().await;
    let limits = "[limits]\nconcurrency = 1\ncpu_ms = 5000\nwall_ms = 10000\n";
    let agent = gateway.with_getter(guest, limits).await;
    let plugin = guest.replace('_', "-");
    for _ in 0..2 {
        let call = agent.webhook(&format!("&getter={path}")).json(&json!({"prompt": "x"}));
        let (answer, _) = tokio::join!(call.send(), neighbour(&gateway));
        check(&answer, 502, &plugin, what);
    }
    as_before(&gateway, &plugin).await;
}

#[tokio::test]
async fn not_utf8() {
    getter("not_utf8", "x", "utf-8").await;
}

#[tokio::test]
async fn beyond_memory() {
    getter("beyond_memory", "x", "broke the interface").await;
    getter("beyond_memory", "long", "broke the interface").await;
}

#[tokio::test]
async fn floods_tools() {
    let gateway = Gateway::start().await;
    let limits = "[limits]\nconcurrency = 1\ncpu_ms = 5000\nwall_ms = 10000\n";
    let agent = gateway.with_tool("floods_tools", limits).await;
    for _ in 0..2 {
        let (answer, _) = tokio::join!(agent.ask(json!({"prompt": "hello"})), neighbour(&gateway));
        let task = answer.json();
        assert_eq!(task["status"], "failed", "{task}");
        let reason = task["result"].as_str().unwrap();
        assert!(reason.contains("floods-tools") && reason.contains("handed over"), "{reason}");
    }
    as_before(&gateway, "floods-tools").await;
}

/// Has the guest dive to a depth and send a request from there.
async fn dive(agent: &Caller, depth: u64, url: &str) -> Value {
    let arguments = json!({"depth": depth, "url": url});
    let answer: Answer = agent.ask(json!({"prompt": format!("dive {arguments}")})).await;
    answer.report()["tools"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_call_at_the_end_of_the_guests_stack_has_the_stack_that_it_needs() {
    let (gateway, web) = (Gateway::start().await, Web::places().await);
    let rule = "[[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = PORT\n\
                networks = [\"127.0.0.0/8\"]\n[limits]\ntool_cpu_ms = 10000\n";
    let grants = rule.replace("PORT", &web.port.to_string());
    let agent = gateway.with_tool("calls_host_at_depth", &grants).await;
    let url = format!("http://127.0.0.1:{}/open/hello", web.port);
    let (mut fits, mut crashes) = (0, 1 << 20);
    while crashes - fits > 1 {
        let depth = (fits + crashes) / 2;
        let tool = dive(&agent, depth, &url).await;
        if tool["is_error"] == true {
            let reason = tool["result"].as_str().unwrap();
            assert!(reason.contains("crashed (") || reason.contains("cut off"), "{reason}");
            crashes = depth;
        } else {
            assert_eq!(tool["result"], "200", "at {depth}");
            fits = depth;
        }
        // Nine crashes in a row would be one too few for the tenth.
        dive(&agent, 0, &url).await;
    }
    assert!(fits > 100, "{fits}");
    neighbour(&gateway).await;
}
