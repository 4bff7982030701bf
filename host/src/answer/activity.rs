//! A task's activity log: its messages and tool calls (CONTRACT section 2).

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::parsed;
use super::task::UserAnswer;
use crate::clock::Timestamp;
use crate::tasks::{Status, Task};
use crate::trace::{Event, Step};

/// An activity log.
#[derive(Debug, Serialize, ToSchema)]
pub struct Activity<'t> {
    /// The id of the task, or of the thread it belongs to.
    id: String,
    #[schema(format = DateTime)]
    created_at: String,
    messages: Vec<Entry<'t>>,
    user: Option<UserAnswer<'t>>,
}

/// One entry: a message or a tool call.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Entry<'t> {
    /// A message.
    Message {
        /// Unique within the log.
        id: String,
        /// When it was sent.
        #[schema(format = DateTime)]
        created_at: String,
        /// The sender: the caller or the agent.
        role: Role,
        /// The content.
        content: Content<'t>,
    },
    /// A tool call.
    ToolCall {
        /// Unique within the log.
        id: String,
        /// When the call started.
        #[schema(format = DateTime)]
        created_at: String,
        /// The tool.
        tool_name: &'t str,
        /// The arguments.
        #[schema(value_type = Value)]
        payload: Value,
        /// Whether the result is an error.
        is_error: bool,
        /// The result.
        #[schema(value_type = Value)]
        result: Value,
    },
}

/// The sender of a message.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The caller.
    User,
    /// The agent.
    Agent,
}

/// The content of a message.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MessageContent)]
pub struct Content<'t> {
    text: &'t str,
    #[schema(value_type = Vec<String>)]
    files: [&'t str; 0],
}

impl<'t> Activity<'t> {
    /// Builds the log of one task. It contains the answer if the task has completed.
    #[must_use]
    pub fn new(task: &'t Task, steps: &'t [Step]) -> Self {
        let id = task.thread.as_ref().map_or_else(|| task.id.to_string(), ToString::to_string);
        let message = |role, name: &str, at: Timestamp, text| Entry::Message {
            id: format!("{id}_{name}_{}", task.id),
            created_at: at.iso(),
            role,
            content: Content { text, files: [] },
        };
        let prompt = task.input.prompt.as_deref().unwrap_or(&task.input.payload);
        let mut messages = vec![message(Role::User, "user", task.created_at, prompt)];
        messages.extend(steps.iter().enumerate().filter_map(|(place, step)| match &step.event {
            Event::Tool { call, result, is_error, .. } => Some(Entry::ToolCall {
                id: format!("{}_{place}", task.id),
                created_at: step.at.iso(),
                tool_name: &call.name,
                payload: parsed(&call.arguments),
                is_error: *is_error,
                result: parsed(result),
            }),
            _ => None,
        }));
        if let (Status::Completed, Some(result), Some(at)) =
            (task.status, task.result.as_deref(), task.finished_at)
        {
            messages.push(message(Role::Agent, "agent", at, result));
        }
        Self {
            created_at: task.created_at.iso(),
            messages,
            user: UserAnswer::from_user(&task.input.user),
            id,
        }
    }
}
