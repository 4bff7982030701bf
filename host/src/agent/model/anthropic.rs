//! Models behind Anthropic's messages API.

use futures::future::BoxFuture;
use http::HeaderName;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use url::Url;

use super::calls::{CallPart, PartialCalls};
use super::error::ModelError;
use super::exchange::{AnswerStream, ModelServer, error_text};
use super::{
    AssistantMessage, Message, Model, Protocol, ProviderMessage, StopReason, TextSink, Turn,
    TurnRequest, replayable_object, usage,
};
use crate::settings::ModelSettings;

/// Where Anthropic's own API is.
const BASE_URL: &str = "https://api.anthropic.com/v1/";

/// The version of the API, which its documentation asks to pin.
const API_VERSION: &str = "2023-06-01";

/// The output limit, which the API requires, where the settings have none.
const OUTPUT_TOKENS: u32 = 16_384;

/// The most blocks of one answer.
const BLOCKS_MAX: usize = 1024;

/// A model behind the messages API.
pub(super) struct Anthropic {
    server: ModelServer,
    url: Url,
    settings: ModelSettings,
}

impl Anthropic {
    /// Creates a client for this model.
    ///
    /// # Errors
    /// If the settings cannot be used, or no HTTP client can be made.
    pub(super) fn new(name: &str, settings: &ModelSettings) -> Result<Self, ModelError> {
        let server = ModelServer::new(name, settings, (HeaderName::from_static("x-api-key"), ""))?
            .with_header("anthropic-version", API_VERSION);
        let url = super::endpoint(settings.base_url.as_ref(), BASE_URL, "messages");
        let url = url.ok_or_else(|| {
            ModelError::settings(format!("models.{name}.base_url cannot be used"))
        })?;
        Ok(Self { server, url, settings: settings.clone() })
    }
}

impl Model for Anthropic {
    fn turn<'a>(&'a self, request: TurnRequest<'a>) -> BoxFuture<'a, Result<Turn, ModelError>> {
        Box::pin(async move {
            let body = body(&self.settings, &request);
            let stream = self.server.post(self.url.clone(), &body).await?;
            assemble(stream, &self.settings.model, request.text_sink).await
        })
    }
}

/// The body of a request. Marks for the provider's cache are behind the tools, behind the instructions, and behind the
/// newest message: what comes before a mark is cached.
pub(super) fn body(settings: &ModelSettings, request: &TurnRequest<'_>) -> Value {
    let mut body = Map::new();
    body.insert("model".to_owned(), settings.model.as_str().into());
    body.insert(
        "max_tokens".to_owned(),
        settings.output_tokens_max.unwrap_or(OUTPUT_TOKENS).into(),
    );
    body.insert("stream".to_owned(), true.into());
    if let Some(effort) = &settings.effort {
        body.insert("thinking".to_owned(), json!({"type": "adaptive"}));
        body.insert("output_config".to_owned(), json!({"effort": effort}));
    }
    if let Some(budget) = settings.thinking_tokens {
        body.insert("thinking".to_owned(), json!({"type": "enabled", "budget_tokens": budget}));
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
        body.insert("tools".to_owned(), tools.into());
    }
    if !request.instructions.is_empty() {
        let mut system = json!({"type": "text", "text": request.instructions});
        mark_for_cache(&mut system);
        body.insert("system".to_owned(), json!([system]));
    }
    let mut messages: Vec<Value> =
        request.messages.iter().map(|message| message_json(settings, message)).collect();
    let newest = messages
        .last_mut()
        .and_then(|message| message.get_mut("content")?.as_array_mut()?.last_mut());
    newest.map(mark_for_cache);
    body.insert("messages".to_owned(), messages.into());
    body.into()
}

fn mark_for_cache(block: &mut Value) {
    if let Some(fields) = block.as_object_mut() {
        fields.insert("cache_control".to_owned(), json!({"type": "ephemeral"}));
    }
}

fn message_json(settings: &ModelSettings, message: &Message) -> Value {
    match message {
        Message::User(user) => {
            json!({"role": "user", "content": [{"type": "text", "text": user.fenced()}]})
        }
        Message::Assistant(assistant) => {
            json!({"role": "assistant", "content": assistant_content(settings, assistant)})
        }
        // All results of a turn belong into one message.
        Message::ToolResults(results) => {
            let results = results.iter().map(|result| {
                json!({
                    "type": "tool_result",
                    "tool_use_id": result.call.id,
                    "content": result.text,
                    "is_error": result.is_error,
                })
            });
            json!({"role": "user", "content": results.collect::<Vec<_>>()})
        }
    }
}

fn assistant_content(settings: &ModelSettings, message: &AssistantMessage) -> Value {
    if let Some(own) = message.provider_message(Protocol::Anthropic, &settings.model) {
        return own.clone();
    }
    // An empty text is refused.
    let text = (!message.text.is_empty()).then(|| json!({"type": "text", "text": message.text}));
    let calls = message.tool_calls.iter().map(|call| {
        json!({
            "type": "tool_use",
            "id": call.id,
            "name": call.name,
            "input": replayable_object(&call.arguments),
        })
    });
    text.into_iter().chain(calls).collect()
}

/// One event of the stream.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum StreamEvent {
    MessageStart {
        message: StartedMessage,
    },
    ContentBlockStart {
        index: u64,
        content_block: Map<String, Value>,
    },
    ContentBlockDelta {
        index: u64,
        delta: BlockDelta,
    },
    MessageDelta {
        delta: MessageEnd,
        usage: Option<Map<String, Value>>,
    },
    MessageStop,
    Error {
        error: Value,
    },
    /// `ping`, `content_block_stop`, and what is added later.
    #[serde(other)]
    Another,
}

#[derive(Debug, Deserialize)]
struct StartedMessage {
    usage: Option<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum BlockDelta {
    TextDelta {
        text: String,
    },
    InputJsonDelta {
        partial_json: String,
    },
    ThinkingDelta {
        thinking: String,
    },
    SignatureDelta {
        signature: String,
    },
    #[serde(other)]
    Another,
}

#[derive(Debug, Deserialize)]
struct MessageEnd {
    stop_reason: Option<String>,
}

/// The blocks of the answer, unchanged but for the parts that are appended to them, because a signature is valid only
/// for exactly these.
#[derive(Default)]
struct Assembly {
    blocks: Vec<(u64, Map<String, Value>)>,
    calls: PartialCalls,
    text: String,
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
        match event {
            StreamEvent::MessageStart { message } => {
                self.usage.extend(message.usage.unwrap_or_default());
            }
            StreamEvent::ContentBlockStart { index, content_block } => {
                self.begin_block(index, content_block, sink)?;
            }
            StreamEvent::ContentBlockDelta { index, delta } => {
                self.extend_block(index, delta, sink)?
            }
            StreamEvent::MessageDelta { delta, usage } => {
                self.stop_reason = delta.stop_reason.or(self.stop_reason.take());
                // Counts are totals so far.
                self.usage.extend(usage.unwrap_or_default());
            }
            StreamEvent::MessageStop => self.stopped = true,
            StreamEvent::Error { error } => {
                let text = error_text(&error).unwrap_or_default();
                return Err(super::failed_midway(&text));
            }
            StreamEvent::Another => {}
        }
        Ok(())
    }

    fn begin_block(
        &mut self,
        index: u64,
        mut block: Map<String, Value>,
        sink: &dyn TextSink,
    ) -> Result<(), ModelError> {
        if self.blocks.len() == BLOCKS_MAX {
            return Err(ModelError::upstream(format!(
                "the model sent more than {BLOCKS_MAX} blocks"
            )));
        }
        let text = |name: &str| block.get(name).and_then(Value::as_str).map(str::to_owned);
        match text("type").as_deref() {
            Some("text") => {
                let text = text("text").unwrap_or_default();
                self.add_text(&text, sink);
            }
            Some("tool_use") => {
                let (id, name) = (text("id"), text("name"));
                let input = block
                    .remove("input")
                    .filter(|input| input.as_object().is_some_and(|fields| !fields.is_empty()));
                let arguments = input.map(|input| input.to_string()).unwrap_or_default();
                let part = CallPart { index: Some(index), id, name, arguments, extra: Map::new() };
                self.calls.add(part)?;
            }
            _ => {}
        }
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
        delta: BlockDelta,
        sink: &dyn TextSink,
    ) -> Result<(), ModelError> {
        let (field, part) = match delta {
            BlockDelta::TextDelta { text } => {
                self.add_text(&text, sink);
                ("text", text)
            }
            BlockDelta::ThinkingDelta { thinking } => ("thinking", thinking),
            BlockDelta::SignatureDelta { signature } => ("signature", signature),
            BlockDelta::InputJsonDelta { partial_json: arguments } => {
                return self.calls.add(CallPart {
                    index: Some(index),
                    arguments,
                    ..CallPart::default()
                });
            }
            BlockDelta::Another => return Ok(()),
        };
        let Some((_, block)) = self.blocks.iter_mut().rev().find(|(at, _)| *at == index) else {
            return Err(super::not_understood());
        };
        match block.entry(field).or_insert_with(|| Value::String(String::new())) {
            Value::String(text) => text.push_str(&part),
            _ => return Err(super::not_understood()),
        }
        Ok(())
    }

    fn finish(self, model: &str) -> Result<Turn, ModelError> {
        let reason = self.stop_reason.filter(|_| self.stopped).ok_or_else(super::cut_off)?;
        let calls = self.calls.finish();
        let stop = match reason.as_str() {
            "max_tokens" | "model_context_window_exceeded" => StopReason::Length,
            "refusal" => StopReason::Refused("its safety rules".to_owned()),
            _ if calls.is_empty() => StopReason::Answered,
            _ => StopReason::ToolCalls,
        };
        let mut of_calls = calls.iter();
        let content = self.blocks.into_iter().filter_map(|(_, mut block)| {
            match block.get("type").and_then(Value::as_str) {
                // An empty text is refused when it comes back.
                Some("text") if block.get("text").and_then(Value::as_str) == Some("") => {
                    return None;
                }
                Some("tool_use") => {
                    let call = of_calls.next()?;
                    block.insert("id".to_owned(), call.id.as_str().into());
                    block.insert("input".to_owned(), replayable_object(&call.call().arguments));
                }
                _ => {}
            }
            Some(Value::Object(block))
        });
        let message = content.collect();
        let provider_message =
            ProviderMessage { protocol: Protocol::Anthropic, model: model.to_owned(), message };
        Ok(Turn {
            text: self.text,
            tool_calls: calls.iter().map(super::calls::PartialCall::call).collect(),
            stop,
            usage: usage::from_anthropic(self.usage.into()),
            provider_message: Some(Box::new(provider_message)),
            ..Turn::default()
        })
    }
}
