//! Tasks: listing, reading, stopping, deleting, and what happened in them.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{Request, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::super::error::ApiError;
use super::super::extract::{ByKey, Named, QueryParams};
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

/// Which tasks, and which page of them.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(in super::super) struct TasksQuery {
    /// From 1.
    #[param(minimum = 1)]
    page: Option<u32>,
    /// Most items of a page.
    #[param(minimum = 1, maximum = 100)]
    per_page: Option<u32>,
    /// Tasks of this agent.
    agent_id: Option<String>,
    /// Tasks for this user, by the caller's own id of him.
    user_id: Option<String>,
    /// Tasks of this status.
    #[param(inline)]
    status: Option<Status>,
}

/// The tasks of the key's organization, newest first.
#[utoipa::path(get, path = "/v1/tasks",
    operation_id = "list_tasks", tag = "tasks", params(TasksQuery),
    responses((status = 200, body = TaskPage), ReadErrors), security(("api_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<RestState>>,
    ByKey(tenant): ByKey,
    QueryParams(query): QueryParams<TasksQuery>,
) -> Result<Response, ApiError> {
    let page = list_page(&state.store, tenant.tenant(), query).await?;
    Ok(json(StatusCode::OK, &page))
}

/// A page of a tenant's tasks.
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
        // No task is of an agent that cannot exist.
        Some(Err(_)) => return Ok(total_of(Vec::new(), 0)),
    };
    let user = query.user_id.filter(|id| !id.is_empty());
    let filter = TaskFilter { agent, user, status: query.status };
    let slice = Slice { offset: (page - 1).saturating_mul(per_page), limit: per_page };
    let (tasks, total) = store.list_tasks(tenant, &filter, slice).await?;
    Ok(total_of(tasks.into_iter().map(|task| TaskItem::of(tenant, task)).collect(), total))
}

/// The newest tasks of an agent as an array, as the product's SDK lists them.
#[utoipa::path(get, path = "/agent-execution/executions/history/{agent}",
    operation_id = "list_tasks_of_agent", tag = "aliases",
    params(("agent" = String, Path, description = "The agent's id"), TasksQuery),
    responses((status = 200, body = Vec<TaskItem>), ReadErrors), security(("api_key" = [])))]
pub(super) async fn history(
    State(state): State<Arc<RestState>>,
    ByKey(tenant): ByKey,
    named: Named,
    QueryParams(query): QueryParams<TasksQuery>,
) -> Result<Response, ApiError> {
    let agent: AgentId = named.id("agent", "Agent")?;
    let known = state.store.agent(tenant.tenant(), agent).await?;
    known.ok_or_else(|| ApiError::not_found("Agent"))?;
    let query = TasksQuery { agent_id: Some(agent.to_string()), ..query };
    let page = list_page(&state.store, tenant.tenant(), query).await?;
    Ok(json(StatusCode::OK, &page.items))
}

/// A task. In place of its id the name of a thread will do: its newest task is meant then.
#[utoipa::path(get, path = "/v1/tasks/{id}",
    operation_id = "read_task", tag = "tasks",
    params(("id" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = TaskDetails), ReadErrors), security(("api_key" = [])))]
pub(super) async fn read(
    State(state): State<Arc<RestState>>,
    ByKey(tenant): ByKey,
    named: Named,
) -> Result<Response, ApiError> {
    let task = find(&state.store, tenant.tenant(), named.text("id")).await?;
    Ok(json(StatusCode::OK, &TaskDetails::of(&task)))
}

/// Stops a task: its run ends where it stands, a tool call included. One that has ended stays as it is.
#[utoipa::path(post, path = "/v1/tasks/{id}/stop",
    operation_id = "stop_task", tag = "tasks",
    params(("id" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = TaskDetails, description = "The task as it is now"), ReadErrors),
    security(("api_key" = [])))]
pub(super) async fn stop(
    State(state): State<Arc<RestState>>,
    ByKey(tenant): ByKey,
    named: Named,
) -> Result<Response, ApiError> {
    stop_named(&state.store, &state.runs, tenant.tenant(), named.text("id")).await
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
    Ok(json(StatusCode::OK, &TaskDetails::of(&task)))
}

/// Deletes a task with everything that belongs to it, its idempotency key included. A run is stopped
/// first.
#[utoipa::path(delete, path = "/v1/tasks/{id}",
    operation_id = "delete_task", tag = "tasks",
    params(("id" = String, Path, description = "The task's id; the name of a thread will not do")),
    responses((status = 204, description = "It is gone"), ReadErrors), security(("api_key" = [])))]
pub(super) async fn remove(
    State(state): State<Arc<RestState>>,
    ByKey(tenant): ByKey,
    named: Named,
) -> Result<Response, ApiError> {
    remove_named(&state.runs, tenant.tenant(), named.text("id")).await
}

/// Deletes a task of a tenant.
pub(in super::super) async fn remove_named(
    runs: &Runs,
    tenant: TenantId,
    name: Option<&str>,
) -> Result<Response, ApiError> {
    // By its id alone: the same request again must not delete the turn before.
    let id = name.and_then(|name| name.parse().ok()).ok_or_else(|| ApiError::not_found("Task"))?;
    match runs.delete(tenant, id).await? {
        true => Ok(StatusCode::NO_CONTENT.into_response()),
        false => Err(ApiError::not_found("Task")),
    }
}

/// What happened in a task, as messages; every step of its trace is among them.
#[utoipa::path(get, path = "/v1/tasks/{id}/thread",
    operation_id = "read_thread", tag = "tasks",
    params(("id" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = Vec<Object>), ReadErrors), security(("api_key" = [])))]
pub(super) async fn thread(
    State(state): State<Arc<RestState>>,
    ByKey(tenant): ByKey,
    named: Named,
) -> Result<Response, ApiError> {
    let messages = messages(&state.store, tenant.tenant(), &named).await?;
    Ok(json_answer(StatusCode::OK, messages.to_string()))
}

/// The messages of a task and of the tasks below it.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documentation: the answer is written as JSON")]
pub(super) struct WholeThread {
    /// The task's own; there are no others, since agents call no agents.
    #[schema(value_type = Vec<Object>)]
    root: Vec<Value>,
}

/// The same, in the shape that has room for tasks below it.
#[utoipa::path(get, path = "/v1/tasks/{id}/thread/full",
    operation_id = "read_whole_thread", tag = "tasks",
    params(("id" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = WholeThread), ReadErrors), security(("api_key" = [])))]
pub(super) async fn whole_thread(
    State(state): State<Arc<RestState>>,
    ByKey(tenant): ByKey,
    named: Named,
) -> Result<Response, ApiError> {
    let messages = messages(&state.store, tenant.tenant(), &named).await?;
    Ok(json_answer(StatusCode::OK, json!({"root": messages}).to_string()))
}

/// The activity log of a task of an agent, as the product's SDK reads it.
#[utoipa::path(get, path = "/activity/{agent}/{task}",
    operation_id = "read_activity", tag = "tasks",
    params(("agent" = String, Path, description = "The agent's id"),
           ("task" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = Activity), ReadErrors), security(("api_key" = [])))]
pub(super) async fn activity(
    State(state): State<Arc<RestState>>,
    ByKey(tenant): ByKey,
    named: Named,
) -> Result<Response, ApiError> {
    let agent: AgentId = named.id("agent", "Task")?;
    let task = find(&state.store, tenant.tenant(), named.text("task")).await?;
    if task.agent != agent {
        return Err(ApiError::not_found("Task"));
    }
    let steps = state.store.steps(&task).await?;
    Ok(json(StatusCode::OK, &Activity::of(&task, &steps)))
}

/// A change of a task. Other fields of a task may be sent along; they are not changed.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct Update {
    /// What it becomes: an end, or what it is already.
    #[serde(default)]
    status: Option<Status>,
    /// The result that goes with an end.
    #[serde(default)]
    result: Option<String>,
}

/// Ends a task from outside. One that has ended takes no other end (409).
#[utoipa::path(patch, path = "/agent-execution/{id}/update",
    operation_id = "update_task", tag = "tasks",
    params(("id" = String, Path, description = "The task's id, or its thread's name")),
    request_body = Update,
    responses((status = 200, body = TaskDetails, description = "The task as it is now"), WriteErrors),
    security(("api_key" = [])))]
pub(super) async fn update(
    State(state): State<Arc<RestState>>,
    ByKey(tenant): ByKey,
    named: Named,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let task = find(&state.store, tenant.tenant(), named.text("id")).await?;
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
        return Ok(json(StatusCode::OK, &TaskDetails::of(&task)));
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
    Ok(json(StatusCode::OK, &TaskDetails::of(&now)))
}

/// Ends a task, unless it has ended, and gives it as it is then.
async fn end(runs: &Runs, task: &Task, outcome: Outcome) -> Result<Task, ApiError> {
    let ended = runs.end(task.tenant, task.id, outcome).await?;
    ended.ok_or_else(|| ApiError::not_found("Task"))
}

async fn messages(store: &Store, tenant: TenantId, named: &Named) -> Result<Value, ApiError> {
    let task = find(store, tenant, named.text("id")).await?;
    let steps = store.steps(&task).await?;
    Ok(answer::thread::thread(&task, &steps))
}
