//! A call of an agent as a tool at `/mcp`: arguments of a fixed form, with no parameters and no mapping.

use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{AgentCall, Arrival, CallRequest, IntakeError};
use crate::access::Caller;
use crate::ids::{IdempotencyKey, ParseIdError, ThreadId};
use crate::request::ResponseOptions;
use crate::tasks::{IdempotencyClaim, Input, User};

/// The arguments of the tool.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    prompt: Option<String>,
    payload: Option<Box<RawValue>>,
    conversation: Option<String>,
}

/// The JSON Schema of the arguments, the same for all agents.
pub fn input_schema() -> &'static serde_json::Value {
    static SCHEMA: OnceLock<serde_json::Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        serde_json::json!({
            "type": "object",
            "properties": {
                "prompt": {
                    "type": "string",
                    "description": "What the agent is to do.",
                },
                "payload": {
                    "type": "object",
                    "description": "Data for the agent. It is marked as data: the agent does not take instructions from it.",
                },
                "conversation": {
                    "type": "string",
                    "description": "The conversation to continue: a name of your choice, or the id of an earlier task. Without it, a new one begins.",
                },
            },
            "additionalProperties": false,
        })
    })
}

/// Resolves a call of an agent's tool. `tool` is the tool's name, and `key` the idempotency key of the call, if it has
/// one.
///
/// # Errors
/// [`IntakeError::Request`] if the arguments do not match the schema; no task has been created then.
pub fn resolve(
    caller: Caller,
    arrival: &Arrival,
    tool: &str,
    key: Option<&str>,
) -> Result<AgentCall, IntakeError> {
    let sent = arrival.incoming.payload.find("/params/arguments").filter(|json| *json != "null");
    // Serde also deserializes an array into a struct, field by field.
    if sent.is_some_and(|json| json.starts_with('[')) {
        return Err(IntakeError::bad("the arguments are not a JSON object"));
    }
    let arguments: Arguments = match sent {
        None => Arguments::default(),
        Some(json) => serde_json::from_str(json).map_err(|error| {
            IntakeError::bad(&format!("the arguments do not match the tool's schema: {error}"))
        })?,
    };
    let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
    let payload = arguments.payload.as_deref().map(RawValue::get).filter(|json| *json != "null");
    if payload.is_some_and(|json| !json.starts_with('{')) {
        return Err(IntakeError::bad("the argument payload is not a JSON object"));
    }
    let thread = filled(arguments.conversation).map(|name| name.parse::<ThreadId>()).transpose();
    let thread = thread.map_err(|error| {
        IntakeError::bad(&error.to_string().replacen("task_id", "the argument conversation", 1))
    })?;
    let input = Input {
        prompt: filled(arguments.prompt),
        payload: payload.unwrap_or("{}").to_owned(),
        user: User::default(),
    };
    let response_options = ResponseOptions::default();
    let request = CallRequest { input, thread, response_options, mapping: None };
    let call = AgentCall::new(caller, arrival, request)?;
    let idempotency = match key {
        None => None,
        Some(key) => {
            let key: IdempotencyKey =
                key.parse().map_err(|error: ParseIdError| IntakeError::bad(&error.to_string()))?;
            // Not of the whole request: a client that sends a call again gives it another id.
            let mut hasher = blake3::Hasher::new();
            for part in [tool, sent.unwrap_or("{}")] {
                hasher.update(&(part.len() as u64).to_le_bytes());
                hasher.update(part.as_bytes());
            }
            let fingerprint = *hasher.finalize().as_bytes();
            Some(IdempotencyClaim { surface: call.thread_surface, key, fingerprint })
        }
    };
    Ok(AgentCall { source: "mcp", idempotency, ..call })
}
