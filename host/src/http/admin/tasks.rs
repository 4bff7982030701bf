//! Reads, stops and deletes a tenant's tasks, for its admins and for operators.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::super::error::ApiError;
use super::super::extract::{PathParams, QueryParams};
use super::super::reply::json;
use super::super::responses::ReadErrors;
use super::super::rest::find;
use super::super::rest::tasks::{self, TasksQuery};
use super::{AdminAuth, AdminState};
use crate::answer::task::{TaskDetails, TaskPage};
use crate::replay::{self, Recorded};

/// List the tasks of a tenant, newest first.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/tasks",
    operation_id = "admin_list_tasks", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"), TasksQuery),
    responses((status = 200, body = TaskPage), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    QueryParams(query): QueryParams<TasksQuery>,
) -> Result<Response, ApiError> {
    let page = tasks::list_page(&state.store, admin.tenant(), query).await?;
    Ok(json(StatusCode::OK, &page))
}

/// Read a task of a tenant.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/tasks/{task}",
    operation_id = "admin_read_task", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("task" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = TaskDetails), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn read(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let task = find(&state.store, admin.tenant(), path_params.text("task")).await?;
    Ok(json(StatusCode::OK, &TaskDetails::new(&task)))
}

/// Read the recording of a task: what its plugins did, and what they received.
///
/// `wardgate replay` replays it. It contains no secrets. For operators it contains the grants of the plugins.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/tasks/{task}/recording",
    operation_id = "admin_read_task_recording", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("task" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = Recorded), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn recording(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let task = find(&state.store, admin.tenant(), path_params.text("task")).await?;
    let with_grants = admin.is_operator();
    let (store, channels, plugins) = (&state.store, &state.channels, &state.plugins);
    let recorded = replay::gather(store, channels, plugins, &task, with_grants).await?;
    Ok(json(StatusCode::OK, &recorded))
}

/// Stop a task of a tenant.
///
/// A task that has ended does not change.
#[utoipa::path(post, path = "/admin/tenants/{tenant}/tasks/{task}/stop",
    operation_id = "admin_stop_task", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("task" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = TaskDetails, description = "The task in its current state."), ReadErrors),
    security(("admin_key" = [])))]
pub(super) async fn stop(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    tasks::stop_named(&state.store, &state.runs, admin.tenant(), path_params.text("task")).await
}

/// Delete a task of a tenant with all its data.
///
/// A run that is in progress is stopped first.
#[utoipa::path(delete, path = "/admin/tenants/{tenant}/tasks/{task}",
    operation_id = "admin_delete_task", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("task" = String, Path, description = "The task's id; the name of a thread will not do")),
    responses((status = 204, description = "Deleted."), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn remove(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    tasks::remove_named(&state.runs, admin.tenant(), path_params.text("task")).await
}
