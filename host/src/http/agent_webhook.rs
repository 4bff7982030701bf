//! `/api/webhooks/agents/{token}`: the DocsGPT-compatible trigger (CONTRACT D1 to D3).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderValue, Request, StatusCode};
use serde_json::json;

use super::body::{self, BodyLimits};
use super::error::ApiError;
use super::webhook::{json_answer, new_task, reply_now, with_task_headers};
use super::{Handle, Handles};
use crate::access::Caller;
use crate::intake::{self, Arrival, IntakeError, RequestParts, Resolved};
use crate::tasks::Accepted;

/// `POST`: the body is the payload.
pub(super) async fn receive(
    State(handles): Handle,
    token: Result<Path<String>, axum::extract::rejection::PathRejection>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let caller = caller(&handles, token).await?;
    let (head, body) = request.into_parts();
    let body = body::read(&head.headers, body, BodyLimits::of(&handles.settings)).await;
    let parts = parts(head, body.map_err(ApiError::shaped_as_docsgpt)?)?;
    let arrival =
        Arrival::read_json(parts).map_err(|error| ApiError::from(error).worded_as_docsgpt())?;
    trigger(&handles, caller, arrival).await
}

/// `GET`: the query is the payload.
pub(super) async fn receive_query(
    State(handles): Handle,
    token: Result<Path<String>, axum::extract::rejection::PathRejection>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let caller = caller(&handles, token).await?;
    let (head, _) = request.into_parts();
    let arrival = Arrival::read_query(parts(head, bytes::Bytes::new())?);
    trigger(&handles, caller, arrival).await
}

async fn caller(
    handles: &Handles,
    token: Result<Path<String>, axum::extract::rejection::PathRejection>,
) -> Result<Caller, ApiError> {
    let unknown = || ApiError::caller(404, "Agent not found").shaped_as_docsgpt();
    // A token that cannot be decoded is nobody's.
    let Ok(Path(token)) = token else { return Err(unknown()) };
    let caller = handles.access.webhook(&token).await;
    caller.map_err(|error| ApiError::from(error).shaped_as_docsgpt())?.ok_or_else(unknown)
}

fn parts(head: http::request::Parts, body: bytes::Bytes) -> Result<RequestParts, ApiError> {
    let query = head.uri.query().unwrap_or_default();
    Ok(RequestParts {
        method: head.method,
        // The path holds the token: plugins and logs do not see it.
        path: String::new(),
        query: query.to_owned(),
        pairs: intake::decode_query(query).map_err(shaped)?,
        headers: head.headers,
        body,
    })
}

fn shaped(error: IntakeError) -> ApiError {
    ApiError::from(error).shaped_as_docsgpt()
}

async fn trigger(
    handles: &Arc<Handles>,
    caller: Caller,
    arrival: Arrival,
) -> Result<Response, ApiError> {
    let resolved = intake::resolve_agent_webhook(&handles.plugins, caller, &arrival).await;
    let call = match resolved.map_err(shaped)? {
        Resolved::Run(call) => call,
        Resolved::Ignore => {
            let ignored = json!({"success": true, "status": "Ignored"});
            return Ok(json_answer(StatusCode::OK, ignored.to_string()));
        }
        Resolved::Reply(reply) => return reply_now(reply),
    };
    let task = new_task(&call);
    let id = task.id;
    let accepted = handles.queue.accept(task).await;
    let accepted = accepted.map_err(|error| ApiError::from(error).shaped_as_docsgpt())?;
    let answer = |id| {
        let body = json!({"success": true, "task_id": id});
        with_task_headers(json_answer(StatusCode::OK, body.to_string()), id)
    };
    let Accepted::Replayed { original, same_request } = accepted else {
        return Ok(answer(id));
    };
    let mut response = answer(original);
    let yes = HeaderValue::from_static("true");
    if !same_request {
        response.headers_mut().insert("idempotency-mismatch", yes.clone());
    }
    response.headers_mut().insert("idempotent-replayed", yes);
    Ok(response)
}
