//! What is sent.

use serde_json::{Value, json};

use super::super::*;
use super::streams::events;
use super::{PROTOCOLS, Written, stream, turn};

fn settings(protocol: Protocol, model: &str) -> ModelSettings {
    let kind = match protocol {
        Protocol::OpenaiCompatible => "openai-compatible",
        Protocol::Anthropic => "anthropic",
        Protocol::Gemini => "gemini",
    };
    serde_json::from_value(json!({"kind": kind, "model": model, "base_url": "http://localhost/v1"}))
        .unwrap()
}

fn tool() -> Tool {
    Tool {
        name: "read".to_owned(),
        description: "Reads.".to_owned(),
        input_schema: json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"}),
        output_schema: None,
        destructive: false,
        idempotent: false,
    }
}

fn body(settings: &ModelSettings, messages: &[Message]) -> Value {
    body_with_schema(settings, messages, None)
}

fn body_with_schema(
    settings: &ModelSettings,
    messages: &[Message],
    output_schema: Option<&Value>,
) -> Value {
    let (tools, written) = ([tool()], Written::default());
    let request = TurnRequest {
        instructions: "Be brief.",
        messages,
        tools: &tools,
        output_schema,
        text_sink: &written,
        received: &Received::default(),
        tenant: TenantId::GATEWAY,
        redactor: &Redactor::default(),
    };
    let body = match settings.kind {
        Protocol::OpenaiCompatible => openai_compatible::body(settings, &request),
        Protocol::Anthropic => anthropic::body(settings, &request),
        Protocol::Gemini => gemini::body(settings, &request),
    };
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

fn user(text: &str) -> Message {
    let message = UserMessage {
        prompt: Some(text.to_owned()),
        payload: None,
        fence: String::new(),
        images: Vec::new(),
        left_out_turns: 0,
    };
    Message::User(message)
}

/// A conversation with one turn of the model `m` of this protocol, and the results of its two calls.
async fn conversation(protocol: Protocol) -> Vec<Message> {
    let turn = turn(protocol, stream(protocol, &events(protocol))).await.unwrap();
    let results = turn.tool_calls.iter().zip([("1", false), ("no such folder", true)]);
    let results = results.map(|(call, (text, is_error))| ToolResult {
        call: call.clone(),
        number: 1,
        text: text.to_owned(),
        is_error,
    });
    let results = results.collect();
    let Turn { text, tool_calls, provider_message, .. } = turn;
    let message = AssistantMessage { text, tool_calls, provider_message };
    vec![user("Go."), Message::Assistant(message), Message::ToolResults(results)]
}

/// The model's message in a request, and the messages behind it.
fn assistant_and_rest(protocol: Protocol, body: &Value) -> (Value, Vec<Value>) {
    let messages = body.get("messages").or(body.get("contents")).unwrap().as_array().unwrap();
    let at = messages
        .iter()
        .position(|message| message["role"] == "assistant" || message["role"] == "model");
    let (message, rest) = messages[at.unwrap()..].split_first().unwrap();
    let message = match protocol {
        Protocol::OpenaiCompatible => message.clone(),
        Protocol::Anthropic => message["content"].clone(),
        Protocol::Gemini => message["parts"].clone(),
    };
    (message, rest.to_vec())
}

#[test]
fn a_models_name_is_sent_as_written_and_effort_is_a_setting() {
    for protocol in PROTOCOLS {
        for name in ["gpt-x-high", "claude-low", "gemini-zero", "a/b::c-minimal"] {
            let mut settings = settings(protocol, name);
            let plain = body(&settings, &[user("hi")]);
            if protocol != Protocol::Gemini {
                assert_eq!(plain["model"], name);
            }
            assert!(
                !plain.to_string().contains("effort") && !plain.to_string().contains("thinking"),
                "{plain}"
            );
            settings.effort = Some("high".to_owned());
            settings.output_tokens_max = Some(77);
            let body = body(&settings, &[user("hi")]);
            let (effort, limit) = match protocol {
                Protocol::OpenaiCompatible => ("/reasoning_effort", "/max_completion_tokens"),
                Protocol::Anthropic => ("/output_config/effort", "/max_tokens"),
                Protocol::Gemini => (
                    "/generationConfig/thinkingConfig/thinkingLevel",
                    "/generationConfig/maxOutputTokens",
                ),
            };
            assert_eq!(body.pointer(effort), Some(&json!("high")), "{body}");
            assert_eq!(body.pointer(limit), Some(&json!(77)), "{body}");
        }
    }
}

#[tokio::test]
async fn a_message_goes_back_unchanged_to_its_model_and_without_reasoning_to_another() {
    for protocol in PROTOCOLS {
        let messages = conversation(protocol).await;
        let Some(Message::Assistant(assistant)) = messages.get(1) else { panic!() };
        let own: Value =
            serde_json::from_str(&assistant.provider_message.as_ref().unwrap().message).unwrap();
        let (sent, _) = assistant_and_rest(protocol, &body(&settings(protocol, "m"), &messages));
        assert_eq!(sent.to_string(), own.to_string(), "byte for byte");

        let mut others: Vec<ModelSettings> = vec![settings(protocol, "m2")];
        others.extend(
            PROTOCOLS
                .into_iter()
                .filter(|other| *other != protocol)
                .map(|other| settings(other, "m")),
        );
        for other in others {
            let (sent, _) = assistant_and_rest(other.kind, &body(&other, &messages));
            let sent = sent.to_string();
            for own_part in ["c2Vj", "b3BhcXVl", "Hm.", "hought", "reasoning"] {
                assert!(!sent.contains(own_part), "{protocol:?} to {:?}: {sent}", other.kind);
            }
            for shared in ["Let me lööck.", "read", "list", "path"] {
                assert!(sent.contains(shared), "{protocol:?} to {:?}: {sent}", other.kind);
            }
        }
    }
}

#[tokio::test]
async fn results_follow_their_calls_in_the_form_of_the_protocol() {
    for protocol in PROTOCOLS {
        let messages = conversation(protocol).await;
        let (_, rest) = assistant_and_rest(protocol, &body(&settings(protocol, "m"), &messages));
        let expected = match protocol {
            Protocol::OpenaiCompatible => vec![
                json!({"role": "tool", "tool_call_id": "a", "content": "1"}),
                json!({"role": "tool", "tool_call_id": "b", "content": "no such folder"}),
            ],
            // All in one message.
            Protocol::Anthropic => vec![json!({"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": "1", "is_error": false},
                {"type": "tool_result", "tool_use_id": "b", "content": "no such folder", "is_error": true,
                 "cache_control": {"type": "ephemeral"}},
            ]})],
            Protocol::Gemini => vec![json!({"role": "user", "parts": [
                {"functionResponse": {"name": "read", "response": {"output": "1"}, "id": "a"}},
                {"functionResponse": {"name": "list", "response": {"error": "no such folder"}, "id": "b"}},
            ]})],
        };
        assert_eq!(rest, expected);
    }
}

#[tokio::test]
async fn a_request_begins_with_the_one_before_it() {
    // Without the marks, which are no part of what a provider caches.
    fn unmarked(value: &mut Value) {
        match value {
            Value::Object(fields) => {
                fields.shift_remove("cache_control");
                fields.values_mut().for_each(unmarked);
            }
            Value::Array(items) => items.iter_mut().for_each(unmarked),
            _ => {}
        }
    }
    for protocol in PROTOCOLS {
        let messages = conversation(protocol).await;
        let mut bodies = [&messages[..1], &messages[..], &messages[..]].map(|messages| {
            let mut body = body(&settings(protocol, "m"), messages);
            unmarked(&mut body);
            body.to_string()
        });
        let first = bodies[0].strip_suffix("]}").unwrap().to_owned();
        assert!(bodies[1].starts_with(&first), "{protocol:?}:\n{first}\n{}", bodies[1]);
        bodies.reverse();
        assert_eq!(bodies[0], bodies[1]);
    }
}

#[test]
fn malformed_arguments_go_back_as_an_object() {
    for protocol in PROTOCOLS {
        for arguments in ["{\"path\":", "", "[1]", "null", "\u{0}"] {
            let call =
                ToolCall { id: "x".into(), name: "read".into(), arguments: arguments.into() };
            let assistant =
                AssistantMessage { tool_calls: vec![call], ..AssistantMessage::default() };
            let messages = [user("Go."), Message::Assistant(assistant)];
            let (sent, _) =
                assistant_and_rest(protocol, &body(&settings(protocol, "m"), &messages));
            let sent = match protocol {
                Protocol::OpenaiCompatible => {
                    let text = sent["tool_calls"][0]["function"]["arguments"].as_str().unwrap();
                    serde_json::from_str(text).unwrap()
                }
                Protocol::Anthropic => sent[0]["input"].clone(),
                Protocol::Gemini => sent[0]["functionCall"]["args"].clone(),
            };
            assert_eq!(sent, json!({"malformed_arguments": arguments}), "{protocol:?}");
        }
    }
}

#[test]
fn gemini_schemas_are_sent_without_what_it_refuses() {
    let body = body(&settings(Protocol::Gemini, "m"), &[user("Go.")]);
    let declared = &body["tools"][0]["functionDeclarations"][0];
    assert_eq!(declared["parametersJsonSchema"], json!({"type": "object"}));
}

#[tokio::test]
async fn anthropic_asks_for_no_reasoning_behind_calls_of_another_model() {
    let mut settings = settings(Protocol::Anthropic, "m");
    settings.thinking_tokens = Some(30_000);
    let thinks = |messages: &[Message]| body(&settings, messages).get("thinking").is_some();
    assert!(thinks(&[user("Go.")]));
    assert!(body(&settings, &[user("Go.")])["max_tokens"].as_u64().unwrap() > 30_000);
    assert!(thinks(&conversation(Protocol::Anthropic).await), "its own");
    let mut others = conversation(Protocol::Gemini).await;
    assert!(!thinks(&others));
    others.push(user("And now?"));
    assert!(thinks(&others), "a new message of the user");
}

#[test]
fn anthropic_ids_of_other_providers_are_made_valid_with_their_results() {
    let call =
        ToolCall { id: "functions.read:0".into(), name: "read".into(), arguments: "{}".into() };
    let result = ToolResult { call: call.clone(), number: 1, text: "1".into(), is_error: false };
    let assistant = AssistantMessage { tool_calls: vec![call], ..AssistantMessage::default() };
    let messages = [user("Go."), Message::Assistant(assistant), Message::ToolResults(vec![result])];
    let (sent, rest) = assistant_and_rest(
        Protocol::Anthropic,
        &body(&settings(Protocol::Anthropic, "m"), &messages),
    );
    assert_eq!(sent[0]["id"], "functions_read_0");
    assert_eq!(rest[0]["content"][0]["tool_use_id"], "functions_read_0");
}

#[test]
fn the_form_of_an_answer_goes_where_each_protocol_has_it() {
    let schema =
        json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"});
    let bodies = PROTOCOLS.map(|protocol| {
        let mut settings = settings(protocol, "m");
        settings.effort = Some("high".to_owned());
        body_with_schema(&settings, &[user("Go.")], Some(&schema))
    });
    let [openai, anthropic, gemini] = bodies;
    let form = json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}});
    assert_eq!(openai["response_format"], form);
    let format = json!({"type": "json_schema", "schema": schema});
    assert_eq!(anthropic["output_config"], json!({"format": format, "effort": "high"}));
    assert_eq!(gemini["generationConfig"]["responseMimeType"], "application/json");
    assert_eq!(gemini["generationConfig"]["responseJsonSchema"], json!({"type": "object"}));
    assert_eq!(gemini["generationConfig"]["thinkingConfig"]["thinkingLevel"], "high");
}

#[test]
fn images_stand_before_the_text_in_the_form_of_each_protocol() {
    let url = "data:image/png;base64,iVBORw0KGgo=";
    let source = json!({"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="});
    let [openai, anthropic, gemini] = [
        json!({"type": "image_url", "image_url": {"url": url}}),
        json!({"type": "image", "source": source}),
        json!({"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}),
    ];
    for (protocol, list, image) in [
        (Protocol::OpenaiCompatible, "/messages/1/content", openai),
        (Protocol::Anthropic, "/messages/0/content", anthropic),
        (Protocol::Gemini, "/contents/0/parts", gemini),
    ] {
        let Message::User(mut message) = user("What is it?") else { unreachable!() };
        message.images = vec![Image { media_type: "image/png", base64: "iVBORw0KGgo=".to_owned() }];
        let body = body(&settings(protocol, "m"), &[Message::User(message)]);
        let parts = body.pointer(list).unwrap().as_array().unwrap();
        assert_eq!(parts[0], image, "{protocol:?}");
        assert_eq!(parts[1]["text"], "What is it?", "{protocol:?}");
    }
}
