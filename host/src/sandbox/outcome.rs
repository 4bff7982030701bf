//! What calls of plugins give: a value of the role that was called, or why there is none, and what it cost.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::account::Cost;
use super::journal::Recording;
use super::refusal::{PluginError, Refusal};
use crate::request::Payload;

/// What a call gave, and what it cost.
#[derive(Debug)]
pub struct Called<T> {
    /// The value, or why there is none.
    pub value: Result<T, PluginError>,
    /// Log lines of the plugin.
    pub logs: Vec<String>,
    /// What it cost.
    pub cost: Cost,
    /// What the host answered that could not be had again, where it was asked for such.
    pub recording: Option<Recording>,
    /// Whether it looked for a payload that is not there, since the body could not be read, and at nothing else of it.
    pub missed_payload: bool,
}

/// Who called, as a verifier says.
#[derive(Debug, Clone, PartialEq)]
pub struct Principal {
    /// The provider's own id of it.
    pub id: Option<String>,
    /// Anything else, as JSON.
    pub attributes: Option<serde_json::Value>,
}

/// What a mapper decided.
#[derive(Debug)]
pub enum Mapped {
    /// Run the agent with these.
    Run {
        /// Targets and values.
        params: Vec<(String, String)>,
        /// What takes the place of the payload in the agent's context.
        context: Option<Payload>,
        /// The provider's own id of this delivery.
        delivery_id: Option<String>,
    },
    /// Acknowledge, run nothing.
    Ignore,
    /// Answer at once, run nothing.
    Reply(HttpReply),
}

/// A plugin's own answer to a request. It can be sent: the plugin is to blame for one that cannot.
#[derive(Debug)]
pub struct HttpReply {
    /// Not an informational one.
    pub status: StatusCode,
    /// At most 64, none of which is the connection's or the gateway's.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Something that a plugin finds wrong with its settings.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Diagnostic {
    /// RFC 6901 pointer into the settings.
    pub pointer: String,
    /// One sentence.
    pub message: String,
}

impl<T> Called<T> {
    pub(super) fn and_then<U>(self, check: impl FnOnce(T) -> Result<U, PluginError>) -> Called<U> {
        let Self { value, logs, cost, recording, missed_payload } = self;
        Called { value: value.and_then(check), logs, cost, recording, missed_payload }
    }
}

/// A call of a role that the component does not have.
pub(super) fn no_role<T>(role: &'static str) -> Called<T> {
    refused(Refusal::NoSuchRole { role })
}

/// A call that did not begin.
pub(super) fn refused<T>(refusal: Refusal) -> Called<T> {
    let cost = Cost::default();
    let value = Err(refusal.into());
    Called { value, logs: Vec::new(), cost, recording: None, missed_payload: false }
}
