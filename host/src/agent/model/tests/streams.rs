//! Whole answers, and what is left of them.

use serde_json::{Value, json};

use super::super::*;
use super::{PROTOCOLS, stream, turn};

/// A turn with reasoning, a text and two calls, as each protocol streams it.
pub(super) fn events(protocol: Protocol) -> Vec<Value> {
    match protocol {
        Protocol::OpenaiCompatible => {
            let delta = |delta: Value| json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]});
            let call = |index: u32, id: Option<&str>, name: Option<&str>, arguments: &str| {
                let function = json!({"name": name, "arguments": arguments});
                delta(
                    json!({"tool_calls": [{"index": index, "id": id, "type": "function", "function": function}]}),
                )
            };
            vec![
                delta(json!({"role": "assistant", "content": ""})),
                delta(
                    json!({"reasoning_details": [{"type": "reasoning.encrypted", "data": "c2Vj+/=="}]}),
                ),
                delta(json!({"content": "Let me "})),
                delta(json!({"content": "lööck."})),
                call(0, Some("a"), Some("read"), ""),
                call(0, None, None, "{\"path\":"),
                call(0, None, None, "\"x\"}"),
                call(1, Some("b"), Some("list"), "{}"),
                json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
                json!({"choices": [], "usage": {
                    "prompt_tokens": 30, "completion_tokens": 20,
                    "prompt_tokens_details": {"cached_tokens": 10},
                    "completion_tokens_details": {"reasoning_tokens": 5},
                }}),
            ]
        }
        Protocol::Anthropic => {
            let begin = |index: u32, block: Value| json!({"type": "content_block_start", "index": index, "content_block": block});
            let delta = |index: u32, delta: Value| json!({"type": "content_block_delta", "index": index, "delta": delta});
            let end = |index: u32| json!({"type": "content_block_stop", "index": index});
            vec![
                json!({"type": "message_start", "message": {"id": "msg_1", "role": "assistant", "content": [], "usage": {
                    "input_tokens": 20, "cache_read_input_tokens": 10, "cache_creation_input_tokens": 0, "output_tokens": 1,
                }}}),
                json!({"type": "ping"}),
                begin(0, json!({"type": "thinking", "thinking": "", "signature": ""})),
                delta(0, json!({"type": "thinking_delta", "thinking": "Hm. \u{1f914}"})),
                delta(0, json!({"type": "signature_delta", "signature": "c2Vj"})),
                delta(0, json!({"type": "signature_delta", "signature": "+/=="})),
                end(0),
                begin(1, json!({"type": "redacted_thinking", "data": "b3BhcXVl"})),
                end(1),
                begin(2, json!({"type": "text", "text": ""})),
                delta(2, json!({"type": "text_delta", "text": "Let me "})),
                delta(2, json!({"type": "text_delta", "text": "lööck."})),
                end(2),
                begin(3, json!({"type": "tool_use", "id": "a", "name": "read", "input": {}})),
                delta(3, json!({"type": "input_json_delta", "partial_json": ""})),
                delta(3, json!({"type": "input_json_delta", "partial_json": "{\"path\":"})),
                delta(3, json!({"type": "input_json_delta", "partial_json": "\"x\"}"})),
                end(3),
                begin(4, json!({"type": "tool_use", "id": "b", "name": "list", "input": {}})),
                end(4),
                json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 20}}),
                json!({"type": "message_stop"}),
            ]
        }
        Protocol::Gemini => {
            let parts = |parts: Value| json!({"candidates": [{"index": 0, "content": {"role": "model", "parts": parts}}]});
            vec![
                parts(json!([{"text": "Hm.", "thought": true}])),
                parts(json!([{"text": "Let me "}])),
                parts(json!([{"text": "lööck."}])),
                parts(json!([
                    {"functionCall": {"id": "a", "name": "read", "args": {"path": "x"}}, "thoughtSignature": "c2Vj+/=="},
                    {"functionCall": {"id": "b", "name": "list", "args": {}}},
                ])),
                json!({
                    "candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": "STOP"}],
                    "usageMetadata": {
                        "promptTokenCount": 30, "cachedContentTokenCount": 10, "candidatesTokenCount": 15,
                        "thoughtsTokenCount": 5,
                    },
                }),
            ]
        }
    }
}

/// The message as its provider made it.
fn own_message(protocol: Protocol) -> Value {
    match protocol {
        Protocol::OpenaiCompatible => json!({
            "role": "assistant",
            "content": "Let me lööck.",
            "reasoning_details": [{"type": "reasoning.encrypted", "data": "c2Vj+/=="}],
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "read", "arguments": "{\"path\":\"x\"}"}},
                {"id": "b", "type": "function", "function": {"name": "list", "arguments": "{}"}},
            ],
        }),
        Protocol::Anthropic => json!([
            {"type": "thinking", "thinking": "Hm. \u{1f914}", "signature": "c2Vj+/=="},
            {"type": "redacted_thinking", "data": "b3BhcXVl"},
            {"type": "text", "text": "Let me lööck."},
            {"type": "tool_use", "id": "a", "name": "read", "input": {"path": "x"}},
            {"type": "tool_use", "id": "b", "name": "list", "input": {}},
        ]),
        Protocol::Gemini => json!([
            {"text": "Hm.", "thought": true},
            {"text": "Let me lööck."},
            {"functionCall": {"id": "a", "name": "read", "args": {"path": "x"}}, "thoughtSignature": "c2Vj+/=="},
            {"functionCall": {"id": "b", "name": "list", "args": {}}},
            {"text": ""},
        ]),
    }
}

fn whole(protocol: Protocol) -> Turn {
    let call = |id: &str, name: &str, arguments: &str| ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments: arguments.to_owned(),
    };
    Turn {
        text: "Let me lööck.".to_owned(),
        tool_calls: vec![call("a", "read", "{\"path\":\"x\"}"), call("b", "list", "{}")],
        stop: StopReason::ToolCalls,
        provider_message: Some(Box::new(ProviderMessage {
            protocol,
            model: "m".to_owned(),
            message: own_message(protocol).to_string(),
        })),
        ..Turn::default()
    }
}

fn assert_whole(protocol: Protocol, turn: &Turn) {
    let whole = whole(protocol);
    assert_eq!(turn.text, whole.text);
    assert_eq!(turn.tool_calls, whole.tool_calls);
    assert_eq!(turn.stop, whole.stop);
    let json = |turn: &Turn| {
        let own = turn.provider_message.as_ref().unwrap();
        assert_eq!((own.protocol, own.model.as_str()), (protocol, "m"));
        serde_json::from_str::<Value>(&own.message).unwrap()
    };
    assert_eq!(json(turn), json(&whole));
}

#[tokio::test]
async fn reasoning_text_and_calls_arrive_whole_and_in_their_order() {
    for protocol in PROTOCOLS {
        let turn = turn(protocol, stream(protocol, &events(protocol))).await.unwrap();
        assert_whole(protocol, &turn);
        let usage = &turn.usage;
        let (fresh, cached) = (usage.fresh_input, usage.cache_read);
        assert_eq!(
            (fresh, cached, usage.all_output()),
            (Some(20), Some(10), Some(20)),
            "{protocol:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_at_any_byte_fails_or_is_whole() {
    for protocol in PROTOCOLS {
        let bytes = stream(protocol, &events(protocol)).into_bytes();
        let mut failed = 0;
        for end in 0..bytes.len() {
            match turn(protocol, bytes[..end].to_vec()).await {
                Ok(turn) => assert_whole(protocol, &turn),
                Err(error) => {
                    assert_ne!(error.retry, Retry::Never, "{protocol:?} {end}: {error}");
                    failed += 1;
                }
            }
        }
        assert!(failed > bytes.len() / 2, "{protocol:?}: {failed} of {}", bytes.len());
    }
}

#[tokio::test]
async fn an_answer_is_the_same_in_pieces_of_one_byte() {
    for protocol in PROTOCOLS {
        let bytes = stream(protocol, &events(protocol)).into_bytes();
        let pieces = bytes.into_iter().map(|byte| Ok::<_, std::io::Error>(vec![byte]));
        let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
        assert_whole(protocol, &turn(protocol, body).await.unwrap());
    }
}

#[tokio::test]
async fn an_answer_without_end_is_bounded() {
    // Events that never end, never say anything, or say the same for ever.
    let endless = |piece: String| {
        let pieces = std::iter::repeat_with(move || Ok::<_, std::io::Error>(piece.clone()));
        reqwest::Body::wrap_stream(futures::stream::iter(pieces))
    };
    for protocol in PROTOCOLS {
        let long = "x".repeat(64 << 10);
        let pieces = [
            ("a line", format!("data: {long}")),
            ("an event", format!("data: {long}\n")),
            ("comments", format!(": {long}\n\n")),
            ("no event", long.clone()),
        ];
        for (what, piece) in pieces {
            let error = turn(protocol, endless(piece)).await.unwrap_err();
            assert!(error.message.contains("more than"), "{protocol:?} {what}: {error}");
        }
    }
}
