//! Checks what a guest returned, so that no code outside the sandbox sees a value that violates the interface.

use std::collections::HashSet;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::super::bindings::v0_1::exports::wardgate::plugin as exports;
use super::super::bindings::v0_1::wardgate::plugin::types;
use super::super::outcome::{Diagnostic, HttpReply, Mapped, Principal};
use super::super::refusal::{PluginError, Refusal};
use super::run_call::RawResult;
use crate::request::{MAPPABLE, Payload, PayloadError};
use crate::tool::Tool;

/// Most tools of one plugin, and the longest name of one, in bytes.
const TOOLS_MAX: usize = 128;
const TOOL_NAME_BYTES_MAX: usize = 64;

/// Longest schemas and annotations of one tool, and longest schemas, annotations and descriptions of all tools of a
/// plugin, in bytes. A run may hold them until it ends, and they take many times as much once parsed. Models are
/// sent them whole, which bounds them well below this.
const TOOL_SCHEMA_BYTES_MAX: usize = 64 << 10;
const SCHEMAS_BYTES_MAX: usize = 256 << 10;

/// Longest JSON attributes that a verifier may return for a caller, in bytes. They accompany the request.
const ATTRIBUTES_BYTES_MAX: usize = 16 << 10;

/// Longest id of a delivery or caller, in bytes.
const ID_BYTES_MAX: usize = 512;

/// Most problems that a plugin may report about its settings.
const DIAGNOSTICS_MAX: usize = 100;

/// Most headers of a reply.
const REPLY_HEADERS_MAX: usize = 64;

/// Headers that a reply must not set: they belong to the connection, or state what only the gateway can know.
const REPLY_HEADERS_FORBIDDEN: [&str; 12] = [
    "connection",
    "content-length",
    "idempotent-replayed",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-dedupe-source",
    "x-task-id",
];

/// What a call returned, checked.
pub(super) enum ExportResult {
    Principal(Principal),
    Mapped(Mapped),
    Value(Option<String>),
    Reply(HttpReply),
    Delivered,
    Tools(Vec<Tool>),
    /// JSON of bounded depth.
    Json(String),
    Diagnostics(Vec<Diagnostic>),
}

pub(super) fn validate(returned: RawResult) -> Result<ExportResult, PluginError> {
    Ok(match returned {
        RawResult::Principal(one) => ExportResult::Principal(principal(one)?),
        RawResult::Mapped(one) => ExportResult::Mapped(mapped(one)?),
        RawResult::Value(value) => ExportResult::Value(value.map(json).transpose()?),
        RawResult::Reply(one) => ExportResult::Reply(reply(one)?),
        RawResult::Delivered => ExportResult::Delivered,
        RawResult::Tools(some) => ExportResult::Tools(tools(some)?),
        RawResult::Json(text) => ExportResult::Json(json(text)?),
        RawResult::Diagnostics(found) => ExportResult::Diagnostics(diagnostics(found)?),
    })
}

fn principal(principal: exports::verifier::Principal) -> Result<Principal, PluginError> {
    let attributes = principal.attributes.as_ref();
    if attributes.is_some_and(|attributes| attributes.len() > ATTRIBUTES_BYTES_MAX) {
        return Err(malformed("its attributes are longer than 16 KiB"));
    }
    let attributes = principal.attributes.as_deref().map(serde_json::from_str).transpose();
    let attributes = attributes.map_err(|_| malformed("its attributes are not JSON"))?;
    let id = principal.id.map(|id| bounded_id("the caller's id", id)).transpose()?;
    Ok(Principal { id, attributes })
}

fn mapped(mapped: exports::payload_mapper::Mapped) -> Result<Mapped, PluginError> {
    match mapped.action.as_str() {
        "run" => {
            let context = mapped.context.map(|text| Payload::parse(text.into())).transpose();
            let context = context.map_err(|error| match error {
                // The context nests as deep as the request from which it was made.
                PayloadError::TooDeep => blame_request(&format!("its context: {error}")),
                error => malformed(&format!("its context: {error}")),
            })?;
            if context.as_ref().is_some_and(|context| context.fields().is_none()) {
                return Err(malformed("its context is not a JSON object"));
            }
            let unknown = mapped.params.iter().find(|(name, _)| !MAPPABLE.contains(&name.as_str()));
            if let Some((target, _)) = unknown {
                let shown: String = target.chars().take(40).collect();
                let what = format!("it set the parameter {shown:?}, which a mapping cannot set");
                return Err(malformed(&what));
            }
            let delivery = mapped.delivery_id.map(|id| bounded_id("its delivery id", id));
            let delivery_id = delivery.transpose()?;
            Ok(Mapped::Run { params: mapped.params, context, delivery_id })
        }
        "ignore" => Ok(Mapped::Ignore),
        "reply" => match mapped.reply {
            Some(given) => Ok(Mapped::Reply(reply(given)?)),
            None => Err(malformed("it wants to reply and gave no reply")),
        },
        other => {
            let shown: String = other.chars().take(40).collect();
            Err(malformed(&format!("its action {shown:?} is not run, ignore or reply")))
        }
    }
}

fn tool(tool: exports::toolbox::Tool) -> Result<Tool, PluginError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let name_is_good = !tool.name.is_empty()
        && tool.name.len() <= TOOL_NAME_BYTES_MAX
        && tool.name.bytes().all(allowed);
    if !name_is_good {
        return Err(malformed("a tool's name is not 1 to 64 letters, digits, _ and -"));
    }
    let schemas = tool.input_schema.len() + tool.output_schema.as_ref().map_or(0, String::len);
    let annotations = tool.annotations.as_ref().map_or(0, String::len);
    if schemas + annotations > TOOL_SCHEMA_BYTES_MAX {
        return Err(malformed(&format!("the schemas of {} are longer than 64 KiB", tool.name)));
    }
    let input_schema = serde_json::from_str::<serde_json::Value>(&tool.input_schema)
        .ok()
        .filter(serde_json::Value::is_object)
        .ok_or_else(|| malformed(&format!("the input schema of {} is not an object", tool.name)))?;
    // Tool arguments are always an object (MCP, tools: inputSchema).
    if input_schema.get("type").is_some_and(|of| of.as_str() != Some("object")) {
        let what = format!("the input schema of {} is not one of objects", tool.name);
        return Err(malformed(&what));
    }
    // MCP: destructiveHint defaults to true, and has no meaning if readOnlyHint is true.
    let annotations = tool.annotations.as_deref().map(serde_json::from_str::<serde_json::Value>);
    let annotations = annotations.and_then(Result::ok).unwrap_or_default();
    let hint = |name: &str| annotations.get(name).and_then(serde_json::Value::as_bool);
    let destructive = hint("readOnlyHint") != Some(true) && hint("destructiveHint") != Some(false);
    let output_schema = tool.output_schema.as_deref().map(serde_json::from_str).transpose();
    let output_schema: Option<serde_json::Value> = output_schema
        .map_err(|_| malformed(&format!("the output schema of {} is not JSON", tool.name)))?;
    let (name, description) = (tool.name, tool.description);
    let idempotent = hint("idempotentHint") == Some(true);
    Ok(Tool { name, description, input_schema, output_schema, destructive, idempotent })
}

/// Rejects text that is not JSON or nests too deep, so that no code outside the sandbox has to parse such JSON.
fn json(text: String) -> Result<String, PluginError> {
    match Payload::parse(bytes::Bytes::copy_from_slice(text.as_bytes())) {
        Ok(_) => Ok(text),
        Err(error) => Err(malformed(&format!("it handed over a text that is not JSON: {error}"))),
    }
}

fn tools(tools: Vec<exports::toolbox::Tool>) -> Result<Vec<Tool>, PluginError> {
    if tools.len() > TOOLS_MAX {
        return Err(malformed("it has more than 128 tools"));
    }
    let texts = |tool: &exports::toolbox::Tool| {
        let more = [&tool.output_schema, &tool.annotations]
            .map(|text| text.as_ref().map_or(0, String::len));
        tool.description.len() + tool.input_schema.len() + more.iter().sum::<usize>()
    };
    if tools.iter().map(texts).sum::<usize>() > SCHEMAS_BYTES_MAX {
        return Err(malformed("its tools are described in more than 256 KiB"));
    }
    let mut names = HashSet::new();
    if let Some(twice) = tools.iter().find(|tool| !names.insert(tool.name.clone())) {
        let shown: String = twice.name.chars().take(TOOL_NAME_BYTES_MAX).collect();
        return Err(malformed(&format!("it has two tools {shown:?}")));
    }
    tools.into_iter().map(tool).collect()
}

fn diagnostics(found: Vec<exports::about::Diagnostic>) -> Result<Vec<Diagnostic>, PluginError> {
    if found.len() > DIAGNOSTICS_MAX {
        return Err(malformed("it found more than 100 things wrong"));
    }
    let plain = |text: String| text.chars().filter(|c| !c.is_control()).take(1_000).collect();
    let plain = |one: exports::about::Diagnostic| Diagnostic {
        pointer: plain(one.pointer),
        message: plain(one.message),
    };
    Ok(found.into_iter().map(plain).collect())
}

fn reply(reply: types::HttpReply) -> Result<HttpReply, PluginError> {
    let status = StatusCode::from_u16(reply.status).ok().filter(|one| !one.is_informational());
    let wrong = || malformed(&format!("{} is not the status of a reply", reply.status));
    let status = status.ok_or_else(wrong)?;
    if reply.headers.len() > REPLY_HEADERS_MAX {
        return Err(malformed("its reply has more than 64 headers"));
    }
    let mut headers = HeaderMap::with_capacity(reply.headers.len());
    for (name, value) in &reply.headers {
        let (name, value) = header(name, value).map_err(|why| {
            let shown: String = name.chars().take(64).collect();
            malformed(&format!("the header {shown:?} of its reply {why}"))
        })?;
        headers.append(name, value);
    }
    Ok(HttpReply { status, headers, body: reply.body.into() })
}

/// Parses a header of a reply, or says what is wrong with it.
fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), &'static str> {
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "has no name of a header")?;
    if REPLY_HEADERS_FORBIDDEN.contains(&name.as_str()) || name.as_str().starts_with("x-wardgate-")
    {
        return Err("is the gateway's to set");
    }
    let value = HeaderValue::from_str(value).map_err(|_| "has a value that no header can have")?;
    Ok((name, value))
}

/// Checks an id. Ids come from requests, so the plugin is not to blame for their length.
fn bounded_id(what: &str, id: String) -> Result<String, PluginError> {
    let good = (1..=ID_BYTES_MAX).contains(&id.len()) && !id.chars().any(char::is_control);
    if good {
        Ok(id)
    } else {
        let why = format!("{what} is empty, longer than {ID_BYTES_MAX} bytes or not plain text");
        Err(blame_request(&why))
    }
}

/// The refusal for something that a plugin can only have taken from the request.
fn blame_request(what: &str) -> PluginError {
    PluginError::Refusal(Refusal::RequestTooMuch(Box::new(Refusal::Malformed(what.to_owned()))))
}

fn malformed(what: &str) -> PluginError {
    PluginError::Refusal(Refusal::Malformed(what.to_owned()))
}
