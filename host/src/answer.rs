//! From a task to what a caller sees: xpander's object, a getter's value, DocsGPT's envelope.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::call::Payload;
use crate::ids::{PluginName, RequestId};
use crate::intake::AnswerWanted;
use crate::plugins::{PluginUnavailable, Plugins};
use crate::sandbox::{PluginError, Subject};
use crate::tasks::{Status, Task};
use crate::tenants::Agent;
use crate::trace::{Event, Step};

/// The bundled plugin that knows the documented `getter`.
const DOT_GETTER: &str = "dot-getter";

/// How much of a path an error repeats, in characters.
const SHOWN_PATH_CHARS_MAX: usize = 80;

/// Why there is no answer though there is a task.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The getter found nothing at its path: 404 (CONTRACT X11).
    #[error("there is nothing at {0} in the answer")]
    NothingThere(String),
    /// The getter plugin said no, or was stopped.
    #[error("plugin {0}: {1}")]
    Plugin(PluginName, PluginError),
    /// The getter plugin cannot be had.
    #[error(transparent)]
    Unavailable(#[from] PluginUnavailable),
}

/// The task as `POST /` answers it (CONTRACT X20); with `json` its result as JSON where it is JSON
/// (CONTRACT X12).
#[must_use]
pub fn task_object(task: &Task, json: bool) -> Value {
    let result = match &task.result {
        Some(text) if json => serde_json::from_str(text).unwrap_or_else(|_| text.clone().into()),
        Some(text) => text.clone().into(),
        None => Value::Null,
    };
    json!({
        "id": task.id,
        "agent_id": task.agent,
        "status": task.status.as_str(),
        "result": result,
        "created_at": task.created_at.iso(),
        "finished_at": task.finished_at.map(|at| at.iso()),
        "source": task.source,
        "execution_attempts": task.attempts,
    })
}

/// The task as `GET /v1/tasks/{id}` answers it: the same and what it was given (CONTRACT section 2).
#[must_use]
pub fn task_details(task: &Task) -> Value {
    let mut object = task_object(task, false);
    if let Some(fields) = object.as_object_mut() {
        let text = task.input.prompt.clone().unwrap_or_else(|| task.input.payload.clone());
        let user = (!task.input.user.is_unknown()).then(|| json!(task.input.user));
        fields.insert("organization_id".to_owned(), json!(task.tenant));
        fields.insert("thread_id".to_owned(), json!(task.thread));
        fields.insert("input".to_owned(), json!({"text": text, "files": [], "user": user}));
        fields.insert("started_at".to_owned(), json!(task.started_at.map(|at| at.iso())));
    }
    object
}

/// What a synchronous caller of `POST /` is answered, as JSON text.
///
/// # Errors
/// [`AnswerError`]; the task itself is done and stays so.
pub async fn shape(
    plugins: &Plugins,
    agent: &Agent,
    task: &Task,
    wanted: &AnswerWanted,
    request_id: RequestId,
) -> Result<String, AnswerError> {
    let whole = task_object(task, wanted.json).to_string();
    let Some(path) = wanted.getter.as_ref().filter(|_| task.status == Status::Completed) else {
        return Ok(whole);
    };
    let name = agent.definition.getter.clone().unwrap_or_else(|| PluginName::constant(DOT_GETTER));
    let binding = plugins.binding(agent.tenant, &name).await?;
    let subject = Subject {
        request_id,
        tenant: agent.tenant,
        agent: agent.id,
        request: None,
        // What was just written is JSON.
        task: Payload::parse(whole.into()).ok().map(Arc::new),
    };
    match binding.get_value(subject, path.clone()).await.value {
        Ok(Some(value)) => Ok(value),
        Ok(None) => {
            Err(AnswerError::NothingThere(path.chars().take(SHOWN_PATH_CHARS_MAX).collect()))
        }
        Err(error) => Err(AnswerError::Plugin(name, error)),
    }
}

/// What `GET /api/task_status` answers (CONTRACT D4). A task that does not exist reads as pending.
#[must_use]
pub fn task_status(task: Option<&(Task, Vec<Step>)>) -> Value {
    let Some((task, steps)) = task else {
        return json!({"status": "PENDING", "result": null});
    };
    match task.status {
        Status::Pending => json!({"status": "PENDING", "result": null}),
        Status::Executing | Status::Paused => json!({"status": "STARTED", "result": null}),
        Status::Completed => json!({
            "status": "SUCCESS",
            "result": {
                "status": "success",
                "result": {
                    "answer": task.result,
                    "sources": [],
                    "tool_calls": steps.iter().filter_map(docsgpt_tool_call).collect::<Vec<_>>(),
                    "thought": "",
                },
            },
        }),
        Status::Failed | Status::Error | Status::Stopped => {
            let reason = task.result.as_deref().unwrap_or(task.status.as_str());
            json!({"status": "FAILURE", "result": reason})
        }
    }
}

fn docsgpt_tool_call(step: &Step) -> Option<Value> {
    let Event::Tool { call, plugin, result, is_error, .. } = &step.event else {
        return None;
    };
    Some(json!({
        "tool_name": plugin,
        "action_name": call.name,
        "call_id": call.id,
        "arguments": parsed(&call.arguments),
        "result": parsed(result),
        "status": if *is_error { "error" } else { "completed" },
    }))
}

/// What `GET /v1/tasks/{id}/thread` answers: the run as messages, every step of the trace among them.
#[must_use]
pub fn thread(task: &Task, steps: &[Step]) -> Value {
    let mapping = task.mapping.iter().map(|mapping| {
        json!({
            "id": format!("{}_mapping", task.id),
            "role": "system",
            "content": "the payload was mapped",
            "created_at": task.created_at.seconds(),
            "mapping": parsed(mapping),
        })
    });
    let messages = steps.iter().enumerate().map(|(place, step)| {
        let mut message = message(&step.event);
        if let Some(fields) = message.as_object_mut() {
            fields.insert("id".to_owned(), format!("{}_{place}", task.id).into());
            fields.insert("created_at".to_owned(), step.at.seconds().into());
            let metrics = fields.entry("metrics").or_insert_with(|| json!({}));
            if let Some(metrics) = metrics.as_object_mut() {
                metrics.insert("duration_us".to_owned(), step.micros.into());
            }
        }
        message
    });
    mapping.chain(messages).collect()
}

fn message(event: &Event) -> Value {
    match event {
        Event::Prompt { text } => json!({"role": "user", "content": text}),
        Event::Model { model, text, tool_calls, input_tokens, output_tokens } => json!({
            "role": "assistant",
            "content": text,
            "model": model,
            "tool_calls": tool_calls
                .iter()
                .map(|call| json!({"id": call.id, "name": call.name, "arguments": parsed(&call.arguments)}))
                .collect::<Vec<_>>(),
            "metrics": {"input_tokens": input_tokens, "output_tokens": output_tokens},
        }),
        Event::Tool { call, plugin, result, is_error, logs } => json!({
            "role": "tool",
            "tool_call_id": call.id,
            "tool_name": call.name,
            "plugin": plugin,
            "arguments": parsed(&call.arguments),
            "content": parsed(result),
            "is_error": is_error,
            "logs": logs,
        }),
        Event::Failure { reason } => json!({"role": "system", "content": reason, "is_error": true}),
    }
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}
