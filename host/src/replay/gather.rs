//! What was kept of a task, put together.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{CalledWith, Recorded, RecordedCall, RecordedChannel, RecordedRequest};
use crate::access::channels::Channels;
use crate::answer::{getter_of, task::TaskAnswer};
use crate::call::kept::Head;
use crate::ids::PluginName;
use crate::intake::{self, AroundTheRun};
use crate::plugins::Plugins;
use crate::store::{Store, StoreError};
use crate::tasks::{Status, Task};
use crate::trace::{Event, PluginRun};

/// What plugins did for this task. `with_grants` for whoever may read what plugins are granted.
///
/// # Errors
/// When the store cannot be read.
pub async fn gather(
    store: &Store,
    channels: &Channels,
    plugins: &Plugins,
    task: &Task,
    with_grants: bool,
) -> Result<Recorded, StoreError> {
    let kept = store.request(task.tenant, task.id).await?;
    let channel = match kept.as_ref().and_then(|kept| kept.channel) {
        Some(id) => store.channel(id).await?,
        None => None,
    };
    let channel = match channel {
        Some(channel) => Some(channels.facts(&channel).await?),
        None => None,
    };
    let mut around = AroundTheRun::default();
    let mut request = None;
    if let Some(kept) = kept
        && let Ok(head) = serde_json::from_str::<Head>(&kept.head)
    {
        let by_channel = kept.channel.is_some();
        let body_base64 = STANDARD.encode(&kept.body);
        around = intake::around_the_run(&head, kept.body, by_channel).await;
        request = Some(RecordedRequest { head, by_channel, body_base64 });
    }
    let mut calls: Vec<_> = mapping(task, around.spec).into_iter().collect();
    calls.extend(tool_calls(store.steps(task.tenant, task.id).await?));
    if let (Some(path), Status::Completed) = (around.getter, task.status) {
        let agent = store.agent(task.tenant, task.agent).await?;
        let answer = TaskAnswer::of(task, around.json);
        calls.extend(agent.map(|agent| RecordedCall {
            plugin: getter_of(&agent),
            with: CalledWith::GetValue {
                path,
                task: serde_json::to_string(&answer).unwrap_or_default(),
            },
            came: None,
            digest: None,
            settings_digest: None,
            recording: None,
        }));
    }
    let names: BTreeSet<_> =
        calls.iter().map(|call| &call.plugin).filter(|_| with_grants).cloned().collect();
    let grants = names.into_iter().filter_map(|name| {
        // A file that cannot be read is none here: the replay says that other grants were in force.
        let text = plugins.grants_text(task.tenant, &name).ok()?;
        (!text.is_empty()).then_some((name, text))
    });
    Ok(Recorded {
        task: task.id,
        tenant: task.tenant,
        agent: task.agent,
        accepted_at: task.created_at.iso(),
        request,
        channel: channel.map(|facts| RecordedChannel {
            id: facts.id,
            name: facts.name.clone(),
            url: facts.url.clone(),
            settings: facts.settings.clone(),
            secrets: facts
                .secrets
                .iter()
                .map(|(name, (secret, _))| (name.clone(), secret.clone()))
                .collect(),
        }),
        grants: grants.collect::<BTreeMap<_, _>>(),
        calls,
    })
}

/// What the trace keeps of a mapping, as `intake` writes it.
#[derive(Deserialize)]
struct MappingTrace {
    plugin: PluginName,
    #[serde(flatten)]
    ran: PluginRun,
    params: Map<String, Value>,
    /// Whether the mapper gave the agent something in the place of the payload. Tasks of earlier versions
    /// do not say.
    context: Option<bool>,
    delivery_id: Option<Value>,
}

fn mapping(task: &Task, spec: Option<String>) -> Option<RecordedCall> {
    let trace: MappingTrace = serde_json::from_str(task.mapping.as_deref()?).ok()?;
    let came = match trace.context {
        None => json!({ "action": "run", "params": trace.params }),
        Some(has_context) => json!({
            "action": "run",
            "params": trace.params,
            "context": has_context
                .then(|| serde_json::from_str(&task.input.payload).unwrap_or(Value::Null)),
            "delivery_id": trace.delivery_id,
        }),
    };
    let with = CalledWith::MapPayload { spec };
    Some(recorded(trace.plugin, with, json!({ "ok": came }), Some(trace.ran)))
}

fn tool_calls(steps: Vec<crate::trace::Step>) -> impl Iterator<Item = RecordedCall> {
    steps.into_iter().filter_map(|step| {
        let Event::Tool { call, plugin, result, is_error, ran, .. } = step.event else {
            return None;
        };
        let came = if is_error {
            json!({ "error": result })
        } else {
            json!({ "ok": serde_json::from_str(&result).unwrap_or(Value::String(result)) })
        };
        // A tool of no plugin has nothing to be played.
        let plugin = plugin?.parse().ok()?;
        let with = CalledWith::CallTool { tool: call.name, arguments: call.arguments };
        Some(recorded(plugin, with, came, ran.map(|ran| *ran)))
    })
}

fn recorded(
    plugin: PluginName,
    with: CalledWith,
    came: Value,
    ran: Option<PluginRun>,
) -> RecordedCall {
    let (digest, settings_digest, recording) = match ran {
        Some(ran) => (Some(ran.digest), Some(ran.settings), ran.recording),
        None => (None, None, None),
    };
    RecordedCall { plugin, with, came: Some(came), digest, settings_digest, recording }
}
