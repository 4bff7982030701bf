//! Models behind OpenAI's chat completions API: OpenAI, Azure's v1 endpoint, Ollama, vLLM and many others.

use http::HeaderName;
use http::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use url::Url;

use super::calls::{CallPart, PartialCall, PartialCalls};
use super::connector::{Connector, ModelOrigin};
use super::error::ModelError;
use super::exchange::{AnswerStream, ModelServer, event_error};
use super::room::Room;
use super::{
    AssistantMessage, Message, Protocol, ProviderMessage, StopReason, TextSink, Turn, TurnRequest,
    UserMessage, replayable_arguments, usage,
};
use crate::settings::ModelSettings;
use crate::trace::ToolCall;
use crate::trace::usage::Usage;

/// The server of this model, and the address that turns are sent to.
///
/// # Errors
/// If the settings cannot be used, or no HTTP client can be made.
pub(super) fn connect(
    name: &str,
    settings: &ModelSettings,
    connection: (&Connector, ModelOrigin),
) -> Result<(ModelServer, Url), ModelError> {
    let key = match &settings.key_header {
        None => (AUTHORIZATION, "Bearer "),
        Some(header) => {
            let header = HeaderName::try_from(header.as_str());
            (
                header
                    .map_err(|_| ModelError::settings("the header of the key has no valid name"))?,
                "",
            )
        }
    };
    let server = ModelServer::new(name, settings, connection, key)?;
    let url = super::endpoint(name, settings, "", "chat/completions")?;

    Ok((server, url))
}

/// The body of a request. Its order is fixed, and what changes from turn to turn comes last, so that a provider's cache
/// of the beginning stays valid.
pub(super) fn body(settings: &ModelSettings, request: &TurnRequest<'_>) -> String {
    let mut fields = Map::new();
    fields.insert("model".to_owned(), settings.model.as_str().into());
    fields.insert("stream".to_owned(), true.into());
    fields.insert("stream_options".to_owned(), json!({"include_usage": true}));
    if let Some(effort) = &settings.effort {
        fields.insert("reasoning_effort".to_owned(), effort.as_str().into());
    }
    if let Some(max) = settings.output_tokens_max {
        fields.insert("max_completion_tokens".to_owned(), max.into());
    }
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| {
            json!({
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": tool.input_schema,
                },
            })
        });
        fields.insert("tools".to_owned(), tools.collect());
    }
    if let Some(schema) = request.output_schema {
        let form = json!({"name": "answer", "schema": schema});
        let format = json!({"type": "json_schema", "json_schema": form});
        fields.insert("response_format".to_owned(), format);
    }
    let mut messages = Vec::with_capacity(request.messages.len() + 1);
    if !request.instructions.is_empty() {
        messages.push(json!({"role": "system", "content": request.instructions}).to_string());
    }
    for message in request.messages {
        match message {
            Message::User(user) => {
                messages.push(json!({"role": "user", "content": content(user)}).to_string());
            }
            Message::Assistant(assistant) => messages.push(assistant_message(settings, assistant)),
            Message::ToolResults(results) => messages.extend(results.iter().map(|result| {
                json!({"role": "tool", "tool_call_id": result.call.id, "content": result.text})
                    .to_string()
            })),
        }
    }
    super::with_list(fields, "messages", &messages)
}

/// The content of a message: its text, or a list if there are images. Some servers take text alone.
fn content(user: &UserMessage) -> Value {
    if user.images.is_empty() {
        return user.fenced().into();
    }
    let images = user.images.iter();
    let images =
        images.map(|image| json!({"type": "image_url", "image_url": {"url": image.url()}}));
    images.chain([json!({"type": "text", "text": user.fenced()})]).collect()
}

fn assistant_message(settings: &ModelSettings, message: &AssistantMessage) -> String {
    match message.provider_message(Protocol::OpenaiCompatible, &settings.model) {
        Some(own) => own.to_owned(),
        None => {
            let calls =
                message.tool_calls.iter().map(|call| tool_call(call, None)).collect::<Vec<_>>();
            built_message(&message.text, &calls, &[])
        }
    }
}

/// A message of the model, with these further fields.
fn built_message(text: &str, calls: &[String], more: &[(&str, String)]) -> String {
    let text = if text.is_empty() && !calls.is_empty() { Value::Null } else { text.into() };
    let mut message = format!(r#"{{"role":"assistant","content":{text}"#);
    for (name, json) in more {
        message += &format!(r#","{name}":{json}"#);
    }
    if !calls.is_empty() {
        message += &format!(r#","tool_calls":[{}]"#, calls.join(","));
    }
    message + "}"
}

fn tool_call(call: &ToolCall, extra: Option<&RawValue>) -> String {
    let function = json!({"name": call.name, "arguments": replayable_arguments(&call.arguments)});
    let extra = extra.map(|extra| format!(r#","extra_content":{extra}"#)).unwrap_or_default();
    format!(
        r#"{{"id":{},"type":"function","function":{function}{extra}}}"#,
        Value::from(call.id.as_str())
    )
}

/// One event of the stream. Fields that are null count as missing.
#[derive(Debug, Deserialize)]
struct ChatChunk {
    choices: Option<Vec<Choice>>,
    usage: Option<Box<RawValue>>,
    error: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta {
    content: Option<Box<RawValue>>,
    refusal: Option<String>,
    tool_calls: Option<Vec<CallDelta>>,
    /// Reasoning as DeepSeek, Kimi and vLLM send it: it has to come back with the calls of its turn.
    reasoning_content: Option<String>,
    /// OpenRouter's reasoning, likewise.
    reasoning_details: Option<Vec<Box<RawValue>>>,
}

#[derive(Debug, Deserialize)]
struct CallDelta {
    index: Option<u64>,
    id: Option<String>,
    function: Option<FunctionDelta>,
    /// Where Gemini's endpoint of this kind puts thought signatures.
    extra_content: Option<Box<RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
struct FunctionDelta {
    name: Option<String>,
    arguments: Option<Box<RawValue>>,
}

#[derive(Default)]
struct Assembly {
    room: Room,
    text: String,
    refusal: String,
    reasoning: String,
    /// Items as they came, of which OpenRouter puts those of one thought together.
    reasoning_details: Vec<Box<RawValue>>,
    calls: PartialCalls,
    usage: Usage,
    finish_reason: Option<String>,
}

pub(super) async fn assemble(
    mut stream: AnswerStream,
    model: &str,
    sink: &dyn TextSink,
) -> Result<Turn, ModelError> {
    let mut assembly = Assembly::default();
    while let Some(event) = stream.next().await? {
        if event.data.trim() == "[DONE]" {
            break;
        }
        let chunk: ChatChunk =
            serde_json::from_str(&event.data).map_err(|_| super::not_understood())?;
        assembly.add(chunk, sink)?;
    }
    assembly.finish(model)
}

impl Assembly {
    fn add(&mut self, chunk: ChatChunk, sink: &dyn TextSink) -> Result<(), ModelError> {
        if let Some(error) = chunk.error {
            return Err(super::failed_midway(&event_error(&error)));
        }
        if let Some(usage) = chunk.usage.as_deref().and_then(usage::reported) {
            self.usage = usage::from_openai(usage);
        }
        // One answer was asked for.
        let Some(choice) = chunk.choices.into_iter().flatten().next() else { return Ok(()) };
        let delta = choice.delta.unwrap_or_default();
        let text = delta.content.map(|content| content_text(&content)).unwrap_or_default();
        if !text.is_empty() {
            self.room.take(text.len())?;
            sink.push(&text);
            self.text.push_str(&text);
        }
        for (kept, part) in
            [(&mut self.refusal, delta.refusal), (&mut self.reasoning, delta.reasoning_content)]
        {
            let part = part.unwrap_or_default();
            self.room.take(part.len())?;
            kept.push_str(&part);
        }
        for item in delta.reasoning_details.into_iter().flatten() {
            // A small item costs more than its bytes.
            self.room.take(item.get().len() + 64)?;
            self.reasoning_details.push(item);
        }
        for CallDelta { index, id, function, extra_content } in
            delta.tool_calls.into_iter().flatten()
        {
            let FunctionDelta { name, arguments } = function.unwrap_or_default();
            let arguments =
                arguments.map(|arguments| argument_text(&arguments)).unwrap_or_default();
            let extra_bytes = extra_content.as_ref().map_or(0, |extra| extra.get().len());
            self.room.take(arguments.len() + extra_bytes)?;
            self.calls.add(CallPart { index, id, name, arguments, extra: extra_content })?;
        }
        let reason = choice.finish_reason.filter(|reason| !reason.is_empty());
        self.finish_reason = reason.or(self.finish_reason.take());
        Ok(())
    }

    fn finish(self, model: &str) -> Result<Turn, ModelError> {
        let reason = self.finish_reason.ok_or_else(super::cut_off)?;
        let calls = self.calls.finish();
        // The words of OpenAI, Mistral, DeepSeek, vLLM, Ollama and others. Any other word is no end.
        let stop = match reason.as_str() {
            "length" | "max_tokens" | "model_length" | "model_context_window_exceeded" => {
                StopReason::Length
            }
            "content_filter" | "safety" | "sensitive" | "refusal" => {
                StopReason::Refused("its content filter".to_owned())
            }
            "stop" | "eos" | "end_turn" | "stop_sequence" if !self.refusal.is_empty() => {
                StopReason::Refused(self.refusal)
            }
            "stop" | "eos" | "end_turn" | "stop_sequence" if calls.is_empty() => {
                StopReason::Answered
            }
            "stop" | "eos" | "end_turn" | "tool_calls" | "function_call" if !calls.is_empty() => {
                StopReason::ToolCalls
            }
            _ => return Err(super::failed_midway(&format!("it ended for the reason {reason:?}"))),
        };
        let mut more = Vec::new();
        if !self.reasoning.is_empty() && !calls.is_empty() {
            more.push(("reasoning_content", Value::from(self.reasoning).to_string()));
        }
        if !self.reasoning_details.is_empty() {
            let items: Vec<&str> = self.reasoning_details.iter().map(|item| item.get()).collect();
            more.push(("reasoning_details", format!("[{}]", items.join(","))));
        }
        let needs_own = !more.is_empty() || calls.iter().any(|call| call.extra.is_some());
        let provider_message = needs_own.then(|| {
            let calls = calls.iter().map(|call| tool_call(&call.call(), call.extra.as_deref()));
            let message = built_message(&self.text, &calls.collect::<Vec<_>>(), &more);
            let (protocol, model) = (Protocol::OpenaiCompatible, model.to_owned());
            Box::new(ProviderMessage { protocol, model, message })
        });
        Ok(Turn {
            text: self.text,
            tool_calls: calls.iter().map(PartialCall::call).collect(),
            stop,
            usage: self.usage,
            provider_message,
            ..Turn::default()
        })
    }
}

/// The text of a `content`: a string, or parts of which some are text (Mistral's reasoning models).
fn content_text(content: &RawValue) -> String {
    #[derive(Deserialize)]
    struct Part {
        text: Option<String>,
    }

    if let Ok(text) = serde_json::from_str::<String>(content.get()) {
        return text;
    }
    let parts: Vec<Part> = serde_json::from_str(content.get()).unwrap_or_default();
    parts.into_iter().filter_map(|part| part.text).collect()
}

/// A part of the arguments' text. Some servers send the arguments as JSON and not as its text.
fn argument_text(arguments: &RawValue) -> String {
    match arguments.get() {
        "null" => String::new(),
        json => serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned()),
    }
}
