//! Models behind Gemini's API (`streamGenerateContent`).

use http::HeaderName;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use url::Url;

use super::calls::{CallPart, OWN_ID, PartialCall, PartialCalls};
use super::connector::{Connector, ModelOrigin};
use super::error::ModelError;
use super::exchange::{AnswerStream, ModelServer, event_error};
use super::room::Room;
use super::{
    AssistantMessage, Image, Message, Protocol, ProviderMessage, StopReason, TextSink, ToolResult,
    Turn, TurnRequest, replayable_arguments, usage,
};
use crate::settings::ModelSettings;
use crate::tool::Tool;
use crate::trace::usage::Usage;

/// Where Google's own API is.
const BASE_URL: &str = "https://generativelanguage.googleapis.com/v1beta/";

/// The most parts of one answer, after adjacent texts were joined.
const PARTS_MAX: usize = 1024;

/// The server of this model, and the address that turns are sent to.
///
/// # Errors
/// If the settings cannot be used, or no HTTP client can be made.
pub(super) fn connect(
    name: &str,
    settings: &ModelSettings,
    connection: (&Connector, ModelOrigin),
) -> Result<(ModelServer, Url), ModelError> {
    let server = ModelServer::new(
        name,
        settings,
        connection,
        (HeaderName::from_static("x-goog-api-key"), ""),
    )?;
    let model = settings.model.trim_start_matches("models/");
    let method = format!("models/{model}:streamGenerateContent");
    let mut url = super::endpoint(name, settings, BASE_URL, &method)?;
    url.query_pairs_mut().append_pair("alt", "sse");
    Ok((server, url))
}

pub(super) fn body(settings: &ModelSettings, request: &TurnRequest<'_>) -> String {
    let mut fields = Map::new();
    if !request.instructions.is_empty() {
        let instructions = json!({"parts": [{"text": request.instructions}]});
        fields.insert("systemInstruction".to_owned(), instructions);
    }
    if !request.tools.is_empty() {
        let declarations: Vec<Value> = request.tools.iter().map(declaration).collect();
        fields.insert("tools".to_owned(), json!([{"functionDeclarations": declarations}]));
    }
    let mut config = Map::new();
    if let Some(max) = settings.output_tokens_max {
        config.insert("maxOutputTokens".to_owned(), max.into());
    }
    if let Some(schema) = request.output_schema {
        config.insert("responseMimeType".to_owned(), "application/json".into());
        config.insert("responseJsonSchema".to_owned(), without_dialect(schema));
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
        fields.insert("generationConfig".to_owned(), config.into());
    }
    let contents = request.messages.iter().map(|message| content(settings, message));
    super::with_list(fields, "contents", &contents.collect::<Vec<_>>())
}

/// A tool. Its schema goes into the field that takes JSON Schema as it is.
fn declaration(tool: &Tool) -> Value {
    let schema = without_dialect(&tool.input_schema);
    json!({"name": tool.name, "description": tool.description, "parametersJsonSchema": schema})
}

/// A schema without `$schema`, which is refused.
fn without_dialect(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(fields) = schema.as_object_mut() {
        fields.shift_remove("$schema");
    }
    schema
}

fn content(settings: &ModelSettings, message: &Message) -> String {
    match message {
        Message::User(user) => {
            let images = user.images.iter().map(image);
            let parts: Vec<Value> = images.chain([json!({"text": user.fenced()})]).collect();
            json!({"role": "user", "parts": parts}).to_string()
        }
        Message::Assistant(assistant) => {
            format!(r#"{{"role":"model","parts":{}}}"#, assistant_parts(settings, assistant))
        }
        Message::ToolResults(results) => {
            let results: Vec<Value> = results.iter().map(response).collect();
            json!({"role": "user", "parts": results}).to_string()
        }
    }
}

fn image(Image { media_type, base64 }: &Image) -> Value {
    json!({"inlineData": {"mimeType": media_type, "data": base64}})
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
    if let Some(fields) = function.as_object_mut().filter(|_| !id.starts_with(OWN_ID)) {
        fields.insert("id".to_owned(), id.into());
    }
}

fn assistant_parts(settings: &ModelSettings, message: &AssistantMessage) -> String {
    if let Some(own) = message.provider_message(Protocol::Gemini, &settings.model) {
        return own.to_owned();
    }
    let text = (!message.text.is_empty()).then(|| json!({"text": message.text}));
    let calls = message.tool_calls.iter().map(|call| {
        let arguments = replayable_arguments(&call.arguments);
        let arguments: Value = serde_json::from_str(&arguments).unwrap_or_default();
        let mut function = json!({"name": call.name, "args": arguments});
        add_id(&mut function, &call.id);
        json!({"functionCall": function})
    });
    Value::from(text.into_iter().chain(calls).collect::<Vec<_>>()).to_string()
}

/// One event of the stream. Fields that are null count as missing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StreamChunk {
    candidates: Option<Vec<Candidate>>,
    usage_metadata: Option<Box<RawValue>>,
    prompt_feedback: Option<PromptFeedback>,
    error: Option<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Candidate {
    content: Option<Content>,
    finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Content {
    parts: Option<Vec<Box<RawValue>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PromptFeedback {
    block_reason: Option<String>,
}

/// What is understood of a part.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PartFields {
    text: Option<String>,
    thought: Option<bool>,
    function_call: Option<FunctionCall>,
}

#[derive(Debug, Deserialize)]
struct FunctionCall {
    id: Option<String>,
    name: Option<String>,
    args: Option<Box<RawValue>>,
}

/// A part of the answer.
#[derive(Debug)]
enum Part {
    /// Text and nothing else, which adjacent parts of the same kind continue.
    Text { text: String, thought: Option<bool> },
    /// Unchanged: a signature belongs to its part.
    Whole(Box<RawValue>),
}

impl Part {
    fn json(&self) -> String {
        match self {
            Self::Text { text, thought: None } => json!({"text": text}).to_string(),
            Self::Text { text, thought } => json!({"text": text, "thought": thought}).to_string(),
            Self::Whole(raw) => raw.get().to_owned(),
        }
    }
}

/// The parts of the answer in their order.
#[derive(Default)]
struct Assembly {
    room: Room,
    parts: Vec<Part>,
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
            return Err(super::failed_midway(&event_error(&error)));
        }
        if let Some(usage) = chunk.usage_metadata.as_deref().and_then(usage::reported) {
            // Counts are totals so far.
            self.usage = usage::from_gemini(usage);
        }
        let blocked = chunk.prompt_feedback.and_then(|feedback| feedback.block_reason);
        self.blocked = blocked.or(self.blocked.take());
        // One answer was asked for.
        let Some(candidate) = chunk.candidates.into_iter().flatten().next() else { return Ok(()) };
        for part in candidate.content.and_then(|content| content.parts).into_iter().flatten() {
            self.add_part(part, sink)?;
        }
        let reason = candidate.finish_reason.filter(|reason| !reason.is_empty());
        self.finish_reason = reason.or(self.finish_reason.take());
        Ok(())
    }

    fn add_part(&mut self, raw: Box<RawValue>, sink: &dyn TextSink) -> Result<(), ModelError> {
        self.room.take(raw.get().len())?;
        let fields: PartFields =
            serde_json::from_str(raw.get()).map_err(|_| super::not_understood())?;
        let text = fields.text.unwrap_or_default();
        if fields.thought != Some(true) && !text.is_empty() {
            sink.push(&text);
            self.text.push_str(&text);
        }
        if let Some(FunctionCall { id, name, args }) = fields.function_call {
            // Each part is a whole call: its position tells calls without id apart.
            let index = u64::try_from(self.parts.len()).ok();
            let arguments = args.map(|args| args.get().to_owned());
            let arguments = arguments.filter(|args| args != "null").unwrap_or_default();
            let name = name.or_else(|| Some("unnamed".to_owned()));
            self.calls.add(CallPart { index, id, name, arguments, extra: None })?;
        }
        let part = match is_text_alone(&raw) {
            true => Part::Text { text, thought: fields.thought },
            false => Part::Whole(raw),
        };
        if let Some(Part::Text { text: whole, thought: kind }) = self.parts.last_mut()
            && let Part::Text { text, thought } = &part
            && kind == thought
        {
            whole.push_str(text);
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
            let stop = StopReason::Refused(reason);
            return Ok(Turn { stop, usage: self.usage, ..Turn::default() });
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
            _ => return Err(super::failed_midway(&format!("it ended for the reason {reason:?}"))),
        };
        // Calls under other names than the model's go back in our own form.
        let is_unchanged = calls.iter().all(|call| call.call().name == call.name);
        let provider_message = is_unchanged.then(|| {
            let parts: Vec<String> = self.parts.iter().map(Part::json).collect();
            let (protocol, model) = (Protocol::Gemini, model.to_owned());
            Box::new(ProviderMessage { protocol, model, message: format!("[{}]", parts.join(",")) })
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

/// Whether a part has no fields but `text` and `thought`.
fn is_text_alone(raw: &RawValue) -> bool {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only which fields there are counts")]
    struct TextAlone {
        text: IgnoredAny,
        #[serde(default)]
        thought: Option<IgnoredAny>,
    }

    serde_json::from_str::<TextAlone>(raw.get()).is_ok()
}
