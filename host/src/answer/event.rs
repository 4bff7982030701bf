//! A task's progress as server-sent events (CONTRACT section 2).

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::Ref;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

use super::approval::ApprovalAnswer;
use super::parsed;
use super::task::TaskDetails;
use crate::access::approval_links::ApprovalLinks;
use crate::approval::Approval;
use crate::clock::Timestamp;
use crate::ids::{TaskId, TenantId};
use crate::tasks::Task;
use crate::trace::log::RunEvent;
use crate::trace::{Event, Step, ToolCall};

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The task was accepted; data is the task.
    TaskCreated,
    /// A worker started the task; data is the task. Again if the model's answer broke off: its text begins anew.
    TaskUpdated,
    /// A tool is called; data is the tool and its arguments.
    ToolCallRequest,
    /// The tool returned; data is the request and its result.
    ToolCallResult,
    /// A person decides whether a tool is called, and the task is paused until then; data is the approval, with links
    /// for the decision. The event has no id, and comes again if the client reconnects meanwhile.
    ApprovalRequest,
    /// A part of the model's text, as it arrives; data is text. What the model writes before it calls a tool comes as
    /// chunks too. The parts since the last event of another kind are, in the end, the answer.
    Chunk,
    /// The task has ended; data is the task. This is the last event.
    TaskFinished,
}

/// One event: the JSON of one `data:` line.
#[derive(Debug, Serialize, ToSchema)]
pub struct TaskEvent {
    #[serde(rename = "type")]
    kind: Kind,
    task_id: TaskId,
    organization_id: TenantId,
    #[schema(format = DateTime)]
    time: String,
    #[schema(value_type = Value)]
    data: Value,
}

/// One server-sent event, as a client receives it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documentation: events are written by the HTTP library")]
pub struct SentEvent {
    #[schema(schema_with = event_as_text)]
    data: String,
}

/// Built by hand: the derive has no attribute for the schema of JSON in a string.
fn event_as_text() -> Object {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some("The JSON of a TaskEvent."))
        .content_media_type("application/json")
        .content_schema(Some(Ref::from_schema_name(<TaskEvent as ToSchema>::name())))
        .build()
}

impl TaskEvent {
    fn new(task: &Task, kind: Kind, at: Timestamp, data: Value) -> Self {
        Self { kind, task_id: task.id, organization_id: task.tenant, time: at.iso(), data }
    }

    /// The event of a task's acceptance. It is the first one.
    #[must_use]
    pub fn created(task: &Task) -> Self {
        let data = json!(TaskDetails::as_created(task));
        Self::new(task, Kind::TaskCreated, task.created_at, data)
    }

    /// The event of a task's start by a worker.
    #[must_use]
    pub fn started(task: &Task) -> Self {
        let at = task.started_at.unwrap_or(task.created_at);
        Self::new(task, Kind::TaskUpdated, at, json!(TaskDetails::as_started(task)))
    }

    /// The event of a task's end. It is the last one.
    #[must_use]
    pub fn finished(task: &Task) -> Self {
        let at = task.finished_at.unwrap_or(task.created_at);
        Self::new(task, Kind::TaskFinished, at, json!(TaskDetails::new(task)))
    }

    /// The event of a moment in the run. `None` for what only the trace contains.
    #[must_use]
    pub fn from_run_event(task: &Task, event: &RunEvent) -> Option<Self> {
        match event {
            RunEvent::AttemptStarted => None,
            RunEvent::ToolCalled { at, call, .. } => {
                Some(Self::new(task, Kind::ToolCallRequest, *at, request(call)))
            }
            RunEvent::TextPart { at, text } => Some(Self::text(task, *at, text)),
            // The text begins anew, as after the task's start.
            RunEvent::TextRestarted => Some(Self::started(task)),
            RunEvent::StepCompleted(step) => Self::of_step(task, step),
        }
    }

    /// The event of a pause for a decision.
    #[must_use]
    pub fn approval(task: &Task, approval: &Approval, links: &ApprovalLinks) -> Self {
        let data = json!(ApprovalAnswer::new(approval, Some(links)));
        Self::new(task, Kind::ApprovalRequest, approval.created_at, data)
    }

    /// The event of a part of the model's text.
    #[must_use]
    pub fn text(task: &Task, at: Timestamp, text: &str) -> Self {
        Self::new(task, Kind::Chunk, at, text.into())
    }

    fn of_step(task: &Task, step: &Step) -> Option<Self> {
        let after = step.at.plus(std::time::Duration::from_micros(step.micros));
        match &step.event {
            Event::Tool { call, result, is_error, .. } => {
                let mut data = request(call);
                if let Some(fields) = data.as_object_mut() {
                    fields.insert("result".to_owned(), parsed(result));
                    fields.insert("is_error".to_owned(), (*is_error).into());
                }
                Some(Self::new(task, Kind::ToolCallResult, after, data))
            }
            _ => None,
        }
    }

    /// Whether this is the last event.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.kind == Kind::TaskFinished
    }
}

fn request(call: &ToolCall) -> Value {
    json!({
        "request_id": call.id,
        "operation_id": call.name,
        "tool_call_id": call.id,
        "tool_name": call.name,
        "payload": parsed(&call.arguments),
    })
}
