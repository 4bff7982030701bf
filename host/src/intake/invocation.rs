//! `POST …/invoke` of the REST surface and its aliases (CONTRACT section 2): a typed body, with no parameters and no
//! mapping.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{AgentCall, Arrival, CallRequest, IntakeError};
use crate::access::Caller;
use crate::ids::ThreadId;
use crate::request::{BadRequest, Prefer, ResponseOptions};
use crate::tasks::{Input, User};

/// An invocation of an agent. Unknown fields are ignored, as the product does.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
pub struct Invocation {
    /// The conversation to continue: a name of the caller's choice, or the id of an earlier task.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    id: Option<TextOrNumber>,
    input: InvocationInput,
    /// Additional data for the agent; it is fenced as data.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    payload_extension: Option<Box<RawValue>>,
    /// Additional text for the agent; it is fenced as data.
    #[serde(default)]
    additional_context: Option<String>,
    /// What the answer should look like; it is fenced as data.
    #[serde(default)]
    expected_output: Option<String>,
    /// `sdk` if the product's SDK makes the call.
    #[serde(default)]
    source: Option<String>,
    /// Tokens for MCP servers by graph item: a bearer token, or an object of headers.
    #[serde(default, rename = "user_tokens")]
    #[schema(value_type = Option<Object>)]
    _user_tokens: Option<serde::de::IgnoredAny>,
    /// Must be empty: this version does not call MCP servers that a request names.
    #[serde(default)]
    #[schema(value_type = Option<Vec<Object>>, max_items = 0)]
    mcp_servers: Option<Vec<serde::de::IgnoredAny>>,
}

/// The input of an invocation.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
pub struct InvocationInput {
    /// The text for the agent.
    #[serde(default)]
    text: Option<String>,
    /// Must be empty: this version does not accept files.
    #[serde(default)]
    #[schema(value_type = Option<Vec<String>>, max_items = 0)]
    files: Option<Vec<serde::de::IgnoredAny>>,
    /// The user that the task is for.
    #[serde(default)]
    user: Option<InvocationUser>,
}

/// The user that a task is for, as the caller describes them.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
pub struct InvocationUser {
    /// The caller's own id for the user.
    #[serde(default)]
    id: Option<String>,
    /// The email address, not verified.
    #[serde(default)]
    email: Option<String>,
    /// First name.
    #[serde(default)]
    first_name: Option<String>,
    /// Last name.
    #[serde(default)]
    last_name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "id is neither a text nor a number")]
enum TextOrNumber {
    Text(String),
    Number(serde_json::Number),
}

/// Resolves a request of the REST surface.
///
/// # Errors
/// [`IntakeError::Request`] with 422 if the body is JSON of another shape; no task has been created then.
pub fn resolve(caller: Caller, arrival: &Arrival) -> Result<AgentCall, IntakeError> {
    let unprocessable = |detail: String| IntakeError::from(BadRequest { status: 422, detail });
    // Serde also deserializes an array into a struct, field by field.
    for (place, name) in [
        ("", "the body"),
        ("/input", "input"),
        ("/input/user", "input.user"),
        ("/payload_extension", "payload_extension"),
    ] {
        let found = arrival.incoming.payload.find(place).filter(|json| json.starts_with('['));
        if found.is_some() {
            return Err(unprocessable(format!("{name} is not a JSON object")));
        }
    }
    let body: Invocation = serde_json::from_str(arrival.incoming.payload.text())
        .map_err(|error| unprocessable(format!("the body is not as documented: {error}")))?;
    for (name, is_empty) in [
        ("input.files", body.input.files.as_ref().is_none_or(Vec::is_empty)),
        ("mcp_servers", body.mcp_servers.as_ref().is_none_or(Vec::is_empty)),
    ] {
        if !is_empty {
            return Err(unprocessable(format!(
                "{name} cannot be accepted: this version takes none"
            )));
        }
    }
    let thread = match &body.id {
        None => None,
        Some(TextOrNumber::Text(text)) if text.is_empty() => None,
        Some(TextOrNumber::Text(text)) => Some(text.parse::<ThreadId>()),
        Some(TextOrNumber::Number(number)) => Some(number.to_string().parse()),
    };
    let thread = thread
        .transpose()
        .map_err(|error| unprocessable(error.to_string().replacen("task_id", "id", 1)))?;
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let user = body.input.user.map_or_else(User::default, |user| User {
        id: filled(user.id),
        email: filled(user.email),
        first_name: filled(user.first_name),
        last_name: filled(user.last_name),
    });
    let user = user
        .check()
        .map_err(|wrong| unprocessable(wrong.replacen("user_id", "input.user.id", 1)))?;
    let payload = context(
        body.payload_extension.as_deref(),
        [
            ("additional_context", body.additional_context.as_deref()),
            ("expected_output", body.expected_output.as_deref()),
        ],
    );
    let source = if body.source.as_deref() == Some("sdk") { "sdk" } else { "api" };
    let options = ResponseOptions {
        prefer: Prefer::from_headers(&arrival.incoming.headers),
        ..ResponseOptions::default()
    };
    let input = Input { prompt: filled(body.input.text), payload, user };
    let request = CallRequest { input, thread, response_options: options, mapping: None };
    Ok(AgentCall { source, ..AgentCall::new(caller, arrival, request)? })
}

/// Combines the additional data and texts into one JSON object.
fn context(extension: Option<&RawValue>, texts: [(&str, Option<&str>); 2]) -> String {
    let extension = extension.map(RawValue::get).filter(|json| !matches!(*json, "null" | "{}"));
    let extension = extension.map(|json| format!("\"payload_extension\":{json}"));
    let texts = texts.into_iter().filter_map(|(name, text)| {
        let text = text.filter(|text| !text.is_empty())?;
        Some(format!("\"{name}\":{}", serde_json::Value::from(text)))
    });
    let fields: Vec<String> = extension.into_iter().chain(texts).collect();
    format!("{{{}}}", fields.join(","))
}
