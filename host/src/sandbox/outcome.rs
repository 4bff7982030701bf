//! Results of plugin calls: the value of the called role or the reason for its absence, and the cost.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::recording::Recording;
use super::refusal::{PluginError, Refusal};
use crate::request::Payload;
use crate::trace::PluginRun;

/// The result of a call.
#[derive(Debug)]
pub struct Called<T> {
    /// The value, or why the call returned none.
    pub value: Result<T, PluginError>,
    /// Log lines of the plugin, and the host's notes among them.
    pub logs: Vec<String>,
    /// Which component ran, under which settings, and at what cost. [`Called::take_run`] adds the recording.
    pub run: PluginRun,
    /// The host's answers that cannot be reproduced, if the plugin asked for any.
    pub recording: Option<Recording>,
    /// Whether the plugin looked for a payload that is missing because the body could not be read as one, and did not
    /// read the body's bytes either.
    pub missed_payload: bool,
}

/// The caller, as identified by a verifier.
#[derive(Debug, Clone, PartialEq)]
pub struct Principal {
    /// The provider's id of the caller.
    pub id: Option<String>,
    /// Further attributes, as JSON.
    pub attributes: Option<serde_json::Value>,
}

/// A mapper's decision.
#[derive(Debug)]
pub enum Mapped {
    /// Run the agent.
    Run {
        /// Parameters and their values.
        params: Vec<(String, String)>,
        /// Replaces the payload in the agent's context.
        context: Option<Payload>,
        /// The provider's id of this delivery.
        delivery_id: Option<String>,
    },
    /// Acknowledge without a run.
    Ignore,
    /// Answer at once without a run.
    Reply(HttpReply),
}

/// A plugin's answer to a request, already validated: a reply that cannot be sent is the plugin's error.
#[derive(Debug)]
pub struct HttpReply {
    /// The status; never informational (1xx).
    pub status: StatusCode,
    /// At most 64 headers. Headers of the connection, and those that only the gateway sets, are excluded.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A problem that a plugin reports in its settings.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Diagnostic {
    /// RFC 6901 pointer into the settings.
    pub pointer: String,
    /// What is wrong, in one sentence.
    pub message: String,
}

impl<T> Called<T> {
    /// The run as the trace stores it. Moves the recording into it.
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

/// The result of a call that did not start.
pub(super) fn not_started<T>(refusal: Refusal) -> Called<T> {
    let value = Err(refusal.into());
    let run = PluginRun::default();
    Called { value, logs: Vec::new(), run, recording: None, missed_payload: false }
}
