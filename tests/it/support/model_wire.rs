//! Turns of models as their protocols put them on the wire. Each turn has 11 tokens of input and 7 of output.

use serde_json::{Value, json};
use wardgate::settings::Protocol;

/// A whole turn. `reason` is in OpenAI's words: `stop`, `tool_calls`, `length` or `content_filter`.
pub(crate) fn turn(
    protocol: Protocol,
    text: Option<&str>,
    calls: &[(String, String)],
    reason: &str,
) -> String {
    match protocol {
        Protocol::OpenaiCompatible => {
            let delta = match calls {
                [] => json!({"role": "assistant", "content": text}),
                calls => openai_calls(calls),
            };
            openai_chunk(&delta, None) + &openai_end(reason)
        }
        Protocol::Anthropic => {
            let text = text.map(|text| {
                anthropic_block(
                    0,
                    &json!({"type": "text", "text": ""}),
                    &json!({"type": "text_delta", "text": text}),
                )
            });
            let calls = calls.iter().enumerate().map(|(number, (name, arguments))| {
                let block =
                    json!({"type": "tool_use", "id": call_id(number), "name": name, "input": {}});
                let delta = json!({"type": "input_json_delta", "partial_json": arguments});
                anthropic_block(number + usize::from(text.is_some()), &block, &delta)
            });
            let calls: String = calls.collect();
            anthropic_begin() + &text.unwrap_or_default() + &calls + &anthropic_end(reason)
        }
        Protocol::Gemini => {
            let text = text.map(|text| json!({"text": text}));
            let calls = calls.iter().enumerate().map(|(number, (name, arguments))| {
                // This protocol has arguments as JSON. Others than objects cannot be written in it.
                let arguments: Value = serde_json::from_str(arguments).unwrap();
                json!({"functionCall": {"id": call_id(number), "name": name, "args": arguments}})
            });
            let parts: Vec<Value> = text.into_iter().chain(calls).collect();
            gemini_chunk(&parts, None) + &gemini_end(reason)
        }
    }
}

/// The beginning of a turn: a first part of its text.
pub(crate) fn beginning(protocol: Protocol, text: &str) -> String {
    match protocol {
        Protocol::OpenaiCompatible => {
            openai_chunk(&json!({"role": "assistant", "content": text}), None)
        }
        Protocol::Anthropic => {
            let block = json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}});
            anthropic_begin() + &anthropic_event(&block) + &anthropic_text(text)
        }
        Protocol::Gemini => gemini_chunk(&[json!({"text": text})], None),
    }
}

/// The rest of a turn that began with a text.
pub(crate) fn rest(protocol: Protocol, text: &str) -> String {
    match protocol {
        Protocol::OpenaiCompatible => {
            openai_chunk(&json!({"content": text}), None) + &openai_end("stop")
        }
        Protocol::Anthropic => {
            let stop = anthropic_event(&json!({"type": "content_block_stop", "index": 0}));
            anthropic_text(text) + &stop + &anthropic_end("stop")
        }
        Protocol::Gemini => gemini_chunk(&[json!({"text": text})], None) + &gemini_end("stop"),
    }
}

/// An error within a stream.
pub(crate) fn error_event(protocol: Protocol, text: &str) -> String {
    match protocol {
        Protocol::OpenaiCompatible => {
            format!("data: {}\n\n", json!({"error": {"message": text, "type": "server_error"}}))
        }
        Protocol::Anthropic => anthropic_event(
            &json!({"type": "error", "error": {"type": "overloaded_error", "message": text}}),
        ),
        Protocol::Gemini => {
            format!(
                "data: {}\n\n",
                json!({"error": {"code": 503, "message": text, "status": "UNAVAILABLE"}})
            )
        }
    }
}

/// How many messages of the model a request has.
pub(crate) fn turns_taken(request: &Value) -> usize {
    let messages = request.get("messages").or_else(|| request.get("contents"));
    let messages = messages.and_then(Value::as_array).unwrap().iter();
    messages
        .filter(|message| ["assistant", "model"].iter().any(|role| message["role"] == *role))
        .count()
}

/// The id of a turn's call of this number.
pub(crate) fn call_id(number: usize) -> String {
    if number == 0 { "call_abc".to_owned() } else { format!("call_abc{number}") }
}

fn openai_calls(calls: &[(String, String)]) -> Value {
    let calls = calls.iter().enumerate().map(|(index, (name, arguments))| {
        let function = json!({"name": name, "arguments": arguments});
        json!({"index": index, "id": call_id(index), "type": "function", "function": function})
    });
    json!({"role": "assistant", "content": null, "tool_calls": calls.collect::<Vec<_>>()})
}

fn openai_chunk(delta: &Value, finish_reason: Option<&str>) -> String {
    let choices = json!([{"index": 0, "delta": delta, "finish_reason": finish_reason}]);
    format!(
        "data: {}\n\n",
        json!({"object": "chat.completion.chunk", "choices": choices, "usage": null})
    )
}

fn openai_end(reason: &str) -> String {
    let usage = json!({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18});
    let usage = json!({"choices": [], "usage": usage});
    format!("{}data: {usage}\n\ndata: [DONE]\n\n", openai_chunk(&json!({}), Some(reason)))
}

fn anthropic_event(event: &Value) -> String {
    format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap())
}

fn anthropic_begin() -> String {
    let usage = json!({"input_tokens": 11, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0, "output_tokens": 1});
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": usage});
    anthropic_event(&json!({"type": "message_start", "message": message}))
}

fn anthropic_text(text: &str) -> String {
    let delta = json!({"type": "text_delta", "text": text});
    anthropic_event(&json!({"type": "content_block_delta", "index": 0, "delta": delta}))
}

fn anthropic_block(index: usize, block: &Value, delta: &Value) -> String {
    [
        json!({"type": "content_block_start", "index": index, "content_block": block}),
        json!({"type": "content_block_delta", "index": index, "delta": delta}),
        json!({"type": "content_block_stop", "index": index}),
    ]
    .iter()
    .map(anthropic_event)
    .collect()
}

fn anthropic_end(reason: &str) -> String {
    let reason = match reason {
        "tool_calls" => "tool_use",
        "length" => "max_tokens",
        "content_filter" => "refusal",
        _ => "end_turn",
    };
    let delta = json!({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 7}});
    anthropic_event(&delta) + &anthropic_event(&json!({"type": "message_stop"}))
}

fn gemini_chunk(parts: &[Value], end: Option<(&str, Value)>) -> String {
    let mut candidate = json!({"index": 0, "content": {"role": "model", "parts": parts}});
    let mut chunk = json!({});
    if let Some((reason, usage)) = end {
        candidate["finishReason"] = reason.into();
        chunk["usageMetadata"] = usage;
    }
    chunk["candidates"] = json!([candidate]);
    format!("data: {chunk}\n\n")
}

fn gemini_end(reason: &str) -> String {
    let reason = match reason {
        "length" => "MAX_TOKENS",
        "content_filter" => "SAFETY",
        _ => "STOP",
    };
    let usage = json!({"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18});
    gemini_chunk(&[json!({"text": ""})], Some((reason, usage)))
}
