//! What a guest handed over, checked: nobody behind the sandbox sees a value that breaks the interface.

use super::super::bindings::v0_1::exports::wardgate::plugin as exports;
use super::super::bindings::v0_1::wardgate::plugin::types;
use super::super::refusal::{PluginError, Refusal};
use super::{Diagnostic, Mapped, Principal, ReplyNow, Tool};
use crate::call::Payload;

/// Most tools of one plugin, and the longest name of one.
const TOOLS_MAX: usize = 128;
const TOOL_NAME_BYTES_MAX: usize = 64;

/// Longest schemas of one tool, and of all tools of a plugin, in bytes: they are held for as long as a run may
/// take, and parsed they take many times as much. Models are given them whole, which bounds them well below.
const TOOL_SCHEMA_BYTES_MAX: usize = 64 << 10;
const SCHEMAS_BYTES_MAX: usize = 256 << 10;

/// Longest JSON that a verifier may say of a caller, in bytes. It goes along with the request.
const ATTRIBUTES_BYTES_MAX: usize = 16 << 10;

/// Longest id of a delivery or a caller, in bytes.
const ID_BYTES_MAX: usize = 512;

/// Most things that a plugin finds wrong with its settings.
const DIAGNOSTICS_MAX: usize = 100;

pub(super) fn principal(principal: exports::verifier::Principal) -> Result<Principal, PluginError> {
    let attributes = principal.attributes.as_ref();
    if attributes.is_some_and(|attributes| attributes.len() > ATTRIBUTES_BYTES_MAX) {
        return Err(malformed("its attributes are longer than 16 KiB"));
    }
    let attributes = principal.attributes.as_deref().map(serde_json::from_str).transpose();
    let attributes = attributes.map_err(|_| malformed("its attributes are no JSON"))?;
    let id = principal.id.map(|id| bounded_id("the caller's id", id)).transpose()?;
    Ok(Principal { id, attributes })
}

pub(super) fn mapped(mapped: exports::payload_mapper::Mapped) -> Result<Mapped, PluginError> {
    match mapped.action.as_str() {
        "run" => {
            let context = mapped.context.map(|text| Payload::parse(text.into())).transpose();
            let context = context.map_err(|error| malformed(&format!("its context: {error}")))?;
            if context.as_ref().is_some_and(|context| context.fields().is_none()) {
                return Err(malformed("its context is no JSON object"));
            }
            let delivery = mapped.delivery_id.map(|id| bounded_id("its delivery id", id));
            let delivery_id = delivery.transpose()?;
            Ok(Mapped::Run { params: mapped.params, context, delivery_id })
        }
        "ignore" => Ok(Mapped::Ignore),
        "reply" => match mapped.reply {
            Some(reply) => Ok(Mapped::Reply(reply.into())),
            None => Err(malformed("it wants to reply and gave no reply")),
        },
        other => {
            let shown: String = other.chars().take(40).collect();
            Err(malformed(&format!("its action {shown:?} is none of run, ignore, reply")))
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
        .ok_or_else(|| malformed(&format!("the input schema of {} is no object", tool.name)))?;
    // MCP: destructiveHint is true by default and means nothing where readOnlyHint is true.
    let annotations = tool.annotations.as_deref().map(serde_json::from_str::<serde_json::Value>);
    let annotations = annotations.and_then(Result::ok).unwrap_or_default();
    let hint = |name: &str| annotations.get(name).and_then(serde_json::Value::as_bool);
    let destructive = hint("readOnlyHint") != Some(true) && hint("destructiveHint") != Some(false);
    let output_schema = tool.output_schema.as_deref().map(serde_json::from_str).transpose();
    let output_schema: Option<serde_json::Value> = output_schema
        .map_err(|_| malformed(&format!("the output schema of {} is no JSON", tool.name)))?;
    let (name, description) = (tool.name, tool.description);
    Ok(Tool { name, description, input_schema, output_schema, destructive })
}

/// Whether a text is JSON of bounded depth, so that everybody behind us can parse it.
pub(super) fn json(text: &str) -> Result<(), crate::call::PayloadError> {
    Payload::parse(bytes::Bytes::copy_from_slice(text.as_bytes())).map(drop)
}

pub(super) fn tools(tools: Vec<exports::toolbox::Tool>) -> Result<Vec<Tool>, PluginError> {
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
    tools.into_iter().map(tool).collect()
}

pub(super) fn diagnostics(
    found: Vec<exports::about::Diagnostic>,
) -> Result<Vec<Diagnostic>, PluginError> {
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

impl From<types::HttpReply> for ReplyNow {
    fn from(reply: types::HttpReply) -> Self {
        Self { status: reply.status, headers: reply.headers, body: reply.body }
    }
}

fn bounded_id(what: &str, id: String) -> Result<String, PluginError> {
    let good = (1..=ID_BYTES_MAX).contains(&id.len()) && !id.chars().any(char::is_control);
    if good {
        Ok(id)
    } else {
        Err(malformed(&format!("{what} is empty, too long or no plain text")))
    }
}

pub(super) fn malformed(what: &str) -> PluginError {
    PluginError::Refusal(Refusal::Malformed(what.to_owned()))
}
