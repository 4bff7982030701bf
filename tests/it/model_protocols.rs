//! The three protocols of models, over HTTP: what goes out, what comes back, and what servers do wrong.

use std::time::Duration;

use serde_json::{Value, json};
use wardgate::settings::Protocol;

use crate::support::model_server::{MODEL_KEY, ModelServer, Reply};
use crate::support::{Gateway, GatewayProcess, Home, Setup, wardgate};

const PROTOCOLS: [Protocol; 3] =
    [Protocol::OpenaiCompatible, Protocol::Anthropic, Protocol::Gemini];

async fn gateway(server: &ModelServer) -> Gateway {
    Setup::new().model(server).start().await
}

async fn failure(gateway: &Gateway) -> String {
    let task = gateway.ask(json!({"prompt": "hello"})).await.json();
    assert_eq!(task["status"], "failed", "{task}");
    task["result"].as_str().unwrap().to_owned()
}

fn calls(calls: &[(&str, &str)]) -> Reply {
    let calls = calls.iter().map(|(name, arguments)| ((*name).to_owned(), (*arguments).to_owned()));
    Reply::Calls(calls.collect())
}

#[tokio::test]
async fn each_protocol_is_sent_its_key_and_answers_with_tokens() {
    let bearer = format!("Bearer {MODEL_KEY}");
    for (protocol, key) in PROTOCOLS.into_iter().zip([&*bearer, MODEL_KEY, MODEL_KEY]) {
        let server = ModelServer::speaking(protocol, [Reply::Text("It is 42.")]).await;
        let gateway = gateway(&server).await;
        let answer = gateway.ask(json!({"prompt": "Six times seven?"})).await;
        assert_eq!(answer.json()["result"], "It is 42.", "{protocol:?}");
        assert_eq!(server.requests()[0].1, key);
        let thread = gateway.thread(&answer.task_id()).await;
        let turn = thread.iter().find(|message| message["role"] == "assistant").unwrap();
        assert_eq!(turn["metrics"]["usage"]["fresh_input"], 11, "{turn}");
        assert_eq!(turn["metrics"]["usage"]["output"], 7, "{turn}");
    }
}

#[tokio::test]
async fn a_model_is_shown_the_images_of_a_payload_in_this_task_and_the_next_of_its_thread() {
    let screenshot = "data:image/png;base64,iVBORw0KGgo=";
    for protocol in PROTOCOLS {
        let server = ModelServer::speaking(protocol, [Reply::Text("A dog.")]).await;
        let setup = Setup::new().model(&server).agent(|agent| agent.show_images = true);
        let gateway = setup.start().await;
        let answer =
            gateway.ask(json!({"task_id": "dogs", "prompt": "What is it?", "shot": screenshot}));
        let task = answer.await.task_id();
        gateway.ask(json!({"task_id": "dogs", "prompt": "Which colour?"})).await;
        for (request, _) in server.requests() {
            let request = request.to_string();
            assert_eq!(request.matches("iVBORw0KGgo=").count(), 1, "{request}");
            assert!(request.contains("image/png"), "{request}");
            assert!(request.contains(r#"\"shot\":\"[image 1]\""#), "{request}");
        }
        let trace = json!(gateway.thread(&task).await).to_string();
        assert!(trace.contains("[image 1]") && !trace.contains("iVBORw0KGgo="), "{trace}");
    }

    let server = ModelServer::start([Reply::Text("Text.")]).await;
    gateway(&server).await.ask(json!({"prompt": "What is it?", "shot": screenshot})).await;
    let (request, _) = server.requests().remove(0);
    let content = request["messages"].as_array().unwrap().last().unwrap()["content"].clone();
    assert!(content.as_str().unwrap().contains(screenshot), "text, unless the agent shows images");
}

#[tokio::test]
async fn results_of_all_calls_of_a_turn_go_back_as_each_protocol_has_them() {
    for protocol in PROTOCOLS {
        let two = calls(&[
            ("calculate", r#"{"expression":"1+1"}"#),
            ("calculate", r#"{"expression":"1/0"}"#),
        ]);
        let server = ModelServer::speaking(protocol, [two, Reply::Text("2, and none.")]).await;
        let answer = gateway(&server).await.ask(json!({"prompt": "x"})).await.json();
        assert_eq!(answer["result"], "2, and none.", "{protocol:?}");
        let (request, _) = server.requests().remove(1);
        let messages = request.get("messages").unwrap_or_else(|| &request["contents"]);
        let messages = messages.as_array().unwrap();
        let last = |count: usize| &messages[messages.len() - count..];
        let results: Vec<(String, String)> = match protocol {
            Protocol::OpenaiCompatible => last(2)
                .iter()
                .inspect(|message| assert_eq!(message["role"], "tool"))
                .map(|result| (result["tool_call_id"].to_string(), result["content"].to_string()))
                .collect(),
            Protocol::Anthropic => {
                let blocks = last(1)[0]["content"].as_array().unwrap();
                assert_eq!(blocks[1]["is_error"], true);
                let result = |block: &Value| {
                    (block["tool_use_id"].to_string(), block["content"].to_string())
                };
                blocks.iter().map(result).collect()
            }
            Protocol::Gemini => {
                let parts = last(1)[0]["parts"].as_array().unwrap();
                let response = |part: &Value| part["functionResponse"].clone();
                parts
                    .iter()
                    .map(response)
                    .map(|one| (one["id"].to_string(), one["response"].to_string()))
                    .collect()
            }
        };
        let ids: Vec<&str> = results.iter().map(|(id, _)| id.as_str()).collect();
        assert_eq!(ids, ["\"call_abc\"", "\"call_abc1\""], "{protocol:?}");
        assert!(results[0].1.contains('2') && results[1].1.contains("zero"), "{results:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_or_that_its_server_gives_up_is_asked_for_again() {
    for protocol in PROTOCOLS {
        for first in [
            Reply::Broken("Half an "),
            Reply::FailedMidway("Half an ", "overloaded"),
            Reply::Error(429, "slow down"),
            Reply::Error(529, "overloaded"),
            Reply::Error(408, "timeout"),
        ] {
            let server =
                ModelServer::speaking(protocol, [first.clone(), Reply::Text("whole")]).await;
            let answer = gateway(&server).await.ask(json!({"prompt": "x"})).await.json();
            assert_eq!(answer["result"], "whole", "{protocol:?} {first:?}");
            assert_eq!(server.requests().len(), 2, "{protocol:?} {first:?}");
        }
    }
}

#[tokio::test]
async fn what_would_fail_again_fails_the_run_with_its_reason() {
    for protocol in PROTOCOLS {
        for (reply, says) in [
            (Reply::Error(401, "bad key"), "check models.scripted.api_key"),
            (Reply::Error(403, "no access"), "check models.scripted.api_key"),
            (Reply::Error(404, "no such model"), "check models.scripted.model"),
            (Reply::Error(400, "wrong"), "answered 400: wrong"),
            (Reply::Finished("Half an ans", "length"), "output_tokens_max"),
            (Reply::Finished("", "content_filter"), "refused to answer"),
            (Reply::Text("  "), "empty answer"),
            (raw("text/html", b"<html>Welcome</html>"), "check that models.scripted.base_url"),
            (raw("application/json", b"{\"result\": 1}"), "check that models.scripted.base_url"),
        ] {
            let server = ModelServer::speaking(protocol, [reply.clone()]).await;
            let reason = failure(&gateway(&server).await).await;
            assert!(reason.contains(says), "{protocol:?} {reply:?}: {reason}");
            assert!(!reason.contains(MODEL_KEY));
            assert_eq!(server.requests().len(), 1, "{protocol:?} {reply:?}");
        }
    }
}

fn raw(content_type: &'static str, body: &[u8]) -> Reply {
    let headers: &'static [(&str, &str)] = match content_type {
        "text/html" => &[("content-type", "text/html")],
        "application/json" => &[("content-type", "application/json")],
        "gzip" => &[("content-type", "text/event-stream"), ("content-encoding", "gzip")],
        _ => &[("content-type", "text/event-stream")],
    };
    Reply::Raw(headers, body.into())
}

/// What a hostile server answers, in this protocol.
fn hostile_replies(protocol: Protocol) -> Vec<(&'static str, Reply)> {
    let stream = |text: String| raw("text/event-stream", text.as_bytes());
    let many: Vec<(String, String)> =
        (0..129).map(|_| ("calculate".to_owned(), "{}".to_owned())).collect();
    let far = match protocol {
        Protocol::OpenaiCompatible => {
            r#"{"choices":[{"delta":{"tool_calls":[{"index":1000000000,"id":"a","function":{"name":"calculate","arguments":"{}"}}]},"finish_reason":"tool_calls"}]}"#
        }
        Protocol::Anthropic => {
            r#"{"type":"content_block_start","index":1000000000,"content_block":{"type":"tool_use","id":"a","name":"calculate","input":{}}}"#
        }
        Protocol::Gemini => {
            r#"{"candidates":[{"index":1000000000,"content":{"parts":[{"functionCall":{"name":"calculate","args":{}}}]}}]}"#
        }
    };
    let zeros = vec![0; 8 << 20];
    vec![
        ("129 calls", Reply::Calls(many.into())),
        ("a far index", stream(format!("data: {far}\n\n"))),
        (
            "an endless line",
            Reply::Endless(
                "data: {\"a\": \"",
                "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            ),
        ),
        (
            "endless comments",
            Reply::Endless("", ": keep-alive\n\n: keep-alive\n\n: keep-alive\n\n: keep-alive\n\n"),
        ),
        (
            "endless events",
            Reply::Endless(
                "",
                "data: {}\n\ndata: {}\n\ndata: {}\n\ndata: {}\n\ndata: {}\n\ndata: {}\n\n",
            ),
        ),
        ("no event", stream(String::new())),
        ("not UTF-8", raw("text/event-stream", b"data: \xff\xfe\n\n")),
        ("compressed zeros", raw("gzip", &gzip(&zeros))),
        ("deep JSON", stream(format!("data: {}\n\n", "[".repeat(1 << 20)))),
        ("nothing", Reply::Silence),
    ]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A gateway in a process of its own, whose agent uses this server.
async fn process_with_model(server: &ModelServer, home: &Home) -> (GatewayProcess, String) {
    let settings = home.write("settings.toml", &server.as_toml());
    let settings = settings.to_str().unwrap();
    let gateway = GatewayProcess::serve(home, &["--settings", settings]);
    let definition = home
        .write("agent.toml", "name = \"asking\"\nmodel = \"scripted\"\ntools = [\"calculator\"]\n");
    let local = ["--data", home.path().to_str().unwrap(), "--settings", settings];
    let apply = ["agent", "apply", definition.to_str().unwrap()];
    let applied = wardgate(&[&apply, &local[..]].concat());
    let applied: Value = serde_json::from_slice(&applied.stdout).unwrap();
    (gateway, applied["agent_id"].as_str().unwrap().to_owned())
}

async fn meet_hostile_server(protocol: Protocol) {
    const MEBIBYTES_30: u64 = 30 << 20;
    let mut server = ModelServer::speaking(protocol, [Reply::Text("ok")]).await;
    // What has no end ends with the time limit, unless something else ends it before.
    server.turn_time_max = Duration::from_secs(1);
    let home = Home::new();
    let (gateway, agent) = process_with_model(&server, &home).await;
    let ask = async || {
        let call = gateway.post(&format!("/?agent_id={agent}")).key(&gateway.key);
        call.json(&json!({"prompt": "hello"})).expect(200).await.json()
    };
    assert_eq!(ask().await["result"], "ok");
    let idle = gateway.resident_bytes();
    for (what, reply) in hostile_replies(protocol) {
        server.set_reply(reply);
        let asked = server.requests().len();
        let task = ask().await;
        assert_eq!(task["status"], "failed", "{protocol:?}, {what}: {task}");
        assert!(server.requests().len() > asked, "{protocol:?}, {what}");
        let grown = gateway.peak_resident_bytes().saturating_sub(idle);
        assert!(grown < MEBIBYTES_30, "{protocol:?}, {what}: {} MiB more", grown >> 20);
        // And the next run, with a server that does as it should, is well.
        server.set_reply(Reply::Text("ok"));
        assert_eq!(ask().await["result"], "ok", "{protocol:?}, behind {what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_server_fails_its_runs_within_thirty_mebibytes() {
    futures::future::join_all(PROTOCOLS.map(meet_hostile_server)).await;
}

#[tokio::test]
async fn a_fallback_of_another_protocol_gets_the_conversation_in_its_own_form() {
    for (first, second) in [
        (Protocol::Anthropic, Protocol::OpenaiCompatible),
        (Protocol::OpenaiCompatible, Protocol::Gemini),
        (Protocol::Gemini, Protocol::Anthropic),
    ] {
        let call = Reply::Tool("calculate", r#"{"expression":"6*7"}"#);
        let failing = ModelServer::speaking(first, [call, Reply::Error(503, "down")]).await;
        let working = ModelServer::speaking(second, [Reply::Text("42")]).await;
        let setup = Setup::new().model(&failing).settings(|settings| {
            let mut model = settings.models["scripted"].clone();
            working.add_to_settings(settings);
            let fallback = settings.models.remove("scripted").unwrap();
            model.fallback = Some("second".to_owned());
            settings.models.insert("second".to_owned(), fallback);
            settings.models.insert("scripted".to_owned(), model);
        });
        let answer = setup.start().await.ask(json!({"prompt": "Six times seven?"})).await.json();
        assert_eq!(answer["result"], "42", "{first:?} to {second:?}");
        let request = working.requests()[0].0.to_string();
        assert!(request.contains("6*7") && request.contains("calculate"), "{request}");
    }
}
