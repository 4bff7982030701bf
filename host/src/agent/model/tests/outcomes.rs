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
        (openai_finish("model_length"), StopReason::Length),
        (openai_finish("sensitive"), refused("its content filter")),
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
        (openai_finish("insufficient_system_resource"), "insufficient_system_resource"),
        (openai_finish("tool_calls"), "tool_calls"),
        (openai_finish(""), "cut off"),
        (anthropic_finish("pause_turn"), "pause_turn"),
        (anthropic_finish("tool_use"), "tool_use"),
        (gemini_finish("OTHER"), "OTHER"),
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
    let own: Value = serde_json::from_str(&own.message).unwrap();
    assert_eq!(own["tool_calls"][0]["extra_content"], signature);
}

#[tokio::test]
async fn gemini_calls_without_ids_get_some() {
    let call = json!({"functionCall": {"name": "read", "args": {}}});
    let event =
        json!({"candidates": [{"content": {"parts": [call, call]}, "finishReason": "STOP"}]});
    let (protocol, bytes) = gemini(&[event]);
    let turn = turn(protocol, bytes).await.unwrap();
    let ids: Vec<_> = turn.tool_calls.iter().map(|call| call.id.as_str()).collect();
    assert_eq!(ids, ["wardgate-call-0", "wardgate-call-1"]);
}

#[tokio::test]
async fn an_answer_of_tiny_values_takes_no_more_room_than_its_bytes_allow() {
    let zeros = format!("[{}0]", "0,".repeat(400_000));
    let item = |protocol| match protocol {
        Protocol::OpenaiCompatible => {
            format!(r#"{{"choices":[{{"delta":{{"reasoning_details":{zeros}}}}}]}}"#)
        }
        Protocol::Anthropic => {
            format!(
                r#"{{"type":"content_block_start","index":0,"content_block":{{"type":"x","x":{zeros}}}}}"#
            )
        }
        Protocol::Gemini => {
            format!(r#"{{"candidates":[{{"content":{{"parts":[{{"x":{zeros}}}]}}}}]}}"#)
        }
    };
    for protocol in super::PROTOCOLS {
        let bytes = format!("data: {}\n\n", item(protocol)).repeat(8);
        let error = turn(protocol, bytes).await.unwrap_err();
        assert!(error.message.contains("more than 2097152 bytes"), "{protocol:?}: {error}");
    }
}

#[tokio::test]
async fn openai_reasoning_comes_back_with_the_calls_of_its_turn() {
    let reasoning = |text: &str| json!({"choices": [{"delta": {"reasoning_content": text}}]});
    let call = json!({"index": 0, "id": "x", "function": {"name": "read", "arguments": "{}"}});
    let end =
        json!({"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": "tool_calls"}]});
    let mut events: Vec<Value> = (0..5000).map(|_| reasoning("hm ")).collect();
    events.push(end);
    let (protocol, bytes) = openai(&events);
    let own = turn(protocol, bytes).await.unwrap().provider_message.unwrap();
    let own: Value = serde_json::from_str(&own.message).unwrap();
    assert_eq!(own["reasoning_content"], "hm ".repeat(5000));
}

#[tokio::test]
async fn anthropic_arguments_for_a_block_that_is_no_call_shift_no_call() {
    let events = [
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": "{\"q\":1}"}}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "a", "name": "read", "input": {}}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"p\":12345678901234567890123}"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}}),
        json!({"type": "message_stop"}),
    ];
    let turn = turn(Protocol::Anthropic, stream(Protocol::Anthropic, &events)).await.unwrap();
    assert_eq!(turn.tool_calls.len(), 1);
    let own = turn.provider_message.unwrap().message;
    assert_eq!(
        own,
        r#"[{"type":"tool_use","id":"a","name":"read","input":{"p":12345678901234567890123}}]"#
    );
}

#[tokio::test]
async fn anthropic_a_usage_report_does_not_grow_with_its_events() {
    let mut events = vec![
        json!({"type": "message_start", "message": {"usage": {"input_tokens": 3, "output_tokens": 1}}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "ok"}}),
    ];
    for number in 0..1_000 {
        let name = format!("made_up_{number}");
        events.push(
            json!({"type": "message_delta", "delta": {}, "usage": {name: "x".repeat(1_000)}}),
        );
    }
    events.push(json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}}));
    events.push(json!({"type": "message_stop"}));
    let stream = stream(Protocol::Anthropic, &events);
    let usage = turn(Protocol::Anthropic, stream).await.unwrap().usage;
    assert_eq!(usage.reported, Some(json!({"input_tokens": 3, "output_tokens": 2})));
}
