//! `/v1`: the xpander-compatible REST surface (CONTRACT section 2), as far as tasks are read.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};

use super::error::ApiError;
use super::webhook::{header_key, json_answer};
use super::{Handle, Handles};
use crate::answer;
use crate::tasks::Task;

/// `GET /v1/tasks/{id}`.
pub(super) async fn task(
    State(handles): Handle,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let task = find(&handles, &headers, id).await?;
    Ok(json_answer(StatusCode::OK, answer::task_details(&task).to_string()))
}

/// `GET /v1/tasks/{id}/thread`.
pub(super) async fn thread(
    State(handles): Handle,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    let task = find(&handles, &headers, id).await?;
    let steps = handles.store.steps(task.tenant, task.id).await?;
    Ok(json_answer(StatusCode::OK, answer::thread(&task, &steps).to_string()))
}

/// A task of the caller's tenant. What belongs to another tenant does not exist.
async fn find(
    handles: &Handles,
    headers: &HeaderMap,
    id: Result<Path<String>, PathRejection>,
) -> Result<Task, ApiError> {
    let tenant = handles.access.tenant(header_key(headers)?.as_deref()).await?.tenant();
    let not_found = || ApiError::caller(404, "Task not found");
    let Ok(Path(id)) = id else { return Err(not_found()) };
    let id = id.parse().map_err(|_| not_found())?;
    handles.store.task(tenant, id).await?.ok_or_else(not_found)
}
