//! Shapes a task into what callers see: xpander's objects, a getter's value, DocsGPT's envelope, and events.

pub mod activity;
pub mod agent;
pub mod approval;
pub mod docsgpt;
pub mod event;
mod post_run;
pub mod task;
pub mod thread;

use std::sync::Arc;

use serde_json::Value;

use crate::ids::{PluginName, RequestId};
use crate::plugins::{PluginUnavailable, Plugins};
use crate::request::Payload;
use crate::request::ResponseOptions;
use crate::sandbox::{PluginError, Subject};
use crate::tasks::{Status, Task};
use crate::tenants::Agent;
use crate::trace::Event;
pub use post_run::{PostRunRecorder, plugin_call_event};
use task::TaskAnswer;

/// The bundled plugin that implements the documented `getter`.
const DOT_GETTER: &str = "dot-getter";

/// How much of a path an error message repeats, in characters.
const SHOWN_PATH_CHARS_MAX: usize = 80;

/// Why a task cannot be turned into a response.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The getter found nothing at its path: 404 (CONTRACT X11).
    #[error("there is nothing at {0} in the answer")]
    PathNotFound(String),
    /// The getter plugin failed, or was stopped.
    #[error("plugin {0}: {1}")]
    Plugin(PluginName, PluginError),
    /// The getter plugin is not available.
    #[error(transparent)]
    Unavailable(#[from] PluginUnavailable),
}

/// Builds the response for a synchronous caller of `POST /`, as JSON text.
///
/// # Errors
/// [`AnswerError`]; the task itself stays completed.
pub async fn shape(
    plugins: &Plugins,
    post_run: &PostRunRecorder,
    agent: &Agent,
    task: &Task,
    options: &ResponseOptions,
    request_id: RequestId,
) -> Result<String, AnswerError> {
    let whole = TaskAnswer::new(task, options.json);
    let whole = serde_json::to_string(&whole).unwrap_or_default();
    let Some(path) = options.getter.as_ref().filter(|_| task.status == Status::Completed) else {
        return Ok(whole);
    };
    let name = getter_of(agent);
    let binding = plugins.binding(agent.tenant, &name).await?;
    let subject = Subject {
        // The text was just serialized, so it is valid JSON.
        task: Payload::parse(whole.into()).ok().map(Arc::new),
        ..Subject::new(agent.tenant, agent.id, request_id)
    };
    let mut called = binding.get_value(subject, path.clone()).await;
    let mut step = plugin_call_event("get-value", &binding, &mut called);
    if let Event::PluginCall { path: requested, value, .. } = &mut step {
        *requested = Some(path.clone());
        value.clone_from(called.value.as_ref().ok().unwrap_or(&None));
    }
    post_run.record_in_background(task.tenant, task.id, step);
    match called.value {
        Ok(Some(value)) => Ok(value),
        Ok(None) => {
            Err(AnswerError::PathNotFound(path.chars().take(SHOWN_PATH_CHARS_MAX).collect()))
        }
        Err(error) => Err(AnswerError::Plugin(name, error)),
    }
}

/// The plugin that evaluates `getter` for this agent.
#[must_use]
pub fn getter_of(agent: &Agent) -> PluginName {
    agent.definition.getter.clone().unwrap_or_else(|| PluginName::constant(DOT_GETTER))
}

/// The subject of a plugin call about a task: the task as its caller would see it.
#[must_use]
pub fn task_subject(agent: &Agent, task: &Task, request_id: RequestId) -> Subject {
    let whole = serde_json::to_string(&TaskAnswer::new(task, false)).unwrap_or_default();
    Subject {
        task: Payload::parse(whole.into()).ok().map(Arc::new),
        ..Subject::new(agent.tenant, agent.id, request_id)
    }
}

/// Parses JSON text. A text that is not JSON becomes a string.
fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}
