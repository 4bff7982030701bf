//! How turns end.

use serde_json::{Value, json};

use super::super::*;
use super::{stream, turn};

fn openai(events: &[Value]) -> (Protocol, String) {
    (Protocol::OpenaiCompatible, stream(Protocol::OpenaiCompatible, events))
}

fn openai_finish(reason: &str) -> (Protocol, String) {
    let text = json!({"choices": [{"delta": {"content": "Half an ans"}, "finish_reason": null}]});
    openai(&[text, json!({"choices": [{"delta": {}, "finish_reason": reason}]})])
}

fn anthropic_finish(reason: &str) -> (Protocol, String) {
    let events = [
        json!({"type": "message_start", "message": {}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "Half an ans"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": reason}}),
        json!({"type": "message_stop"}),
    ];
    (Protocol::Anthropic, stream(Protocol::Anthropic, &events))
}

fn gemini(events: &[Value]) -> (Protocol, String) {
    (Protocol::Gemini, stream(Protocol::Gemini, events))
}

fn gemini_finish(reason: &str) -> (Protocol, String) {
    let content = json!({"parts": [{"text": "Half an ans"}]});
    gemini(&[json!({"candidates": [{"content": content, "finishReason": reason}]})])
}

#[tokio::test]
async fn an_answer_that_is_incomplete_or_refused_is_not_a_success() {
    let refused = |why: &str| StopReason::Refused(why.to_owned());
    for ((protocol, bytes), stop) in [
        (openai_finish("stop"), StopReason::Answered),
        (openai_finish("eos"), StopReason::Answered),
        (openai_finish("length"), StopReason::Length),
        (openai_finish("content_filter"), refused("its content filter")),
        (anthropic_finish("end_turn"), StopReason::Answered),
        (anthropic_finish("stop_sequence"), StopReason::Answered),
        (anthropic_finish("max_tokens"), StopReason::Length),
        (anthropic_finish("model_context_window_exceeded"), StopReason::Length),
        (anthropic_finish("refusal"), refused("its safety rules")),
        (gemini_finish("STOP"), StopReason::Answered),
        (gemini_finish("MAX_TOKENS"), StopReason::Length),
        (gemini_finish("SAFETY"), refused("SAFETY")),
        (gemini_finish("PROHIBITED_CONTENT"), refused("PROHIBITED_CONTENT")),
    ] {
        let turn = turn(protocol, bytes.clone()).await.unwrap();
        assert_eq!(turn.stop, stop, "{bytes}");
        assert_eq!(turn.text, "Half an ans");
    }
    let blocked = gemini(&[json!({"promptFeedback": {"blockReason": "SAFETY"}})]);
    assert_eq!(turn(blocked.0, blocked.1).await.unwrap().stop, refused("SAFETY"));
    let declined =
        json!({"choices": [{"delta": {"refusal": "I can't."}, "finish_reason": "stop"}]});
    let declined = openai(&[declined]);
    assert_eq!(turn(declined.0, declined.1).await.unwrap().stop, refused("I can't."));
}

#[tokio::test]
async fn an_answer_that_its_server_gives_up_may_be_asked_for_again() {
    let anthropic = |error: Value| {
        let events = [json!({"type": "message_start", "message": {}}), error];
        (Protocol::Anthropic, stream(Protocol::Anthropic, &events))
    };
    for ((protocol, bytes), says) in [
        (openai(&[json!({"error": {"message": "overloaded"}})]), "overloaded"),
        (openai(&[json!({"error": "overloaded"})]), "overloaded"),
        (openai_finish("abort"), "abort"),
        (
            anthropic(
                json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
            ),
            "Overloaded",
        ),
        (gemini(&[json!({"error": {"code": 503, "message": "unavailable"}})]), "unavailable"),
        (gemini_finish("MALFORMED_FUNCTION_CALL"), "MALFORMED_FUNCTION_CALL"),
        ((Protocol::OpenaiCompatible, "data: <html>\n\n".to_owned()), "cannot be read"),
        ((Protocol::Anthropic, "data: {}\n\n".to_owned()), "cannot be read"),
        ((Protocol::Gemini, "data: []\n\n".to_owned()), "cannot be read"),
        ((Protocol::OpenaiCompatible, String::new()), "cut off"),
        ((Protocol::Anthropic, String::new()), "cut off"),
        ((Protocol::Gemini, String::new()), "cut off"),
    ] {
        let error = turn(protocol, bytes.clone()).await.unwrap_err();
        assert!(error.message.contains(says), "{bytes}: {error}");
        assert_eq!(error.retry, Retry::Later { after: None }, "{bytes}");
    }
}

#[tokio::test]
async fn openai_an_answer_without_its_last_line_is_whole() {
    let (protocol, bytes) = openai_finish("stop");
    let bytes = bytes.replace("data: [DONE]\n\n", "");
    assert_eq!(turn(protocol, bytes).await.unwrap().text, "Half an ans");
}

#[tokio::test]
async fn openai_deviations_of_servers_are_understood() {
    // Ollama: calls whole, all with the index 0. Arguments as JSON in place of its text. Null for what is missing.
    let call = |id: &str, name: &str, arguments: Value| json!({"index": 0, "id": id, "function": {"name": name, "arguments": arguments}});
    let calls =
        json!([call("x", "read", json!("{\"a\":1}")), call("y", "delete", json!({"a": 2}))]);
    let event = json!({"choices": [{"delta": {"content": null, "tool_calls": calls}, "finish_reason": "stop"}], "usage": null});
    let (protocol, bytes) =
        openai(&[event, json!({"choices": null, "usage": {"prompt_tokens": 3}})]);
    let turn = turn(protocol, bytes).await.unwrap();
    let named: Vec<_> =
        turn.tool_calls.iter().map(|call| (call.name.as_str(), call.arguments.as_str())).collect();
    assert_eq!(named, [("read", "{\"a\":1}"), ("delete", "{\"a\":2}")]);
    assert_eq!(turn.stop, StopReason::ToolCalls, "whatever it calls it");
    assert_eq!((turn.usage.input(), turn.usage.all_output()), (Some(3), None));
    assert_eq!(turn.provider_message, None, "there is nothing in it but text and calls");
}

#[tokio::test]
async fn openai_a_call_keeps_what_its_provider_added() {
    let signature = json!({"google": {"thought_signature": "c2Vj+/=="}});
    let call = json!({"index": 0, "id": "x", "type": "function", "extra_content": signature,
        "function": {"name": "read", "arguments": "{}"}});
    let event =
        json!({"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]});
    let (protocol, bytes) = openai(&[event]);
    let own = turn(protocol, bytes).await.unwrap().provider_message.unwrap();
    assert_eq!(own.message["tool_calls"][0]["extra_content"], signature);
}

#[tokio::test]
async fn gemini_calls_without_ids_get_some() {
    let call = json!({"functionCall": {"name": "read", "args": {}}});
    let event =
        json!({"candidates": [{"content": {"parts": [call, call]}, "finishReason": "STOP"}]});
    let (protocol, bytes) = gemini(&[event]);
    let turn = turn(protocol, bytes).await.unwrap();
    let ids: Vec<_> = turn.tool_calls.iter().map(|call| call.id.as_str()).collect();
    assert_eq!(ids, ["call_0", "call_1"]);
}
