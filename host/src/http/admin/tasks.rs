//! Tasks of a tenant as whoever manages it sees them.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::super::error::ApiError;
use super::super::extract::{Named, QueryParams};
use super::super::reply::json;
use super::super::responses::ReadErrors;
use super::super::rest::find;
use super::super::rest::tasks::{self, TasksQuery};
use super::{AdminState, ByAdmin};
use crate::answer::task::{TaskDetails, TaskPage};
use crate::replay::{self, Recorded};

/// The tasks of a tenant, newest first.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/tasks",
    operation_id = "admin_list_tasks", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"), TasksQuery),
    responses((status = 200, body = TaskPage), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    ByAdmin(admin): ByAdmin,
    QueryParams(asked): QueryParams<TasksQuery>,
) -> Result<Response, ApiError> {
    let page = tasks::list_page(&state.store, admin.tenant(), asked).await?;
    Ok(json(StatusCode::OK, &page))
}

/// A task of a tenant.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/tasks/{task}",
    operation_id = "admin_read_task", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("task" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = TaskDetails), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn read(
    State(state): State<Arc<AdminState>>,
    ByAdmin(admin): ByAdmin,
    named: Named,
) -> Result<Response, ApiError> {
    let task = find(&state.store, admin.tenant(), named.text("task")).await?;
    Ok(json(StatusCode::OK, &TaskDetails::of(&task)))
}

/// What plugins did for a task, and what they were told, so that it can be played again: `wardgate replay`.
/// No secrets are in it. What plugins are granted is in it for operators.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/tasks/{task}/recording",
    operation_id = "admin_read_task_recording", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("task" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = Recorded), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn recording(
    State(state): State<Arc<AdminState>>,
    ByAdmin(admin): ByAdmin,
    named: Named,
) -> Result<Response, ApiError> {
    let task = find(&state.store, admin.tenant(), named.text("task")).await?;
    let with_grants = admin.is_operator();
    let (store, channels, plugins) = (&state.store, &state.channels, &state.plugins);
    let recorded = replay::gather(store, channels, plugins, &task, with_grants).await?;
    Ok(json(StatusCode::OK, &recorded))
}

/// Stops a task of a tenant. One that has ended stays as it is.
#[utoipa::path(post, path = "/admin/tenants/{tenant}/tasks/{task}/stop",
    operation_id = "admin_stop_task", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("task" = String, Path, description = "The task's id, or its thread's name")),
    responses((status = 200, body = TaskDetails, description = "The task as it is now"), ReadErrors),
    security(("admin_key" = [])))]
pub(super) async fn stop(
    State(state): State<Arc<AdminState>>,
    ByAdmin(admin): ByAdmin,
    named: Named,
) -> Result<Response, ApiError> {
    tasks::stop_named(&state.store, &state.runs, admin.tenant(), named.text("task")).await
}

/// Deletes a task of a tenant with everything that belongs to it. A run is stopped first.
#[utoipa::path(delete, path = "/admin/tenants/{tenant}/tasks/{task}",
    operation_id = "admin_delete_task", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("task" = String, Path, description = "The task's id; the name of a thread will not do")),
    responses((status = 204, description = "It is gone"), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn remove(
    State(state): State<Arc<AdminState>>,
    ByAdmin(admin): ByAdmin,
    named: Named,
) -> Result<Response, ApiError> {
    tasks::remove_named(&state.runs, admin.tenant(), named.text("task")).await
}
