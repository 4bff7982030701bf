//! Lists, reads, updates, stops and deletes tasks, and returns what happened in them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::super::error::ApiError;
use super::super::extract::{PathParams, QueryParams, TenantAuth};
use super::super::reply::json;
use super::super::reply::json_answer;
use super::super::responses::{ReadErrors, WriteErrors};
use super::{RestState, find, page};
use crate::answer;
use crate::answer::activity::Activity;
use crate::answer::task::{TaskDetails, TaskItem, TaskPage};
use crate::ids::{AgentId, TenantId};
use crate::runs::{Runs, STOPPED};
use crate::store::Store;
use crate::tasks::{EndStatus, Outcome, Slice, Status, Task, TaskFilter};

/// Filters a list of tasks, and selects a page of it.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct TasksQuery {
    /// The number of the page, from 1 (the default).
    #[param(minimum = 1)]
    page: Option<u32>,
    /// The most items on a page; 20 by default.
    #[param(minimum = 1, maximum = 100)]
    per_page: Option<u32>,
    /// Only tasks of this agent.
    agent_id: Option<String>,
    /// Only tasks for this user, by the id that the caller sent.
    user_id: Option<String>,
    /// Only tasks with this status.
    #[param(inline)]
    status: Option<Status>,
}

/// List the tasks of the key's organization, newest first.
#[utoipa::path(get, path = "/v1/tasks",
    operation_id = "list_tasks", tag = "tasks", params(TasksQuery),
    responses((status = 200, body = TaskPage), ReadErrors), security(("api_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    QueryParams(query): QueryParams<TasksQuery>,
) -> Result<Response, ApiError> {
    let page = list_page(&state.store, tenant.tenant(), query).await?;
    Ok(json(StatusCode::OK, &page))
}

/// Returns a page of a tenant's tasks.
pub(in super::super) async fn list_page(
    store: &Store,
    tenant: TenantId,
    query: TasksQuery,
) -> Result<TaskPage, ApiError> {
    let (page, per_page) = page(query.page, query.per_page)?;
    let total_of = |items: Vec<TaskItem>, total: u64| TaskPage {
        items,
        total,
        page,
        per_page,
        total_pages: total.div_ceil(per_page.into()),
    };
    let agent = match query.agent_id.filter(|id| !id.is_empty()).map(|id| id.parse()) {
        None => None,
        Some(Ok(agent)) => Some(agent),
        // A text that cannot be an agent's id matches no task.
        Some(Err(_)) => return Ok(total_of(Vec::new(), 0)),
    };
    let user = query.user_id.filter(|id| !id.is_empty());
    let filter = TaskFilter { agent, user, status: query.status };
    let slice = Slice { offset: (page - 1).saturating_mul(per_page), limit: per_page };
    let (tasks, total) = store.list_tasks(tenant, &filter, slice).await?;
    Ok(total_of(tasks.into_iter().map(|task| TaskItem::new(tenant, task)).collect(), total))
}

/// List the newest tasks of an agent as a plain array.
///
/// This is the format that xpander's SDK expects.
#[utoipa::path(get, path = "/agent-execution/executions/history/{agent}",
    operation_id = "list_tasks_of_agent", tag = "aliases",
    params(("agent" = String, Path, description = "The agent's id"), TasksQuery),
    responses((status = 200, body = Vec<TaskItem>), ReadErrors), security(("api_key" = [])))]
pub(super) async fn history(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    path_params: PathParams,
    QueryParams(query): QueryParams<TasksQuery>,
) -> Result<Response, ApiError> {
    let agent: AgentId = path_params.id("agent", "Agent")?;
    let known = state.store.agent(tenant.tenant(), agent).await?;
    known.ok_or_else(|| ApiError::not_found("Agent"))?;
    let query = TasksQuery { agent_id: Some(agent.to_string()), ..query };
    let page = list_page(&state.store, tenant.tenant(), query).await?;
    Ok(json(StatusCode::OK, &page.items))
}

/// Read a task.
///
/// The name of a thread in place of an id means the newest task of that thread.
#[utoipa::path(get, path = "/v1/tasks/{id}",
    operation_id = "read_task", tag = "tasks",
    params(("id" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = TaskDetails), ReadErrors), security(("api_key" = [])))]
pub(super) async fn read(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let task = find(&state.store, tenant.tenant(), path_params.text("id")).await?;
    Ok(json(StatusCode::OK, &TaskDetails::new(&task)))
}

/// Stop a task.
///
/// Its run ends at its current step, even during a tool call. A task that has ended does not change.
#[utoipa::path(post, path = "/v1/tasks/{id}/stop",
    operation_id = "stop_task", tag = "tasks",
    params(("id" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = TaskDetails, description = "The task in its current state."), ReadErrors),
    security(("api_key" = [])))]
pub(super) async fn stop(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    stop_named(&state.store, &state.runs, tenant.tenant(), path_params.text("id")).await
}

/// Stops a task of a tenant.
pub(in super::super) async fn stop_named(
    store: &Store,
    runs: &Runs,
    tenant: TenantId,
    name: Option<&str>,
) -> Result<Response, ApiError> {
    let task = find(store, tenant, name).await?;
    let stopped = Outcome { status: EndStatus::Stopped, result: STOPPED.to_owned() };
    let task = end(runs, &task, stopped).await?;
    Ok(json(StatusCode::OK, &TaskDetails::new(&task)))
}

/// Delete a task with all its data, including its idempotency key.
///
/// A run that is in progress is stopped first.
#[utoipa::path(delete, path = "/v1/tasks/{id}",
    operation_id = "delete_task", tag = "tasks",
    params(("id" = String, Path, description = "The task's id; the name of a thread will not do")),
    responses((status = 204, description = "Deleted."), ReadErrors), security(("api_key" = [])))]
pub(super) async fn remove(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    remove_named(&state.runs, tenant.tenant(), path_params.text("id")).await
}

/// Deletes a task of a tenant.
pub(in super::super) async fn remove_named(
    runs: &Runs,
    tenant: TenantId,
    name: Option<&str>,
) -> Result<Response, ApiError> {
    // By id only: with the name of a thread, a repeated request would delete the previous turn.
    let id = name.and_then(|name| name.parse().ok()).ok_or_else(|| ApiError::not_found("Task"))?;
    match runs.delete(tenant, id).await? {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(ApiError::not_found("Task")),
    }
}

/// Read what happened in a task, as messages.
///
/// They include every step of the task's trace.
#[utoipa::path(get, path = "/v1/tasks/{id}/thread",
    operation_id = "read_thread", tag = "tasks",
    params(("id" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = Vec<Object>), ReadErrors), security(("api_key" = [])))]
pub(super) async fn thread(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let messages = messages(&state.store, tenant.tenant(), &path_params).await?;
    Ok(json_answer(StatusCode::OK, messages.to_string()))
}

/// The messages of a task and of its subtasks.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documentation: the answer is written as JSON")]
pub(super) struct WholeThread {
    /// The messages of the task itself. There are no subtasks, since agents do not call agents.
    #[schema(value_type = Vec<Object>)]
    root: Vec<Value>,
}

/// Read what happened in a task, as messages, in the format that has room for subtasks.
#[utoipa::path(get, path = "/v1/tasks/{id}/thread/full",
    operation_id = "read_whole_thread", tag = "tasks",
    params(("id" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = WholeThread), ReadErrors), security(("api_key" = [])))]
pub(super) async fn full_thread(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let messages = messages(&state.store, tenant.tenant(), &path_params).await?;
    Ok(json_answer(StatusCode::OK, json!({"root": messages}).to_string()))
}

/// Read the activity log of a task, in the format that xpander's SDK expects.
#[utoipa::path(get, path = "/activity/{agent}/{task}",
    operation_id = "read_activity", tag = "tasks",
    params(("agent" = String, Path, description = "The agent's id"),
           ("task" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = Activity), ReadErrors), security(("api_key" = [])))]
pub(super) async fn activity(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let agent: AgentId = path_params.id("agent", "Task")?;
    let task = find(&state.store, tenant.tenant(), path_params.text("task")).await?;
    if task.agent != agent {
        return Err(ApiError::not_found("Task"));
    }
    let steps = state.store.steps(&task).await?;
    Ok(json(StatusCode::OK, &Activity::new(&task, &steps)))
}

/// An update of a task. Other fields of a task may be sent too, and are ignored.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct Update {
    /// The new status: a final one, or the current one.
    #[serde(default)]
    status: Option<Status>,
    /// The result that belongs to a final status. Required for `completed`.
    #[serde(default)]
    result: Option<String>,
}

/// End a task from outside.
///
/// An end is final: if the task has already ended otherwise, the response is 409.
#[utoipa::path(patch, path = "/agent-execution/{id}/update",
    operation_id = "update_task", tag = "tasks",
    params(("id" = String, Path, description = "The task's id, or its thread's name")),
    request_body = Update,
    responses((status = 200, body = TaskDetails, description = "The task in its current state."), WriteErrors),
    security(("api_key" = [])))]
pub(super) async fn update(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let task = find(&state.store, tenant.tenant(), path_params.text("id")).await?;
    let update: Update = state.bodies.read_typed(request).await?;
    let end_status = match update.status {
        None => None,
        Some(Status::Completed) => Some(EndStatus::Completed),
        Some(Status::Failed) => Some(EndStatus::Failed),
        Some(Status::Error) => Some(EndStatus::Error),
        Some(Status::Stopped) => Some(EndStatus::Stopped),
        Some(status) if status == task.status => None,
        Some(status) => {
            return Err(ApiError::caller(409, format!("a task becomes {status} by itself only")));
        }
    };
    let Some(end_status) = end_status else {
        return Ok(json(StatusCode::OK, &TaskDetails::new(&task)));
    };
    let result = match (update.result, end_status) {
        (Some(result), _) => result,
        (None, _) if task.status.is_final() => task.result.clone().unwrap_or_default(),
        (None, EndStatus::Completed) => {
            return Err(ApiError::caller(422, "what is completed has a result"));
        }
        (None, EndStatus::Stopped) => STOPPED.to_owned(),
        (None, EndStatus::Failed | EndStatus::Error) => "ended from outside".to_owned(),
    };
    let outcome = Outcome { status: end_status, result };
    let now = end(&state.runs, &task, outcome.clone()).await?;
    if now.status != Status::from(outcome.status) || now.result != Some(outcome.result) {
        return Err(ApiError::caller(409, format!("the task has ended already: {}", now.status)));
    }
    Ok(json(StatusCode::OK, &TaskDetails::new(&now)))
}

/// Ends a task unless it has already ended, and returns it as it is then.
async fn end(runs: &Runs, task: &Task, outcome: Outcome) -> Result<Task, ApiError> {
    let ended = runs.end(task.tenant, task.id, outcome).await?;
    ended.ok_or_else(|| ApiError::not_found("Task"))
}

async fn messages(
    store: &Store,
    tenant: TenantId,
    path_params: &PathParams,
) -> Result<Value, ApiError> {
    let task = find(store, tenant, path_params.text("id")).await?;
    let steps = store.steps(&task).await?;
    Ok(answer::thread::thread(&task, &steps))
}
