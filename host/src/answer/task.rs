//! Tasks in xpander's format: short for `POST /`, complete for the REST surface, and as list items.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::ids::{AgentId, TaskId, TenantId, ThreadId};
use crate::tasks::{Status, Task, TaskSummary, User};

// CONTRACT X20.
/// The task as `POST /` returns it.
#[derive(Debug, Serialize, ToSchema)]
pub struct TaskAnswer<'t> {
    id: TaskId,
    agent_id: AgentId,
    status: Status,
    /// The agent's answer, or the reason of a failure; with `json=true` it can be any JSON value.
    #[schema(value_type = Value)]
    result: Value,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    finished_at: Option<String>,
    /// The entry point: `webhook`, `api`, `sdk` or `mcp`.
    source: &'t str,
    /// How many times a worker has started the task.
    execution_attempts: u32,
}

impl<'t> TaskAnswer<'t> {
    /// Builds the response. With `json`, a result that is JSON is returned as JSON (CONTRACT X12).
    #[must_use]
    pub fn new(task: &'t Task, json: bool) -> Self {
        let result = match &task.result {
            Some(text) if json => {
                serde_json::from_str(text).unwrap_or_else(|_| text.clone().into())
            }
            Some(text) => text.clone().into(),
            None => Value::Null,
        };
        Self {
            id: task.id,
            agent_id: task.agent,
            status: task.status,
            result,
            created_at: task.created_at.iso(),
            finished_at: task.finished_at.map(|at| at.iso()),
            source: &task.source,
            execution_attempts: task.attempts,
        }
    }
}

// CONTRACT section 2.
/// The task as the REST surface returns it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Task)]
pub struct TaskDetails<'t> {
    id: TaskId,
    agent_id: AgentId,
    organization_id: TenantId,
    /// The conversation, if it has a name.
    thread_id: Option<&'t ThreadId>,
    input: InputAnswer<'t>,
    status: Status,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    started_at: Option<String>,
    #[schema(format = DateTime)]
    finished_at: Option<String>,
    /// The agent's answer, or the reason of a failure.
    result: Option<&'t str>,
    /// The entry point: `webhook`, `api`, `sdk` or `mcp`.
    source: &'t str,
    /// How many times a worker has started the task.
    execution_attempts: u32,
    /// Whether the task was stopped on request.
    is_manually_stopped: bool,
    /// The data that was sent with the prompt.
    #[schema(value_type = Option<Object>)]
    payload_extension: Option<&'t RawValue>,
    /// Always true: every task streams its events.
    events_streaming: bool,
    /// Always null: tasks have no titles.
    title: Option<&'t str>,
    /// Always empty: agents do not call other agents.
    #[schema(value_type = Vec<String>)]
    sub_executions: [&'t str; 0],
}

/// The input of an agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TaskInput)]
pub struct InputAnswer<'t> {
    /// The prompt, or the payload if there was no prompt.
    text: &'t str,
    /// Always empty: this version does not accept files.
    #[schema(value_type = Vec<String>)]
    files: [&'t str; 0],
    user: Option<UserAnswer<'t>>,
}

/// The user that a task is for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub struct UserAnswer<'t> {
    id: Option<&'t str>,
    /// Empty if the caller did not send one: the product's SDK rejects a user without it.
    email: &'t str,
    first_name: Option<&'t str>,
    last_name: Option<&'t str>,
}

impl<'t> UserAnswer<'t> {
    /// The user, if the caller sent any of its fields.
    #[must_use]
    pub fn from_user(user: &'t User) -> Option<Self> {
        (!user.is_unknown()).then(|| Self {
            id: user.id.as_deref(),
            email: user.email.as_deref().unwrap_or_default(),
            first_name: user.first_name.as_deref(),
            last_name: user.last_name.as_deref(),
        })
    }
}

impl<'t> TaskDetails<'t> {
    /// Builds the complete task.
    #[must_use]
    pub fn new(task: &'t Task) -> Self {
        let input = &task.input;
        let extension = input.prompt.as_ref().map(|_| input.payload.trim());
        let extension = extension.filter(|json| json.starts_with('{') && *json != "{}");
        Self {
            id: task.id,
            agent_id: task.agent,
            organization_id: task.tenant,
            thread_id: task.thread.as_ref(),
            input: InputAnswer {
                text: input.prompt.as_deref().unwrap_or(&input.payload),
                files: [],
                user: UserAnswer::from_user(&input.user),
            },
            status: task.status,
            created_at: task.created_at.iso(),
            started_at: task.started_at.map(|at| at.iso()),
            finished_at: task.finished_at.map(|at| at.iso()),
            result: task.result.as_deref(),
            source: &task.source,
            execution_attempts: task.attempts,
            is_manually_stopped: task.status == Status::Stopped,
            payload_extension: extension.and_then(|json| serde_json::from_str(json).ok()),
            events_streaming: true,
            title: None,
            sub_executions: [],
        }
    }

    /// Builds the task as it was when it was accepted.
    #[must_use]
    pub fn as_created(task: &'t Task) -> Self {
        Self {
            status: Status::Pending,
            started_at: None,
            finished_at: None,
            result: None,
            execution_attempts: 0,
            is_manually_stopped: false,
            ..Self::new(task)
        }
    }

    /// Builds the task as it was when its run started.
    #[must_use]
    pub fn as_started(task: &'t Task) -> Self {
        Self {
            status: Status::Executing,
            finished_at: None,
            result: None,
            is_manually_stopped: false,
            ..Self::new(task)
        }
    }
}

/// A task in a list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TaskListItem)]
pub struct TaskItem {
    id: TaskId,
    agent_id: AgentId,
    organization_id: TenantId,
    /// The conversation, if it has a name.
    thread_id: Option<ThreadId>,
    /// The caller's own id for the user.
    user_id: Option<String>,
    status: Status,
    /// The beginning of the result, at most 10,000 characters.
    result: Option<String>,
    /// The entry point: `webhook`, `api`, `sdk` or `mcp`.
    source_node_type: String,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    /// Always null: tasks have no titles.
    title: Option<String>,
}

impl TaskItem {
    /// Builds the list item of a tenant's task.
    #[must_use]
    pub fn new(tenant: TenantId, task: TaskSummary) -> Self {
        Self {
            id: task.id,
            agent_id: task.agent,
            organization_id: tenant,
            thread_id: task.thread,
            user_id: task.user_id,
            status: task.status,
            result: task.result,
            source_node_type: task.source,
            created_at: task.created_at.iso(),
            updated_at: task.updated_at.iso(),
            title: None,
        }
    }
}

/// A page of tasks.
#[derive(Debug, Serialize, ToSchema)]
pub struct TaskPage {
    /// Newest first. Pages reach 100,000 tasks deep.
    pub items: Vec<TaskItem>,
    /// The total number of tasks, counted up to 100,000.
    pub total: u64,
    /// The number of this page, from 1.
    pub page: u32,
    /// The maximum number of items per page.
    pub per_page: u32,
    /// The total number of pages.
    pub total_pages: u64,
}
