//! Models behind Gemini's API (`streamGenerateContent`).

use futures::future::BoxFuture;
use http::HeaderName;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use url::Url;

use super::calls::{CallPart, PartialCalls};
use super::error::ModelError;
use super::exchange::{AnswerStream, ModelServer, error_text};
use super::{
    AssistantMessage, Message, Model, Protocol, ProviderMessage, StopReason, TextSink, ToolResult,
    Turn, TurnRequest, Usage, replayable_object, usage,
};
use crate::settings::ModelSettings;
use crate::tool::Tool;

/// Where Google's own API is.
const BASE_URL: &str = "https://generativelanguage.googleapis.com/v1beta/";

/// The most parts of one answer, after adjacent texts were joined.
const PARTS_MAX: usize = 1024;

/// A model behind Gemini's API.
pub(super) struct Gemini {
    server: ModelServer,
    url: Url,
    settings: ModelSettings,
}

impl Gemini {
    /// Creates a client for this model.
    ///
    /// # Errors
    /// If the settings cannot be used, or no HTTP client can be made.
    pub(super) fn new(name: &str, settings: &ModelSettings) -> Result<Self, ModelError> {
        let server =
            ModelServer::new(name, settings, (HeaderName::from_static("x-goog-api-key"), ""))?;
        let model = settings.model.trim_start_matches("models/");
        let method = format!("models/{model}:streamGenerateContent");
        let url = super::endpoint(settings.base_url.as_ref(), BASE_URL, &method);
        let mut url = url.ok_or_else(|| {
            ModelError::settings(format!("models.{name}.base_url cannot be used"))
        })?;
        url.query_pairs_mut().append_pair("alt", "sse");
        Ok(Self { server, url, settings: settings.clone() })
    }
}

impl Model for Gemini {
    fn turn<'a>(&'a self, request: TurnRequest<'a>) -> BoxFuture<'a, Result<Turn, ModelError>> {
        Box::pin(async move {
            let body = body(&self.settings, &request);
            let stream = self.server.post(self.url.clone(), &body).await?;
            assemble(stream, &self.settings.model, request.text_sink).await
        })
    }
}

pub(super) fn body(settings: &ModelSettings, request: &TurnRequest<'_>) -> Value {
    let mut body = Map::new();
    if !request.instructions.is_empty() {
        body.insert(
            "systemInstruction".to_owned(),
            json!({"parts": [{"text": request.instructions}]}),
        );
    }
    if !request.tools.is_empty() {
        let declarations: Vec<Value> = request.tools.iter().map(declaration).collect();
        body.insert("tools".to_owned(), json!([{"functionDeclarations": declarations}]));
    }
    let mut config = Map::new();
    if let Some(max) = settings.output_tokens_max {
        config.insert("maxOutputTokens".to_owned(), max.into());
    }
    let mut thinking = Map::new();
    if let Some(effort) = &settings.effort {
        thinking.insert("thinkingLevel".to_owned(), effort.as_str().into());
    }
    if let Some(budget) = settings.thinking_tokens {
        thinking.insert("thinkingBudget".to_owned(), budget.into());
    }
    if !thinking.is_empty() {
        config.insert("thinkingConfig".to_owned(), thinking.into());
    }
    if !config.is_empty() {
        body.insert("generationConfig".to_owned(), config.into());
    }
    let contents: Vec<Value> =
        request.messages.iter().map(|message| content(settings, message)).collect();
    body.insert("contents".to_owned(), contents.into());
    body.into()
}

/// A tool. Its schema goes into the field that takes JSON Schema as it is, except for `$schema`, which is refused.
fn declaration(tool: &Tool) -> Value {
    let mut schema = tool.input_schema.clone();
    if let Some(fields) = schema.as_object_mut() {
        fields.shift_remove("$schema");
    }
    json!({"name": tool.name, "description": tool.description, "parametersJsonSchema": schema})
}

fn content(settings: &ModelSettings, message: &Message) -> Value {
    match message {
        Message::User(user) => json!({"role": "user", "parts": [{"text": user.fenced()}]}),
        Message::Assistant(assistant) => {
            json!({"role": "model", "parts": assistant_parts(settings, assistant)})
        }
        Message::ToolResults(results) => {
            json!({"role": "user", "parts": results.iter().map(response).collect::<Vec<_>>()})
        }
    }
}

/// The result of a call. As text: structured results with `$ref` in them are refused.
fn response(result: &ToolResult) -> Value {
    let kind = if result.is_error { "error" } else { "output" };
    let mut response = json!({"name": result.call.name, "response": {kind: result.text}});
    add_id(&mut response, &result.call.id);
    json!({"functionResponse": response})
}

/// Adds the id of a call, unless it was made here for a server that gives calls none.
fn add_id(function: &mut Value, id: &str) {
    let number = id.strip_prefix("call_");
    let is_own = number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    if let Some(fields) = function.as_object_mut().filter(|_| !is_own) {
        fields.insert("id".to_owned(), id.into());
    }
}

fn assistant_parts(settings: &ModelSettings, message: &AssistantMessage) -> Value {
    if let Some(own) = message.provider_message(Protocol::Gemini, &settings.model) {
        return own.clone();
    }
    let text = (!message.text.is_empty()).then(|| json!({"text": message.text}));
    let calls = message.tool_calls.iter().map(|call| {
        let mut function = json!({"name": call.name, "args": replayable_object(&call.arguments)});
        add_id(&mut function, &call.id);
        json!({"functionCall": function})
    });
    text.into_iter().chain(calls).collect()
}

/// One event of the stream. Fields that are null count as missing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StreamChunk {
    candidates: Option<Vec<Candidate>>,
    usage_metadata: Option<Value>,
    prompt_feedback: Option<PromptFeedback>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    content: Option<Content>,
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Content {
    parts: Option<Vec<Map<String, Value>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PromptFeedback {
    block_reason: Option<String>,
}

/// The parts of the answer in their order, because a signature belongs to its part.
#[derive(Default)]
struct Assembly {
    parts: Vec<Map<String, Value>>,
    calls: PartialCalls,
    text: String,
    usage: Usage,
    finish_reason: Option<String>,
    blocked: Option<String>,
}

pub(super) async fn assemble(
    mut stream: AnswerStream,
    model: &str,
    sink: &dyn TextSink,
) -> Result<Turn, ModelError> {
    let mut assembly = Assembly::default();
    while let Some(event) = stream.next().await? {
        let chunk: StreamChunk =
            serde_json::from_str(&event.data).map_err(|_| super::not_understood())?;
        assembly.add(chunk, sink)?;
    }
    assembly.finish(model)
}

impl Assembly {
    fn add(&mut self, chunk: StreamChunk, sink: &dyn TextSink) -> Result<(), ModelError> {
        if let Some(error) = chunk.error {
            return Err(super::failed_midway(&error_text(&error).unwrap_or_default()));
        }
        if let Some(usage) = chunk.usage_metadata {
            // Counts are totals so far.
            self.usage = usage::from_gemini(usage);
        }
        self.blocked = chunk
            .prompt_feedback
            .and_then(|feedback| feedback.block_reason)
            .or(self.blocked.take());
        // One answer was asked for.
        let Some(candidate) = chunk.candidates.into_iter().flatten().next() else { return Ok(()) };
        for part in candidate.content.and_then(|content| content.parts).into_iter().flatten() {
            self.add_part(part, sink)?;
        }
        self.finish_reason = candidate.finish_reason.or(self.finish_reason.take());
        Ok(())
    }

    fn add_part(
        &mut self,
        part: Map<String, Value>,
        sink: &dyn TextSink,
    ) -> Result<(), ModelError> {
        let is_thought = part.get("thought").and_then(Value::as_bool) == Some(true);
        let text = part.get("text").and_then(Value::as_str);
        if let Some(text) = text.filter(|text| !is_thought && !text.is_empty()) {
            sink.push(text);
            self.text.push_str(text);
        }
        if let Some(call) = part.get("functionCall") {
            let text = |name: &str| call.get(name).and_then(Value::as_str).map(str::to_owned);
            // Each part is a whole call: its position tells calls without id apart.
            let index = u64::try_from(self.parts.len()).ok();
            let arguments = call.get("args").filter(|args| !args.is_null());
            let arguments = arguments.map(Value::to_string).unwrap_or_default();
            let (id, name) = (text("id"), text("name"));
            self.calls.add(CallPart { index, id, name, arguments, extra: Map::new() })?;
        }
        if let Some(text) = self.parts.last_mut().and_then(|previous| joined_text(previous, &part))
        {
            text.push_str(part.get("text").and_then(Value::as_str).unwrap_or_default());
            return Ok(());
        }
        if self.parts.len() == PARTS_MAX {
            return Err(ModelError::upstream(format!(
                "the model sent more than {PARTS_MAX} parts"
            )));
        }
        self.parts.push(part);
        Ok(())
    }

    fn finish(self, model: &str) -> Result<Turn, ModelError> {
        if let Some(reason) = self.blocked {
            return Ok(Turn {
                stop: StopReason::Refused(reason),
                usage: self.usage,
                ..Turn::default()
            });
        }
        let reason = self.finish_reason.ok_or_else(super::cut_off)?;
        let calls = self.calls.finish();
        let stop = match reason.as_str() {
            "STOP" if calls.is_empty() => StopReason::Answered,
            "STOP" => StopReason::ToolCalls,
            "MAX_TOKENS" => StopReason::Length,
            "SAFETY"
            | "RECITATION"
            | "BLOCKLIST"
            | "PROHIBITED_CONTENT"
            | "SPII"
            | "LANGUAGE"
            | "IMAGE_SAFETY"
            | "IMAGE_PROHIBITED_CONTENT" => StopReason::Refused(reason),
            // `MALFORMED_FUNCTION_CALL` among others: another attempt may be well-formed.
            _ => return Err(super::failed_midway(&reason)),
        };
        let provider_message = ProviderMessage {
            protocol: Protocol::Gemini,
            model: model.to_owned(),
            message: self.parts.into_iter().map(Value::Object).collect(),
        };
        Ok(Turn {
            text: self.text,
            tool_calls: calls.iter().map(super::calls::PartialCall::call).collect(),
            stop,
            usage: self.usage,
            provider_message: Some(Box::new(provider_message)),
            ..Turn::default()
        })
    }
}

/// The text of the previous part, if this part only continues it. A part with a signature stays by itself.
fn joined_text<'p>(
    previous: &'p mut Map<String, Value>,
    part: &Map<String, Value>,
) -> Option<&'p mut String> {
    let is_plain = |part: &Map<String, Value>| {
        part.keys().all(|key| matches!(key.as_str(), "text" | "thought"))
    };
    let continues = is_plain(previous)
        && is_plain(part)
        && part.contains_key("text")
        && previous.get("thought") == part.get("thought");
    match previous.get_mut("text").filter(|_| continues) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}
