//! Request parameters: where they are sent and which value takes precedence (CONTRACT X1, X5).

use std::collections::HashSet;

use super::IntakeError;
use crate::request::Payload;
use crate::request::payload::scalar_text;

/// Names of parameters; every other name belongs to the agent's payload (CONTRACT X5, X6).
const RESERVED: [&str; 14] = [
    "agent_id",
    "x-api-key",
    "prompt",
    "asynchronous",
    "task_id",
    "user_id",
    "user_email",
    "user_first_name",
    "user_last_name",
    "getter",
    "json",
    "user_tokens",
    "disable_attachment_injection",
    "params_mapping",
];

/// Also reserved, although nothing reads it: callers of workflow URLs send it.
const AGENT_VERSION: &str = "agent_version";

fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name == AGENT_VERSION
}

/// The sources of parameters: query, body, and mapping.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    pub(crate) query: &'a [(String, String)],
    pub(crate) payload: &'a Payload,
    pub(crate) mapped: &'a [(String, String)],
}

impl Sources<'_> {
    /// The effective value: mapping before query before body. An empty string counts as absent. If a name is repeated
    /// in one source, its last value counts.
    pub(crate) fn text(&self, name: &str) -> Result<Option<String>, IntakeError> {
        if let Some(value) = self.mapped(name).or_else(|| self.query(name)) {
            return Ok(Some(value.to_owned()));
        }
        let Some(json) = self.body(name) else {
            return Ok(None);
        };
        match scalar_text(json) {
            Some(text) if text.is_empty() => Ok(None),
            Some(text) => Ok(Some(text)),
            None if json.starts_with('"') => {
                Err(IntakeError::bad(&format!("{name} holds an escape that is not a character")))
            }
            None => Err(IntakeError::bad(&format!("{name} is not a string, number or boolean"))),
        }
    }

    /// true/1/yes/on and false/0/no/off in any case (CONTRACT X5); false if absent.
    pub(crate) fn boolean(&self, name: &str) -> Result<bool, IntakeError> {
        match self.text(name)?.map(|text| text.to_ascii_lowercase()).as_deref() {
            None | Some("false" | "0" | "no" | "off") => Ok(false),
            Some("true" | "1" | "yes" | "on") => Ok(true),
            Some(_) => Err(IntakeError::bad(&format!(
                "{name} is not a boolean: use true or false (1/0, yes/no, on/off)"
            ))),
        }
    }

    fn mapped(&self, name: &str) -> Option<&str> {
        last(self.mapped.iter(), name)
    }

    /// The value in the query only. For `params_mapping`, and for what identifies the caller.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        last(self.query.iter(), name)
    }

    fn body(&self, name: &str) -> Option<&str> {
        let fields = self.payload.fields()?;
        let value = fields.filter(|(field, _)| *field == name).last()?.1;
        (value != "null").then_some(value)
    }

    /// The fields that are not parameters, as JSON text (CONTRACT X6): those of the body in their order and spelling,
    /// then those of the query. If the body has no parameters and the query has nothing else, this is the body byte
    /// for byte.
    pub(crate) fn payload_text(&self) -> String {
        let extras: Vec<_> = self.query.iter().filter(|(name, _)| !is_reserved(name)).collect();
        let Some(fields) = self.payload.fields() else {
            let body = self.payload.text();
            if extras.is_empty() {
                return body.to_owned();
            }
            let named = extras.iter().map(|(name, value)| (name.as_str(), quoted(value)));
            return object(std::iter::once(("payload", body.to_owned())).chain(named));
        };
        let fields: Vec<_> = fields.collect();
        if extras.is_empty() && !fields.iter().any(|(name, _)| is_reserved(name)) {
            return self.payload.text().to_owned();
        }
        // A set, because a query can have 1,000 names and a body 100,000 fields.
        let overridden: HashSet<&str> = extras.iter().map(|(name, _)| name.as_str()).collect();
        let kept = fields
            .into_iter()
            .filter(|(name, _)| !is_reserved(name) && !overridden.contains(name))
            .map(|(name, value)| (name, value.to_owned()));
        object(kept.chain(extras.iter().map(|(name, value)| (name.as_str(), quoted(value)))))
    }
}

/// The last value of a name; `None` if that value is empty.
fn last<'a>(
    mut pairs: impl DoubleEndedIterator<Item = &'a (String, String)>,
    name: &str,
) -> Option<&'a str> {
    pairs.rfind(|(field, _)| field == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn object<'a>(fields: impl Iterator<Item = (&'a str, String)>) -> String {
    let fields: Vec<_> = fields.map(|(name, json)| format!("{}:{json}", quoted(name))).collect();
    format!("{{{}}}", fields.join(","))
}
