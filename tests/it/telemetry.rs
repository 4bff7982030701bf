//! Ended runs are exported as traces of OpenTelemetry, by its conventions for generative AI, without content unless the
//! settings say so, and without secrets in any case.

use serde_json::json;
use wardgate::settings::Settings;

use crate::support::collector::{Collector, attributes};
use crate::support::model_server::{MODEL_KEY, ModelServer, Reply};
use crate::support::web::{ClosedPort, Web};
use crate::support::{Setup, poll_until};

const USER_TOKEN: &str = "user-access-token-abc123";

const CALL: Reply = Reply::Tool("calculate", r#"{"expression":"6*7"}"#);

fn setup(server: &ModelServer, collector: &Collector) -> Setup {
    let endpoint = collector.endpoint();
    Setup::new().model(server).settings(|settings| settings.telemetry.otlp_endpoint = endpoint)
}

#[tokio::test]
async fn a_run_is_a_trace_of_its_turns_and_calls() {
    let server = ModelServer::start([CALL, Reply::Text("It is 42.")]).await;
    let collector = Collector::start().await;
    let with_header = |settings: &mut Settings| {
        let headers = &mut settings.telemetry.otlp_headers;
        headers.insert("authorization".to_owned(), "Bearer of-the-collector".into());
    };
    let gateway = setup(&server, &collector).settings(with_header).start().await;
    let answer = gateway.ask(json!({"prompt": "Six times seven?"})).await;
    let spans = collector.trace(&answer.task_id()).await;
    let names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
    let expected =
        ["invoke_agent tested", "chat scripted-1", "execute_tool calculate", "chat scripted-1"];
    assert_eq!(names, expected);
    let [root, first, tool, second] = spans.try_into().unwrap();
    for span in [&first, &tool, &second] {
        assert_eq!(span.parent_span_id, root.span_id);
        assert!(root.start_time_unix_nano <= span.start_time_unix_nano);
        assert!(span.end_time_unix_nano <= root.end_time_unix_nano);
    }
    // opentelemetry.proto.trace.v1.Span.SpanKind: internal and client.
    assert_eq!([&root, &first, &tool].map(|span| span.kind), [1, 3, 1]);
    let expect = |span, expected: &[(&str, &str)]| {
        let found = attributes(span);
        for (name, value) in expected {
            assert_eq!(found.get(*name).map(String::as_str), Some(*value), "{name} of {found:?}");
        }
    };
    expect(
        &root,
        &[
            ("gen_ai.operation.name", "invoke_agent"),
            ("gen_ai.provider.name", "openai"),
            ("gen_ai.agent.id", &gateway.agent),
            ("gen_ai.agent.name", "tested"),
            ("gen_ai.request.model", "scripted-1"),
            ("gen_ai.usage.input_tokens", "22"),
            ("gen_ai.usage.output_tokens", "14"),
            ("wardgate.tenant", &gateway.tenant.to_string()),
            ("wardgate.task", &answer.task_id()),
            ("wardgate.attempt", "1"),
        ],
    );
    expect(
        &first,
        &[
            ("gen_ai.operation.name", "chat"),
            ("gen_ai.provider.name", "openai"),
            ("gen_ai.request.model", "scripted-1"),
            ("gen_ai.usage.input_tokens", "11"),
            ("gen_ai.usage.output_tokens", "7"),
            ("server.address", "127.0.0.1"),
            ("wardgate.attempts", "1"),
        ],
    );
    assert!(attributes(&first)["gen_ai.response.finish_reasons"].contains("tool_calls"));
    assert!(attributes(&second)["gen_ai.response.finish_reasons"].contains("\"stop\""));
    expect(
        &tool,
        &[
            ("gen_ai.operation.name", "execute_tool"),
            ("gen_ai.tool.name", "calculate"),
            ("gen_ai.tool.call.id", "call_abc"),
            ("wardgate.plugin", "calculator"),
        ],
    );
    assert!(attributes(&tool)["wardgate.cpu_micros"].parse::<u64>().is_ok());

    for (body, key) in collector.requests() {
        assert_eq!(key, "Bearer of-the-collector");
        let text = String::from_utf8_lossy(&body);
        for content in ["Six times", "6*7", "It is 42", MODEL_KEY] {
            assert!(!text.contains(content), "{content}");
        }
    }
}

#[tokio::test]
async fn content_is_exported_if_the_settings_say_so_and_secrets_never() {
    const REPEATED: &str =
        concat!("Here: user-access-token-abc123 ", "sk-test-model-key-0123456789");
    let server = ModelServer::start([CALL, Reply::Text(REPEATED)]).await;
    let collector = Collector::start().await;
    let setup = setup(&server, &collector).settings(|settings| settings.telemetry.content = true);
    let gateway = setup.start().await;
    let body = json!({"prompt": "Six times seven?", "user_tokens": {"item": USER_TOKEN}});
    let answer = gateway.ask(body).await;
    let spans = collector.trace(&answer.task_id()).await;
    let root = attributes(&spans[0]);
    assert!(root["gen_ai.input.messages"].contains("Six times seven?"), "{root:?}");
    assert!(root["gen_ai.output.messages"].contains("Here: [redacted] [redacted]"), "{root:?}");
    let tool = attributes(&spans[2]);
    assert_eq!(tool["gen_ai.tool.call.arguments"], r#"{"expression":"6*7"}"#);
    assert_eq!(tool["gen_ai.tool.call.result"], r#"{"expression":"6*7","value":42}"#);
    for (body, _) in collector.requests() {
        let text = String::from_utf8_lossy(&body);
        for secret in [USER_TOKEN, MODEL_KEY, &gateway.key] {
            assert!(!text.contains(secret), "{secret}");
        }
    }
}

#[tokio::test]
async fn a_run_that_fails_is_a_trace_with_an_error() {
    let server = ModelServer::start([Reply::Error(401, "who are you?")]).await;
    for content in [false, true] {
        let collector = Collector::start().await;
        let setup =
            setup(&server, &collector).settings(|settings| settings.telemetry.content = content);
        let gateway = setup.start().await;
        let answer = gateway.ask(json!({"prompt": "hello"})).await;
        let [root] = collector.trace(&answer.task_id()).await.try_into().unwrap();
        assert_eq!(attributes(&root)["error.type"], "failed");
        let status = root.status.unwrap();
        // opentelemetry.proto.trace.v1.Status.StatusCode: error.
        assert_eq!(status.code, 2);
        // The reason repeats what the provider said, perhaps of a prompt.
        assert_eq!(status.message.contains("who are you?"), content, "{status:?}");
    }
}

#[tokio::test]
async fn runs_that_end_before_the_gateway_does_are_exported() {
    let server = ModelServer::start([Reply::Text("ok")]).await;
    let collector = Collector::start().await;
    let gateway = setup(&server, &collector).start().await;
    let task = gateway.ask(json!({"prompt": "hello"})).await.task_id();
    gateway.stop().await;
    assert_eq!(collector.trace(&task).await.len(), 2);
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_runs_nothing() {
    let server = ModelServer::start([Reply::Text("ok")]).await;
    let closed = ClosedPort::new();
    let setup = Setup::new().model(&server).settings(|settings| {
        settings.telemetry.otlp_endpoint = format!("http://127.0.0.1:{}", closed.port);
    });
    let gateway = setup.start().await;
    for _ in 0..3 {
        assert_eq!(gateway.ask(json!({"prompt": "hello"})).await.json()["result"], "ok");
    }
    poll_until("the end of all runs", async || (server.requests().len() == 3).then_some(())).await;
}

#[tokio::test]
async fn a_name_that_the_model_made_up_is_content() {
    let made_up = Reply::Tool("the name of my mother is Ada", "{}");
    let server = ModelServer::start([made_up, Reply::Text("ok")]).await;
    let collector = Collector::start().await;
    let gateway = setup(&server, &collector).start().await;
    let task = gateway.ask(json!({"prompt": "hello"})).await.task_id();
    let spans = collector.trace(&task).await;
    assert_eq!(spans[2].name, "execute_tool unknown");
    for (body, _) in collector.requests() {
        assert!(!String::from_utf8_lossy(&body).contains("Ada"));
    }
}

#[tokio::test]
async fn a_redirect_takes_a_trace_nowhere_else() {
    let elsewhere = Collector::start().await;
    let target = format!("{}/v1/traces", elsewhere.endpoint());
    let moved = axum::response::Redirect::temporary(&target);
    let routes = axum::Router::new().fallback(move || std::future::ready(moved.clone()));
    let web = Web::serve(routes).await;
    let server = ModelServer::start([Reply::Text("ok")]).await;
    let setup = Setup::new().model(&server).settings(|settings| {
        settings.telemetry.otlp_endpoint = format!("http://127.0.0.1:{}", web.port);
    });
    let gateway = setup.start().await;
    gateway.ask(json!({"prompt": "hello"})).await;
    // Its end waits for the export.
    gateway.stop().await;
    assert_eq!(elsewhere.requests().len(), 0);
}
