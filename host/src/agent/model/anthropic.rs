//! Models behind Anthropic's messages API.

use http::HeaderName;
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
    AssistantMessage, Image, Message, Protocol, ProviderMessage, StopReason, TextSink, Turn,
    TurnRequest, replayable_arguments, usage,
};
use crate::settings::ModelSettings;
use crate::trace::ToolCall;

/// Where Anthropic's own API is.
const BASE_URL: &str = "https://api.anthropic.com/v1/";

/// The version of the API, which its documentation asks to pin.
const API_VERSION: &str = "2023-06-01";

/// The output limit, which the API requires, where the settings have none.
const OUTPUT_TOKENS: u32 = 16_384;

/// What is kept of a usage report. Each event may add to it, so that a server could otherwise let it grow without end.
const COUNTS: [&str; 6] = [
    "input_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation",
    "output_tokens",
    "server_tool_use",
];

/// The most blocks of one answer.
const BLOCKS_MAX: usize = 1024;

/// The server of this model, and the address that turns are sent to.
///
/// # Errors
/// If the settings cannot be used, or no HTTP client can be made.
pub(super) fn connect(
    name: &str,
    settings: &ModelSettings,
    connection: (&Connector, ModelOrigin),
) -> Result<(ModelServer, Url), ModelError> {
    let server =
        ModelServer::new(name, settings, connection, (HeaderName::from_static("x-api-key"), ""))?
            .with_header("anthropic-version", API_VERSION);
    let url = super::endpoint(name, settings, BASE_URL, "messages")?;
    Ok((server, url))
}

/// The body of a request. Marks for the provider's cache are behind the tools, behind the instructions, and behind the
/// newest message: what comes before a mark is cached.
pub(super) fn body(settings: &ModelSettings, request: &TurnRequest<'_>) -> String {
    let mut fields = Map::new();
    fields.insert("model".to_owned(), settings.model.as_str().into());
    fields.insert("max_tokens".to_owned(), output_tokens(settings).into());
    fields.insert("stream".to_owned(), true.into());
    let mut output = Map::new();
    if let Some(schema) = request.output_schema {
        output.insert("format".to_owned(), json!({"type": "json_schema", "schema": schema}));
    }
    if may_think(settings, request.messages) {
        if let Some(effort) = &settings.effort {
            fields.insert("thinking".to_owned(), json!({"type": "adaptive"}));
            output.insert("effort".to_owned(), effort.as_str().into());
        }
        if let Some(budget) = settings.thinking_tokens {
            fields
                .insert("thinking".to_owned(), json!({"type": "enabled", "budget_tokens": budget}));
        }
    }
    if !output.is_empty() {
        fields.insert("output_config".to_owned(), output.into());
    }
    if !request.tools.is_empty() {
        let tools = request.tools.iter().map(|tool| {
            json!({
                "name": tool.name,
                "description": tool.description,
                "input_schema": tool.input_schema,
            })
        });
        let mut tools: Vec<Value> = tools.collect();
        tools.last_mut().map(mark_for_cache);
        fields.insert("tools".to_owned(), tools.into());
    }
    if !request.instructions.is_empty() {
        let mut system = json!({"type": "text", "text": request.instructions});
        mark_for_cache(&mut system);
        fields.insert("system".to_owned(), json!([system]));
    }
    let newest = request.messages.len().checked_sub(1);
    let messages = request.messages.iter().enumerate();
    let messages =
        messages.map(|(at, message)| message_json(settings, message, Some(at) == newest));
    super::with_list(fields, "messages", &messages.collect::<Vec<_>>())
}

/// The output limit, which includes the tokens of reasoning.
pub(super) fn output_tokens(settings: &ModelSettings) -> u32 {
    let beside_thinking =
        settings.thinking_tokens.unwrap_or_default().saturating_add(OUTPUT_TOKENS / 2);
    settings.output_tokens_max.unwrap_or(OUTPUT_TOKENS.max(beside_thinking))
}

/// Whether reasoning may be asked for: not if another model called tools since the last message of the user, because the
/// provider wants the reasoning behind those calls.
fn may_think(settings: &ModelSettings, messages: &[Message]) -> bool {
    let since = messages.iter().rev().take_while(|message| !matches!(message, Message::User(_)));
    since.into_iter().all(|message| match message {
        Message::Assistant(assistant) => {
            assistant.provider_message(Protocol::Anthropic, &settings.model).is_some()
        }
        _ => true,
    })
}

fn mark_for_cache(block: &mut Value) {
    if let Some(fields) = block.as_object_mut() {
        fields.insert("cache_control".to_owned(), json!({"type": "ephemeral"}));
    }
}

/// A message as JSON text, with a mark behind it or not.
fn message_json(settings: &ModelSettings, message: &Message, is_marked: bool) -> String {
    let mut blocks: Vec<Value> = match message {
        Message::User(user) => {
            let images = user.images.iter().map(image);
            images.chain([json!({"type": "text", "text": user.fenced()})]).collect()
        }
        Message::Assistant(assistant) => {
            let content = assistant_content(settings, assistant);
            return format!(r#"{{"role":"assistant","content":{content}}}"#);
        }
        // All results of a turn belong into one message.
        Message::ToolResults(results) => {
            let results = results.iter().map(|result| {
                json!({
                    "type": "tool_result",
                    "tool_use_id": valid_id(&result.call.id),
                    "content": result.text,
                    "is_error": result.is_error,
                })
            });
            results.collect()
        }
    };
    if is_marked {
        blocks.last_mut().map(mark_for_cache);
    }
    json!({"role": "user", "content": blocks}).to_string()
}

fn image(Image { media_type, base64 }: &Image) -> Value {
    let source = json!({"type": "base64", "media_type": media_type, "data": base64});
    json!({"type": "image", "source": source})
}

fn assistant_content(settings: &ModelSettings, message: &AssistantMessage) -> String {
    if let Some(own) = message.provider_message(Protocol::Anthropic, &settings.model) {
        return own.to_owned();
    }
    // An empty text is refused.
    let has_text = !message.text.trim().is_empty();
    let text = has_text.then(|| json!({"type": "text", "text": message.text}).to_string());
    let calls = message.tool_calls.iter().map(tool_use);
    let blocks: Vec<String> = text.into_iter().chain(calls).collect();
    format!("[{}]", blocks.join(","))
}

fn tool_use(call: &ToolCall) -> String {
    let [id, name] = [valid_id(&call.id), call.name.clone()].map(Value::from);
    let input = replayable_arguments(&call.arguments);
    format!(r#"{{"type":"tool_use","id":{id},"name":{name},"input":{input}}}"#)
}

/// An id as the API accepts it. Those of other providers may have other letters.
fn valid_id(id: &str) -> String {
    let letter = |letter: char| match letter {
        letter if letter.is_ascii_alphanumeric() || "_-".contains(letter) => letter,
        _ => '_',
    };
    id.chars().map(letter).collect()
}

/// One event of the stream.
#[derive(Debug, Deserialize)]
struct StreamEvent {
    /// `ping`, `content_block_stop`, and what is added later, mean nothing here.
    #[serde(rename = "type")]
    kind: String,
    message: Option<StartedMessage>,
    index: Option<u64>,
    content_block: Option<Box<RawValue>>,
    delta: Option<Delta>,
    usage: Option<Box<RawValue>>,
    error: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
struct StartedMessage {
    usage: Option<Box<RawValue>>,
}

/// What a `content_block_delta` adds to its block, or a `message_delta` to the message.
#[derive(Debug, Default, Deserialize)]
struct Delta {
    text: Option<String>,
    partial_json: Option<String>,
    thinking: Option<String>,
    signature: Option<String>,
    stop_reason: Option<String>,
}

/// A block as it begins.
#[derive(Debug, Deserialize)]
struct StartedBlock {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
    thinking: Option<String>,
    signature: Option<String>,
    id: Option<String>,
    name: Option<String>,
    input: Option<Box<RawValue>>,
}

/// A block of the answer. Signatures are valid only for exactly what they came with.
#[derive(Debug)]
enum Block {
    Text(String),
    Thinking {
        thinking: String,
        signature: String,
    },
    /// The next of the calls.
    ToolUse,
    /// Complete from its beginning, such as `redacted_thinking`.
    Whole(Box<RawValue>),
}

#[derive(Default)]
struct Assembly {
    room: Room,
    blocks: Vec<(u64, Block)>,
    calls: PartialCalls,
    text: String,
    /// Counts of the beginning, and those that replaced them later.
    usage: Map<String, Value>,
    stop_reason: Option<String>,
    stopped: bool,
}

pub(super) async fn assemble(
    mut stream: AnswerStream,
    model: &str,
    sink: &dyn TextSink,
) -> Result<Turn, ModelError> {
    let mut assembly = Assembly::default();
    while let Some(event) = stream.next().await? {
        let event: StreamEvent =
            serde_json::from_str(&event.data).map_err(|_| super::not_understood())?;
        assembly.add(event, sink)?;
        if assembly.stopped {
            break;
        }
    }
    assembly.finish(model)
}

impl Assembly {
    fn add(&mut self, event: StreamEvent, sink: &dyn TextSink) -> Result<(), ModelError> {
        let delta = event.delta.unwrap_or_default();
        match event.kind.as_str() {
            "message_start" => {
                self.add_usage(event.message.and_then(|message| message.usage).as_deref());
            }
            "content_block_start" => {
                let block = event.content_block.ok_or_else(super::not_understood)?;
                self.begin_block(event.index.unwrap_or_default(), block, sink)?;
            }
            "content_block_delta" => {
                self.extend_block(event.index.unwrap_or_default(), delta, sink)?;
            }
            "message_delta" => {
                self.stop_reason = delta.stop_reason.or(self.stop_reason.take());
                self.add_usage(event.usage.as_deref());
            }
            "message_stop" => self.stopped = true,
            "error" => {
                let error = event.error.map(|error| event_error(&error));
                return Err(super::failed_midway(&error.unwrap_or_default()));
            }
            _ => {}
        }
        Ok(())
    }

    fn add_usage(&mut self, usage: Option<&RawValue>) {
        if let Some(Value::Object(counts)) = usage.and_then(usage::reported) {
            let known = |(name, _): &(String, Value)| COUNTS.contains(&name.as_str());
            self.usage.extend(counts.into_iter().filter(known));
        }
    }

    fn begin_block(
        &mut self,
        index: u64,
        raw: Box<RawValue>,
        sink: &dyn TextSink,
    ) -> Result<(), ModelError> {
        if self.blocks.len() == BLOCKS_MAX {
            return Err(ModelError::upstream(format!(
                "the model sent more than {BLOCKS_MAX} blocks"
            )));
        }
        self.room.take(raw.get().len())?;
        let block: StartedBlock =
            serde_json::from_str(raw.get()).map_err(|_| super::not_understood())?;
        let block = match block.kind.as_str() {
            "text" => {
                let text = block.text.unwrap_or_default();
                self.add_text(&text, sink);
                Block::Text(text)
            }
            "thinking" => Block::Thinking {
                thinking: block.thinking.unwrap_or_default(),
                signature: block.signature.unwrap_or_default(),
            },
            "tool_use" => {
                let arguments = block.input.map(|input| input.get().to_owned());
                let arguments = arguments.filter(|input| input != "{}").unwrap_or_default();
                let (id, name) = (block.id, block.name.or_else(|| Some("unnamed".to_owned())));
                self.calls.add(CallPart {
                    index: Some(index),
                    id,
                    name,
                    arguments,
                    extra: None,
                })?;
                Block::ToolUse
            }
            _ => Block::Whole(raw),
        };
        self.blocks.push((index, block));
        Ok(())
    }

    fn add_text(&mut self, text: &str, sink: &dyn TextSink) {
        if !text.is_empty() {
            sink.push(text);
            self.text.push_str(text);
        }
    }

    fn extend_block(
        &mut self,
        index: u64,
        delta: Delta,
        sink: &dyn TextSink,
    ) -> Result<(), ModelError> {
        let Delta { text, partial_json, thinking, signature, .. } = delta;
        let (text, thinking) = (text.unwrap_or_default(), thinking.unwrap_or_default());
        let (arguments, signature) =
            (partial_json.unwrap_or_default(), signature.unwrap_or_default());
        self.room.take(text.len() + thinking.len() + arguments.len() + signature.len())?;
        let block = self.blocks.iter_mut().rev().find(|(at, _)| *at == index);
        let (_, block) = block.ok_or_else(super::not_understood)?;
        match block {
            Block::Text(whole) => {
                whole.push_str(&text);
                self.add_text(&text, sink);
            }
            Block::Thinking { thinking: whole, signature: whole_signature } => {
                whole.push_str(&thinking);
                whole_signature.push_str(&signature);
            }
            Block::ToolUse => {
                self.calls.add(CallPart {
                    index: Some(index),
                    arguments,
                    ..CallPart::default()
                })?;
            }
            Block::Whole(_) => {}
        }
        Ok(())
    }

    fn finish(self, model: &str) -> Result<Turn, ModelError> {
        let reason = self.stop_reason.filter(|_| self.stopped).ok_or_else(super::cut_off)?;
        let calls: Vec<ToolCall> = self.calls.finish().iter().map(PartialCall::call).collect();
        let stop = match reason.as_str() {
            "max_tokens" | "model_context_window_exceeded" => StopReason::Length,
            "refusal" => StopReason::Refused("its safety rules".to_owned()),
            "end_turn" | "stop_sequence" if calls.is_empty() => StopReason::Answered,
            "end_turn" | "stop_sequence" | "tool_use" if !calls.is_empty() => StopReason::ToolCalls,
            _ => return Err(super::failed_midway(&format!("it ended for the reason {reason:?}"))),
        };
        let mut next_calls = calls.iter();
        let blocks = self.blocks.into_iter().filter_map(|(_, block)| match block {
            // An empty text is refused when it comes back.
            Block::Text(text) if text.trim().is_empty() => None,
            Block::Text(text) => Some(json!({"type": "text", "text": text}).to_string()),
            Block::Thinking { thinking, signature } => Some(
                json!({"type": "thinking", "thinking": thinking, "signature": signature})
                    .to_string(),
            ),
            Block::ToolUse => next_calls.next().map(tool_use),
            Block::Whole(raw) => Some(raw.get().to_owned()),
        });
        let message = format!("[{}]", blocks.collect::<Vec<_>>().join(","));
        let (protocol, model) = (Protocol::Anthropic, model.to_owned());
        Ok(Turn {
            text: self.text,
            stop,
            usage: usage::from_anthropic(self.usage.into()),
            provider_message: Some(Box::new(ProviderMessage { protocol, model, message })),
            tool_calls: calls,
            ..Turn::default()
        })
    }
}
