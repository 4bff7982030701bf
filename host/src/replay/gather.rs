//! Gathers what was recorded of a task's plugin calls.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::{
    CalledWith, Recorded, RecordedCall, RecordedChannel, RecordedOutcome, RecordedRequest,
};
use crate::answer::{getter_of, task::TaskAnswer};
use crate::channel::Channels;
use crate::ids::PluginName;
use crate::intake::{self, PluginParams};
use crate::plugins::Plugins;
use crate::request::stored::StoredHead;
use crate::sandbox::ChannelContext;
use crate::store::{Store, StoreError};
use crate::tasks::{Status, Task};
use crate::trace::{Cost, Event, PluginRun, Step};

/// The maximum bytes of the calls of one task that are returned, and the bytes that a recording counts as.
const CALLS_BYTES_MAX: usize = 16 << 20;
const RECORDING_BYTES: usize = 1 << 20;

/// What plugins did for this task. `with_grants` for callers who may read what plugins are granted.
///
/// # Errors
/// If the store cannot be read.
pub async fn gather(
    store: &Store,
    channels: &Channels,
    plugins: &Plugins,
    task: &Task,
    with_grants: bool,
) -> Result<Recorded, StoreError> {
    let stored = store.request(task.tenant, task.id).await?;
    let channel = match stored.as_ref().and_then(|stored| stored.channel) {
        Some(id) => store.channel(id).await?,
        None => None,
    };
    let channel = match channel {
        Some(channel) => Some(channels.facts(&channel).await?),
        None => None,
    };
    let mut params = PluginParams::default();
    let mut request = None;
    if let Some(stored) = stored
        && let Ok(head) = serde_json::from_str::<StoredHead>(&stored.head)
    {
        let by_channel = stored.channel.is_some();
        let body_base64 = STANDARD.encode(&stored.body);
        params = intake::plugin_params(&head, stored.body, by_channel).await;
        request = Some(RecordedRequest { head, by_channel, body_base64 });
    }
    let steps = store.steps(task).await?;
    let (tools, got): (Vec<_>, Vec<_>) = steps
        .into_iter()
        .filter_map(replayable_call)
        .partition(|call| matches!(call.with, CalledWith::CallTool { .. }));
    let mut calls: Vec<_> = mapping(task, params.spec.take()).into_iter().chain(tools).collect();
    calls.extend(getters(store, task, params, got).await?);
    let truncated = truncate_calls(&mut calls);
    let names: BTreeSet<_> =
        calls.iter().map(|call| &call.plugin).filter(|_| with_grants).cloned().collect();
    let mut grants = BTreeMap::new();
    for name in names {
        // A grants file that cannot be read, or is not in force for the current component, is left out: the replay
        // notes that other grants were in force.
        let text = plugins.grants_text_in_force(task.tenant, &name).await;
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            grants.insert(name, text);
        }
    }
    Ok(Recorded {
        task: task.id,
        tenant: task.tenant,
        agent: task.agent,
        status: task.status,
        accepted_at: task.created_at.iso(),
        request,
        channel: channel.map(|facts| recorded_channel(&facts)),
        grants,
        calls,
        truncated,
    })
}

/// The getter's calls, each with its task: the recorded ones, or the call that the request asks for if none was
/// recorded.
async fn getters(
    store: &Store,
    task: &Task,
    params: PluginParams,
    stored: Vec<RecordedCall>,
) -> Result<Vec<RecordedCall>, StoreError> {
    let answer = serde_json::to_string(&TaskAnswer::new(task, params.json)).unwrap_or_default();
    // A caller may have requested the same path repeatedly: the last call counts.
    let mut paths = BTreeSet::new();
    let mut calls: Vec<_> = stored
        .into_iter()
        .rev()
        .filter_map(|mut call| match &mut call.with {
            CalledWith::GetValue { path, task } if paths.insert(path.clone()) => {
                task.clone_from(&answer);
                Some(call)
            }
            _ => None,
        })
        .collect();
    calls.reverse();
    if let (Some(path), Status::Completed, true) = (params.getter, task.status, calls.is_empty()) {
        let agent = store.agent(task.tenant, task.agent).await?;
        calls.extend(agent.map(|agent| RecordedCall {
            plugin: getter_of(&agent),
            with: CalledWith::GetValue { path, task: answer },
            came: None,
            digest: None,
            settings_digest: None,
            recording: None,
        }));
    }
    Ok(calls)
}

/// A channel as callers see it, with the bindings of its secrets in place of their values.
fn recorded_channel(facts: &ChannelContext) -> RecordedChannel {
    let secrets = facts.secrets.iter();
    RecordedChannel {
        id: facts.id,
        name: facts.name.clone(),
        url: facts.url.clone(),
        settings: facts.settings.clone(),
        secrets: secrets.map(|(name, bound)| (name.clone(), bound.binding().clone())).collect(),
    }
}

/// Leaves out the calls beyond what one answer may hold, and returns whether there were any.
fn truncate_calls(calls: &mut Vec<RecordedCall>) -> bool {
    let mut bytes = 0_usize;
    let fit = calls.iter().take_while(|call| {
        let with = match &call.with {
            CalledWith::MapPayload { spec } => spec.as_ref().map_or(0, String::len),
            CalledWith::CallTool { arguments, .. } => arguments.len(),
            CalledWith::GetValue { task, .. } => task.len(),
        };
        let outcome = match &call.came {
            Some(RecordedOutcome::Ok(text) | RecordedOutcome::Error(text)) => text.len(),
            Some(RecordedOutcome::Nothing) | None => 0,
        };
        let recording = if call.recording.is_some() { RECORDING_BYTES } else { 0 };
        bytes = bytes.saturating_add(with).saturating_add(outcome).saturating_add(recording);
        bytes <= CALLS_BYTES_MAX
    });
    let fit = fit.count();
    let truncated = fit < calls.len();
    calls.truncate(fit);
    truncated
}

/// The trace of a mapping, as `intake` writes it.
#[derive(Deserialize)]
struct MappingTrace {
    plugin: PluginName,
    #[serde(flatten)]
    ran: PluginRun,
    params: Map<String, Value>,
    /// Whether the mapper replaced the payload for the agent. Absent in tasks of earlier versions.
    context: Option<bool>,
    delivery_id: Option<String>,
}

fn mapping(task: &Task, spec: Option<String>) -> Option<RecordedCall> {
    let trace: MappingTrace = serde_json::from_str(task.mapping.as_deref()?).ok()?;
    let payload = RawValue::from_string(task.input.payload.clone()).ok();
    let outcome = MappedThen {
        action: "run",
        params: trace.params,
        context: trace.context.map(|has_context| payload.filter(|_| has_context)),
        delivery_id: trace.context.map(|_| trace.delivery_id),
    };
    let outcome = RecordedOutcome::Ok(serde_json::to_string(&outcome).ok()?);
    let with = CalledWith::MapPayload { spec };
    Some(recorded(trace.plugin, with, outcome, Some(trace.ran)))
}

/// What a mapper decided, as a replay writes it. Tasks of earlier versions hold only part of it.
#[derive(Serialize)]
struct MappedThen {
    action: &'static str,
    params: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<Option<Box<RawValue>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivery_id: Option<Option<String>>,
}

/// What can be replayed of a step: a call of a tool or of a getter. The step does not contain the getter's task.
fn replayable_call(step: Step) -> Option<RecordedCall> {
    match step.event {
        Event::Tool { call, plugin, result, is_error, ran, .. } => {
            let outcome =
                if is_error { RecordedOutcome::Error(result) } else { RecordedOutcome::Ok(result) };
            // A tool without a plugin has nothing to replay.
            let plugin = plugin?.parse().ok()?;
            let with = CalledWith::CallTool { tool: call.name, arguments: call.arguments };
            Some(recorded(plugin, with, outcome, ran.map(|ran| *ran)))
        }
        Event::PluginCall { plugin, path: Some(path), value, error, ran, .. } => {
            let outcome = match (error, value) {
                (Some(why), _) => RecordedOutcome::Error(why),
                (None, Some(value)) => RecordedOutcome::Ok(value),
                (None, None) => RecordedOutcome::Nothing,
            };
            let with = CalledWith::GetValue { path, task: String::new() };
            Some(recorded(plugin.parse().ok()?, with, outcome, Some(*ran)))
        }
        _ => None,
    }
}

fn recorded(
    plugin: PluginName,
    with: CalledWith,
    outcome: RecordedOutcome,
    ran: Option<PluginRun>,
) -> RecordedCall {
    // A call that was refused before it started took no time, and nothing of it can be replayed.
    let ran = ran.filter(|ran| ran.cost != Cost::default());
    let (digest, settings_digest, recording) = match ran {
        Some(ran) => (Some(ran.digest), Some(ran.settings), ran.recording),
        None => (None, None, None),
    };
    RecordedCall { plugin, with, came: Some(outcome), digest, settings_digest, recording }
}
