//! Models behind OpenAI's chat completions API: OpenAI, Azure's v1 endpoint, Ollama, vLLM and many others.

use futures::future::BoxFuture;
use http::HeaderName;
use http::header::AUTHORIZATION;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use url::Url;

use super::calls::{CallPart, PartialCalls};
use super::error::ModelError;
use super::exchange::{AnswerStream, ModelServer, error_text};
use super::{
    AssistantMessage, Message, Model, Protocol, ProviderMessage, StopReason, TextSink, Turn,
    TurnRequest, Usage, replayable_arguments, usage,
};
use crate::settings::ModelSettings;

/// A model behind a chat completions API.
pub(super) struct OpenaiCompatible {
    server: ModelServer,
    url: Url,
    settings: ModelSettings,
}

impl OpenaiCompatible {
    /// Creates a client for this model.
    ///
    /// # Errors
    /// If the settings cannot be used, or no HTTP client can be made.
    pub(super) fn new(name: &str, settings: &ModelSettings) -> Result<Self, ModelError> {
        let key = match &settings.key_header {
            None => (AUTHORIZATION, "Bearer "),
            Some(header) => {
                let header = HeaderName::try_from(header.as_str());
                (
                    header.map_err(|_| {
                        ModelError::settings("the header of the key has no valid name")
                    })?,
                    "",
                )
            }
        };
        let server = ModelServer::new(name, settings, key)?;
        let url = super::endpoint(settings.base_url.as_ref(), "", "chat/completions");
        let url =
            url.ok_or_else(|| ModelError::settings(format!("models.{name}.base_url is missing")))?;
        Ok(Self { server, url, settings: settings.clone() })
    }
}

impl Model for OpenaiCompatible {
    fn turn<'a>(&'a self, request: TurnRequest<'a>) -> BoxFuture<'a, Result<Turn, ModelError>> {
        Box::pin(async move {
            let body = body(&self.settings, &request);
            let stream = self.server.post(self.url.clone(), &body).await?;
            assemble(stream, &self.settings.model, request.text_sink).await
        })
    }
}

/// The body of a request. Its order is fixed, and what changes from turn to turn comes last, so that a provider's cache
/// of the beginning stays valid.
pub(super) fn body(settings: &ModelSettings, request: &TurnRequest<'_>) -> Value {
    let mut body = json!({
        "model": settings.model,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    let Some(fields) = body.as_object_mut() else { return body };
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
    let mut messages = Vec::with_capacity(request.messages.len() + 1);
    if !request.instructions.is_empty() {
        messages.push(json!({"role": "system", "content": request.instructions}));
    }
    for message in request.messages {
        match message {
            Message::User(user) => messages.push(json!({"role": "user", "content": user.fenced()})),
            Message::Assistant(assistant) => messages.push(assistant_message(settings, assistant)),
            Message::ToolResults(results) => messages.extend(results.iter().map(|result| {
                json!({"role": "tool", "tool_call_id": result.call.id, "content": result.text})
            })),
        }
    }
    fields.insert("messages".to_owned(), messages.into());
    body
}

fn assistant_message(settings: &ModelSettings, message: &AssistantMessage) -> Value {
    if let Some(own) = message.provider_message(Protocol::OpenaiCompatible, &settings.model) {
        return own.clone();
    }
    let mut built = json!({"role": "assistant", "content": message.text});
    if !message.tool_calls.is_empty()
        && let Some(fields) = built.as_object_mut()
    {
        let calls = message.tool_calls.iter().map(|call| {
            tool_call(&call.id, &call.name, &replayable_arguments(&call.arguments), Map::new())
        });
        fields.insert("tool_calls".to_owned(), calls.collect());
        if message.text.is_empty() {
            fields.insert("content".to_owned(), Value::Null);
        }
    }
    built
}

fn tool_call(id: &str, name: &str, arguments: &str, extra: Map<String, Value>) -> Value {
    let mut call = extra;
    call.insert("id".to_owned(), id.into());
    call.insert("type".to_owned(), "function".into());
    call.insert("function".to_owned(), json!({"name": name, "arguments": arguments}));
    call.into()
}

/// One event of the stream. Fields that are null count as missing.
#[derive(Debug, Deserialize)]
struct ChatChunk {
    choices: Option<Vec<Choice>>,
    usage: Option<Value>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct Choice {
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta {
    content: Option<Value>,
    refusal: Option<String>,
    tool_calls: Option<Vec<CallDelta>>,
    /// OpenRouter's reasoning, which belongs into the next request unchanged.
    reasoning_details: Option<Vec<Value>>,
}

#[derive(Debug, Deserialize)]
struct CallDelta {
    index: Option<u64>,
    id: Option<String>,
    function: Option<FunctionDelta>,
    /// Among others `extra_content`, in which Gemini's endpoint of this kind puts thought signatures.
    #[serde(flatten)]
    extra: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct FunctionDelta {
    name: Option<String>,
    arguments: Option<Value>,
}

/// The most items of reasoning that are kept for the next request.
const REASONING_ITEMS_MAX: usize = 4096;

#[derive(Default)]
struct Assembly {
    text: String,
    refusal: String,
    calls: PartialCalls,
    reasoning: Vec<Value>,
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
            let text = error_text(&error).unwrap_or_else(|| "it says nothing else".to_owned());
            return Err(super::failed_midway(&text));
        }
        if let Some(usage) = chunk.usage {
            self.usage = usage::from_openai(usage);
        }
        // One answer was asked for.
        let Some(choice) = chunk.choices.into_iter().flatten().next() else { return Ok(()) };
        let delta = choice.delta.unwrap_or_default();
        if let Some(text) = delta.content.map(content_text).filter(|text| !text.is_empty()) {
            sink.push(&text);
            self.text.push_str(&text);
        }
        self.refusal.push_str(delta.refusal.as_deref().unwrap_or_default());
        self.reasoning.extend(delta.reasoning_details.into_iter().flatten());
        if self.reasoning.len() > REASONING_ITEMS_MAX {
            return Err(ModelError::upstream(format!(
                "the model sent more than {REASONING_ITEMS_MAX} items of reasoning"
            )));
        }
        for CallDelta { index, id, function, mut extra } in delta.tool_calls.into_iter().flatten() {
            extra.remove("type");
            let FunctionDelta { name, arguments } =
                function.unwrap_or(FunctionDelta { name: None, arguments: None });
            let arguments = match arguments {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text,
                // Some servers send the arguments as JSON and not as its text.
                Some(json) => json.to_string(),
            };
            self.calls.add(CallPart { index, id, name, arguments, extra })?;
        }
        self.finish_reason = choice.finish_reason.or(self.finish_reason.take());
        Ok(())
    }

    fn finish(self, model: &str) -> Result<Turn, ModelError> {
        let reason = self.finish_reason.ok_or_else(super::cut_off)?;
        let calls = self.calls.finish();
        let stop = match reason.as_str() {
            "length" => StopReason::Length,
            "content_filter" => StopReason::Refused("its content filter".to_owned()),
            "error" | "abort" => return Err(super::failed_midway(&reason)),
            _ if !self.refusal.is_empty() => StopReason::Refused(self.refusal),
            _ if calls.is_empty() => StopReason::Answered,
            _ => StopReason::ToolCalls,
        };
        let needs_own =
            !self.reasoning.is_empty() || calls.iter().any(|call| !call.extra.is_empty());
        let tool_calls = calls.iter().map(super::calls::PartialCall::call).collect();
        let provider_message = needs_own.then(|| {
            let content = match self.text.as_str() {
                "" => Value::Null,
                text => text.into(),
            };
            let mut message = json!({"role": "assistant", "content": content});
            if let Some(fields) = message.as_object_mut() {
                if !self.reasoning.is_empty() {
                    fields.insert("reasoning_details".to_owned(), self.reasoning.into());
                }
                let calls = calls.into_iter().map(|call| {
                    let arguments = replayable_arguments(&call.call().arguments);
                    tool_call(&call.id, &call.name, &arguments, call.extra)
                });
                let calls: Vec<Value> = calls.collect();
                if !calls.is_empty() {
                    fields.insert("tool_calls".to_owned(), calls.into());
                }
            }
            ProviderMessage {
                protocol: Protocol::OpenaiCompatible,
                model: model.to_owned(),
                message,
            }
        });
        Ok(Turn {
            text: self.text,
            tool_calls,
            stop,
            usage: self.usage,
            provider_message: provider_message.map(Box::new),
            ..Turn::default()
        })
    }
}

/// The text of a `content`: a string, or parts of which some are text (Mistral's reasoning models).
fn content_text(content: Value) -> String {
    match content {
        Value::String(text) => text,
        Value::Array(parts) => parts.iter().filter_map(|part| part.get("text")?.as_str()).collect(),
        _ => String::new(),
    }
}
