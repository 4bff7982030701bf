//! Replays one call: the same component or another one, with what the host returned then.

use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{
    CalledWith, Recorded, RecordedCall, RecordedChannel, RecordedOutcome, RecordedRequest,
};
use crate::clock::Timestamp;
use crate::fixture::{Difference, changes, mapped, outcome_of_tool, placeholder};
use crate::ids::RequestId;
use crate::request::{IncomingRequest, Payload};
use crate::sandbox::{
    Binding, BoundSecret, Called, ChannelContext, Cost, HostResponse, PluginError, Recording,
    Script, Subject,
};

/// Why a call cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The request was not stored.
    #[error("the task's request was not kept")]
    NoRequest,
    /// What was stored cannot be read.
    #[error("what was kept cannot be read: {0}")]
    BadRequest(String),
}

/// The result of a replayed call.
#[derive(Debug)]
pub struct ReplayResult {
    /// The outcome.
    pub outcome: RecordedOutcome,
    /// The log lines of the plugin.
    pub logs: Vec<String>,
    /// The cost of the replay.
    pub cost: Cost,
    /// The requests that it sent, as `METHOD URL` and the name of the credential; none of them left the host. Sorted,
    /// since the order in which concurrent requests are recorded is arbitrary.
    sent: Value,
    /// The requests that were sent then.
    sent_then: Value,
    /// The accesses to its values then that did not happen now.
    values_missing: Value,
    /// Caveats of the comparison.
    pub notes: Vec<&'static str>,
}

impl ReplayResult {
    /// The differences from the recorded outcome. Empty if that was not stored.
    #[must_use]
    pub fn changes(&self, call: &RecordedCall) -> Vec<Difference> {
        let Some(then) = &call.came else { return Vec::new() };
        let (mut then, now) = (outcome(then), outcome(&self.outcome));
        // Tasks of earlier versions hold only part of a mapping: what they lack is not compared.
        for field in ["context", "delivery_id"] {
            if let CalledWith::MapPayload { .. } = call.with
                && let Some(then) = then.get_mut("ok").and_then(Value::as_object_mut)
                && let Some(now) = now.get("ok").and_then(|now| now.get(field))
            {
                then.entry(field).or_insert_with(|| now.clone());
            }
        }
        let mut found = changes("", &then, &now);
        found.extend(changes("sent", &self.sent_then, &self.sent));
        found.extend(changes("values", &self.values_missing, &Value::Array(Vec::new())));
        found
    }

    /// The differences between what two plugins returned for the same call.
    #[must_use]
    pub fn changes_since(&self, before: &Self) -> Vec<Difference> {
        changes("", &outcome(&before.outcome), &outcome(&self.outcome))
    }
}

/// An outcome as a JSON value that can be compared.
fn outcome(outcome: &RecordedOutcome) -> Value {
    match outcome {
        RecordedOutcome::Ok(text) => json!({ "ok": outcome_of_tool(text.clone()) }),
        RecordedOutcome::Nothing => json!({ "nothing": true }),
        RecordedOutcome::Error(why) => json!({ "error": why }),
    }
}

/// Replays a call of a task with a plugin.
///
/// # Errors
/// If what the call needs was not stored or cannot be read.
pub async fn play(
    actor: &Arc<Binding>,
    recorded: &Recorded,
    call: &RecordedCall,
) -> Result<ReplayResult, ReplayError> {
    let recording: Recording = match &call.recording {
        Some(recording) => serde_json::from_value(recording.clone()).map_err(unreadable)?,
        None => Recording::default(),
    };
    let mut script = Script::from_recording(&recording);
    if script.wall_clock.is_empty() {
        // The plugin did not read the clock then. If it does now, it gets the time of the task.
        let accepted = Timestamp::parse_rfc3339(&recorded.accepted_at).map(Timestamp::micros);
        let nanos = u64::try_from(accepted.unwrap_or_default()).unwrap_or_default();
        script.wall_clock.push_back(nanos.saturating_mul(1_000));
    }
    let script = Arc::new(Mutex::new(script));
    let mut subject = Subject {
        script: Some(Arc::clone(&script)),
        ..Subject::new(recorded.tenant, recorded.agent, RequestId::next())
    };
    let mut channel = None;
    let (outcome, logs, cost) = match &call.with {
        CalledWith::MapPayload { spec } => {
            let request = recorded.request.as_ref().ok_or(ReplayError::NoRequest)?;
            subject.principal = request.head.principal.as_ref().map(|json| json.to_string().into());
            subject.request = Some(Arc::new(incoming(request).await?));
            let url = request.head.channel_url.as_ref();
            subject.channel = recorded.channel.as_ref().map(|channel| facts(channel, url));
            channel = subject.channel.clone();
            let show = |decided| RecordedOutcome::Ok(mapped(decided).to_string());
            outcome_of(actor.map_payload(subject, spec.clone()).await, show, None)
        }
        CalledWith::CallTool { tool, arguments } => {
            let called = actor.call_tool(subject, tool.clone(), arguments.clone()).await;
            outcome_of(called, RecordedOutcome::Ok, Some(tool))
        }
        CalledWith::GetValue { path, task } => {
            let task = Payload::parse(task.clone().into()).map_err(unreadable)?;
            subject.task = Some(Arc::new(task));
            let show =
                |value: Option<String>| value.map_or(RecordedOutcome::Nothing, RecordedOutcome::Ok);
            outcome_of(actor.get_value(subject, path.clone()).await, show, None)
        }
    };
    let script = script.lock().unwrap_or_else(PoisonError::into_inner);
    let sent =
        script.sent.iter().map(|sent| request_line(&sent.method, &sent.url, &sent.credential));
    let sent_then = recording.answers.iter().filter_map(|answer| match answer {
        HostResponse::Egress(sent) => Some(request_line(&sent.method, &sent.url, &sent.credential)),
        _ => None,
    });
    let left = script.value_answers.iter().flatten().filter_map(|answer| match answer {
        HostResponse::Value { operation, key, .. } => {
            Some(Value::from(format!("{operation} {key}")))
        }
        _ => None,
    });
    let (sent, sent_then, values_missing) = (sorted(sent), sorted(sent_then), left.collect());
    let mut notes = Vec::new();
    if recording.truncated {
        notes.push("it was answered more than was kept: differences may come of that");
    }
    if recording.answers.iter().any(|answer| matches!(answer, HostResponse::Signed)) {
        notes.push("it signed with a secret; what came of that is not kept, so it differs");
    }
    if !script.sent.is_empty() {
        notes.push("of the requests that it sent only method, URL and credential are compared");
    }
    let is_value = |answer: &HostResponse| matches!(answer, HostResponse::Value { .. });
    if recording.answers.iter().any(is_value) {
        notes.push("what it wrote to its values is not compared, only where");
    }
    let settings = actor.settings_digest(channel.as_deref());
    if call.settings_digest.as_ref().is_some_and(|then| *then != settings) {
        notes.push("its settings or grants are not those that it had");
    }
    Ok(ReplayResult { outcome, logs, cost, sent, sent_then, values_missing, notes })
}

fn request_line(method: &str, url: &str, credential: &Option<String>) -> String {
    match credential {
        Some(name) => format!("{method} {url} with {name}"),
        None => format!("{method} {url}"),
    }
}

fn sorted(texts: impl Iterator<Item = String>) -> Value {
    let mut texts: Vec<_> = texts.collect();
    texts.sort_unstable();
    texts.into()
}

/// The outcome of a call in its stored form: an error is a sentence, as the model received it from a tool.
fn outcome_of<T>(
    called: Called<T>,
    show: impl FnOnce(T) -> RecordedOutcome,
    tool: Option<&str>,
) -> (RecordedOutcome, Vec<String>, Cost) {
    let error = |error: PluginError| match tool {
        Some(tool) => format!("{tool}: {error}"),
        None => error.to_string(),
    };
    let outcome = match called.value {
        Ok(value) => show(value),
        Err(failed) => RecordedOutcome::Error(error(failed)),
    };
    (outcome, called.logs, called.run.cost)
}

async fn incoming(request: &RecordedRequest) -> Result<IncomingRequest, ReplayError> {
    let body = STANDARD.decode(&request.body_base64).map_err(unreadable)?;
    Ok(crate::request::stored::restore(&request.head, body.into(), request.by_channel).await)
}

/// The channel as it is now, with the URL that it had then.
fn facts(channel: &RecordedChannel, url: Option<&String>) -> Arc<ChannelContext> {
    let secrets = channel.secrets.iter();
    Arc::new(ChannelContext {
        id: channel.id,
        name: channel.name.clone(),
        url: url.unwrap_or(&channel.url).clone(),
        settings: channel.settings.clone(),
        secrets: secrets
            .map(|(name, binding)| {
                let bound = BoundSecret::new(binding.clone(), Some(placeholder()));
                (name.clone(), bound)
            })
            .collect(),
    })
}

fn unreadable(error: impl std::fmt::Display) -> ReplayError {
    ReplayError::BadRequest(error.to_string())
}
