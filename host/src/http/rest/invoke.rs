//! Starts a run over REST, and waits for its end, responds at once, or streams its events.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{Request, StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;

use super::super::budget::Sender;
use super::super::error::{ApiError, ErrorBody};
use super::super::extract::{PathParams, QueryParams, TenantAuth, request_id};
use super::super::reply::json;
use super::super::responses::WriteErrors;
use super::super::task_headers::{set_task_headers, set_task_headers_after_wait};
use super::RestState;
use crate::access::TenantCaller;
use crate::answer::event::SentEvent;
use crate::answer::task::TaskDetails;
use crate::ids::AgentId;
use crate::intake::invocation::{self, Invocation};
use crate::intake::{AgentCall, Arrival, RequestParts};

/// How the caller wants the response.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct InvokeQuery {
    /// Whether to respond at once, with the task as it was accepted.
    asynchronous: Option<bool>,
}

/// Run an agent and wait for the task to end.
///
/// The wait is limited by the gateway's settings, and by `Prefer: wait=N` (RFC 7240), in seconds. When the limit is
/// reached, the response is 202 with the task so far. The run continues, and the task can be read.
#[utoipa::path(post, path = "/v1/agents/{id}/invoke",
    operation_id = "invoke_agent", tag = "agents",
    params(("id" = String, Path, description = "The agent's id"), InvokeQuery,
           ("idempotency-key" = Option<String>, Header, description = "One key, one run, for 24 hours"),
           ("prefer" = Option<String>, Header, description = "`wait=N` seconds, or `respond-async`")),
    request_body = Invocation,
    responses((status = 200, body = TaskDetails, description = "The task, after it has ended."),
              (status = 202, body = TaskDetails, description = "The task, which is still running."), WriteErrors),
    security(("api_key" = [])))]
pub(super) async fn invoke_sync(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    QueryParams(query): QueryParams<InvokeQuery>,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let call = resolve(&state, tenant, &path_params, request).await?;
    if query.asynchronous == Some(true) {
        return start(&state, call).await;
    }
    let mut submission = state.submitter.submit(call, true).await?;
    let task = state.submitter.wait(&mut submission).await?;
    let status = if task.status.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let answer = json(status, &TaskDetails::new(&task));
    Ok(set_task_headers_after_wait(&submission, state.submitter.sync_wait_max, answer))
}

/// Run an agent and respond at once, with the task as it was accepted.
#[utoipa::path(post, path = "/v1/agents/{id}/invoke/async",
    operation_id = "invoke_agent_async", tag = "agents",
    params(("id" = String, Path, description = "The agent's id"),
           ("idempotency-key" = Option<String>, Header, description = "One key, one run, for 24 hours")),
    request_body = Invocation,
    responses((status = 200, body = TaskDetails, description = "The accepted task."), WriteErrors),
    security(("api_key" = [])))]
pub(super) async fn invoke_async(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let call = resolve(&state, tenant, &path_params, request).await?;
    start(&state, call).await
}

/// Run an agent and stream its progress as server-sent events.
///
/// The last event is `task_finished`. Closing the stream does not stop the run.
#[utoipa::path(post, path = "/v1/agents/{id}/invoke/stream",
    operation_id = "invoke_agent_stream", tag = "agents",
    params(("id" = String, Path, description = "The agent's id"),
           ("idempotency-key" = Option<String>, Header, description = "One key, one run, for 24 hours")),
    request_body = Invocation,
    responses((status = 200, content_type = "text/event-stream", body = SentEvent,
               description = "Server-sent events; each `data` field is a `TaskEvent`."),
              (status = 429, body = ErrorBody, description = "The task was accepted, but the organization has too \
               many event streams open. `x-task-id` is the task's id."), WriteErrors),
    security(("api_key" = [])))]
pub(super) async fn invoke_stream(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let call = resolve(&state, tenant, &path_params, request).await?;
    let submission = state.submitter.submit(call, false).await?;
    // The task has been accepted: a caller that cannot get a stream now still learns the task's id.
    let (tenant, task) = (submission.agent.tenant, submission.task);
    let stream = state.events.open(tenant, task, None);
    let answer = stream.unwrap_or_else(|error| error.not_retryable().into_response());
    Ok(set_task_headers(&submission, answer))
}

async fn start(state: &RestState, call: AgentCall) -> Result<Response, ApiError> {
    let mut submission = state.submitter.submit(call, false).await?;
    // The task may be running by now. The response shows it as it was accepted.
    let task = state.submitter.wait(&mut submission).await?.into_accepted();
    Ok(set_task_headers(&submission, json(StatusCode::OK, &TaskDetails::new(&task))))
}

async fn resolve(
    state: &RestState,
    tenant: TenantCaller,
    path_params: &PathParams,
    request: Request<Body>,
) -> Result<AgentCall, ApiError> {
    let agent: AgentId = path_params.id("id", "Agent")?;
    let caller = state.access.caller_of(tenant, agent).await?;
    let caller = caller.ok_or_else(|| ApiError::not_found("Agent"))?;
    let (mut head, body) = request.into_parts();
    let request_id = request_id(&head);
    let sender = Sender::from_head(&head);
    let body = state.bodies.read_body(sender, &mut head, body).await?;
    let arrival = Arrival::read_invocation(RequestParts {
        method: head.method,
        path: head.uri.path().to_owned(),
        // No part of an invocation is in the query.
        query: String::new(),
        pairs: Vec::new(),
        headers: head.headers,
        body,
        request_id,
    })?;
    Ok(invocation::resolve(caller, &arrival)?)
}
