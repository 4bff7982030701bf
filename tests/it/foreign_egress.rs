//! Requests that a component sends through `wasi:http` are subject to the same grants, address checks and limits as
//! every plugin's egress.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use wardgate::ids::RequestId;
use wardgate::sandbox::{HostResponse, Script, SharedScript, Subject};

use crate::support::web::{FAR_LESS_THAN_SLOW, Web};
use crate::support::{Client, Gateway};

/// Allows everything below `/open` of the server, and the loopback network that it is in.
const OPEN_PATH_GRANT: &str = "[[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = PORT\n\
    methods = [\"GET\", \"POST\"]\npath = \"/open\"\nnetworks = [\"127.0.0.0/8\"]\n";

/// A gateway, an agent whose tool has these grants, and a server.
async fn agent_with_grants(grants: &str) -> (Gateway, Client, Web) {
    let (gateway, web) = (Gateway::start().await, Web::serve_egress_targets().await);
    let grants = grants.replace("PORT", &web.port.to_string());
    let agent = gateway.agent_with_tool("foreign_fetches", &grants).await;
    (gateway, agent, web)
}

/// Calls the tool, and returns its result or error and the log lines of the call.
async fn fetch(agent: &Client, tool: &str, arguments: Value) -> (Value, String) {
    let answer = agent.ask(json!({"prompt": format!("{tool} {arguments}")})).await;
    let called = answer.report()["tools"][0].clone();
    let step = agent.thread(&answer.task_id()).await[2].clone();
    (called["result"].clone(), step["logs"].to_string())
}

async fn get(agent: &Client, web: &Web, path: &str) -> (Value, String) {
    let url = format!("http://127.0.0.1:{}{path}", web.port);
    fetch(agent, "fetch", json!({"url": url})).await
}

#[tokio::test]
async fn what_is_granted_is_fetched() {
    let (_gateway, agent, web) = agent_with_grants(OPEN_PATH_GRANT).await;
    let (hello, _) = get(&agent, &web, "/open/hello?x=1").await;
    let kind = "text/plain; charset=utf-8";
    assert_eq!(hello, json!({"status": 200, "kind": kind, "body": "hello"}));
    let (headers, _) = get(&agent, &web, "/open/headers").await;
    let headers = headers["body"].as_str().unwrap();
    assert!(headers.contains("\"x-from\": \"elsewhere\""), "{headers}");
    assert!(headers.contains(&format!("\"host\": \"127.0.0.1:{}\"", web.port)), "{headers}");
    assert_eq!(get(&agent, &web, "/open/none").await.0["status"], 404);
}

#[tokio::test]
async fn an_answer_is_written_down_and_can_be_played_back() {
    let (gateway, _agent, web) = agent_with_grants(OPEN_PATH_GRANT).await;
    let name = "foreign-fetches".parse().unwrap();
    let binding = gateway.services.plugins.binding(gateway.tenant, &name).await.unwrap();
    let url = format!("http://127.0.0.1:{}/open/hello", web.port);
    let call = async |script: Option<SharedScript>| {
        let agent = gateway.agent.parse().unwrap();
        let subject = Subject { script, ..Subject::new(gateway.tenant, agent, RequestId::next()) };
        let arguments = json!({"url": url}).to_string();
        binding.call_tool(subject, "fetch".to_owned(), arguments).await
    };
    let live = call(None).await;
    let recording = live.recording.unwrap();
    let egress =
        |answer: &HostResponse| matches!(answer, HostResponse::Egress(sent) if sent.url == url);
    assert_eq!(recording.answers.iter().filter(|answer| egress(answer)).count(), 1);
    drop(web);
    let script = Arc::new(Mutex::new(Script::from_recording(&recording)));
    let replayed = call(Some(Arc::clone(&script))).await;
    assert_eq!(replayed.value.unwrap(), live.value.unwrap());
    assert_eq!(script.lock().unwrap().sent[0].headers, [("x-from".into(), "elsewhere".into())]);
}

#[tokio::test]
async fn a_body_arrives_whole() {
    let (_gateway, agent, web) = agent_with_grants(OPEN_PATH_GRANT).await;
    let url = format!("http://127.0.0.1:{}/open/echo", web.port);
    let body = "0123456789".repeat(5_000);
    let (answer, _) = fetch(&agent, "fetch", json!({"url": url, "body": body})).await;
    assert_eq!((&answer["status"], &answer["body"]), (&json!(200), &json!(body)));
}

#[tokio::test]
async fn without_a_grant_nothing_is_sent_and_the_log_names_the_grant() {
    for (grants, path) in
        [("", "/open/hello"), (OPEN_PATH_GRANT, "/closed"), (OPEN_PATH_GRANT, "/open/far")]
    {
        let (_gateway, agent, web) = agent_with_grants(grants).await;
        let (refused, logs) = get(&agent, &web, path).await;
        assert!(refused.to_string().contains("HttpRequestDenied"), "{path}: {refused}");
        for part in ["wasi:http: no grant allows GET", "[[egress]]", "the plugin foreign-fetches"] {
            assert!(logs.contains(part), "{path}: {logs}");
        }
    }
}

#[tokio::test]
async fn an_address_that_is_not_public_needs_its_network_named() {
    let (_gateway, agent, web) =
        agent_with_grants(&OPEN_PATH_GRANT.replace("networks", "# networks")).await;
    let (refused, logs) = get(&agent, &web, "/open/hello").await;
    assert!(refused.to_string().contains("HttpRequestDenied"), "{refused}");
    assert!(logs.contains("not a public address"), "{logs}");
}

#[tokio::test]
async fn redirects_are_followed_to_granted_places() {
    let (_gateway, agent, web) = agent_with_grants(OPEN_PATH_GRANT).await;
    assert_eq!(get(&agent, &web, "/open/near").await.0["body"], "hello");
    let (round, _) = get(&agent, &web, "/open/round").await;
    assert!(round.to_string().contains("redirects more than three times"), "{round}");
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_an_error_and_never_cut_silently() {
    let (_gateway, agent, web) =
        agent_with_grants(&format!("{OPEN_PATH_GRANT}[limits]\negress_bytes = 1000\n")).await;
    let (large, _) = get(&agent, &web, "/open/large").await;
    assert!(large.to_string().contains("HttpResponseBodySize"), "{large}");
}

#[tokio::test]
async fn requests_are_counted_over_the_call() {
    let (_gateway, agent, web) =
        agent_with_grants(&format!("{OPEN_PATH_GRANT}[limits]\negress_requests = 3\n")).await;
    let url = format!("http://127.0.0.1:{}/open/hello", web.port);
    let often = |times: u32| json!({"url": url, "times": times});
    assert_eq!(fetch(&agent, "fetch-often", often(3)).await.0, json!(3));
    let (refused, _) = fetch(&agent, "fetch-often", often(4)).await;
    assert!(
        refused.to_string().contains("after 3: ErrorCode::ConnectionLimitReached"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_server_that_does_not_answer_takes_the_calls_time_and_no_more() {
    let grants = format!("{OPEN_PATH_GRANT}[limits]\ntool_wall_ms = 700\n");
    let (_gateway, agent, web) = agent_with_grants(&grants).await;
    let started = Instant::now();
    let (slow, _) = get(&agent, &web, "/open/slow").await;
    // The timeouts of the request and of the call expire at the same moment, so either may be reported.
    let ends = ["took longer than the 700 ms", "HttpResponseTimeout"];
    assert!(ends.iter().any(|end| slow.to_string().contains(end)), "{slow}");
    let took = started.elapsed();
    assert!(Duration::from_millis(700) <= took && took < FAR_LESS_THAN_SLOW, "{took:?}");
}

#[tokio::test]
async fn what_is_only_counted_is_sent_to_public_addresses_and_noted() {
    let (_gateway, agent, web) = agent_with_grants("egress-mode = \"count\"\n").await;
    let (refused, _) = get(&agent, &web, "/open/hello").await;
    // The server's address is not public, so a test can check only that much.
    assert!(refused.to_string().contains("HttpRequestDenied"), "{refused}");
}
