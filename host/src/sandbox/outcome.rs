//! What calls of plugins give: a value of the role that was called, or why there is none, and what it cost.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::recording::Recording;
use super::refusal::{PluginError, Refusal};
use crate::request::Payload;
use crate::trace::PluginRun;

/// What a call gave, and what it cost.
#[derive(Debug)]
pub struct Called<T> {
    /// The value, or why there is none.
    pub value: Result<T, PluginError>,
    /// Log lines of the plugin.
    pub logs: Vec<String>,
    /// Which component ran under which settings, and what it cost. Without the recording: see
    /// [`Called::take_run`].
    pub run: PluginRun,
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
    /// What the trace keeps of the call: the run with its recording, which is taken out.
    #[must_use]
    pub fn take_run(&mut self) -> PluginRun {
        let recording = self.recording.take();
        let recording = recording.and_then(|recording| serde_json::to_value(recording).ok());
        PluginRun { recording, ..self.run.clone() }
    }

    pub(super) fn and_then<U>(self, check: impl FnOnce(T) -> Result<U, PluginError>) -> Called<U> {
        let Self { value, logs, run, recording, missed_payload } = self;
        Called { value: value.and_then(check), logs, run, recording, missed_payload }
    }
}

/// A call that did not begin.
pub(super) fn refused<T>(refusal: Refusal) -> Called<T> {
    let value = Err(refusal.into());
    let run = PluginRun::default();
    Called { value, logs: Vec::new(), run, recording: None, missed_payload: false }
}
