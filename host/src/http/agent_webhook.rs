//! `/api/webhooks/agents/{token}`: the DocsGPT-compatible trigger (CONTRACT D1 to D3).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::ALLOW;
use http::{HeaderValue, Request, StatusCode};
use serde_json::json;

use super::budget::Sender;
use super::error::ApiError;
use super::extract::{PathParams, request_id};
use super::layers::record_task;
use super::layers::record_tenant;
use super::plugin_reply::plugin_reply;
use super::reply::json_answer;
use super::responses::AgentWebhookErrors;
use super::task_headers::set_task_headers;
use super::webhook::WebhookState;
use crate::access::Caller;
use crate::intake::{self, Arrival, IntakeError, RequestParts, Resolution};

/// The response to a trigger.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "documentation: the answer is written as JSON")]
pub(super) struct Triggered {
    /// Always `true`.
    success: bool,
    /// The id to poll `/api/task_status` with. Absent if the agent's mapping plugin ignored the request.
    task_id: Option<String>,
    /// `Ignored` if the agent's mapping plugin ignored the request, otherwise absent.
    status: Option<String>,
}

/// Trigger an agent through its own webhook.
///
/// The body is the payload.
#[utoipa::path(post, path = "/api/webhooks/agents/{token}",
    operation_id = "trigger_by_token", tag = "DocsGPT",
    params(("token" = String, Path, description = "The webhook's token"),
           ("idempotency-key" = Option<String>, Header, description = "One key, one run, for 24 hours")),
    request_body = serde_json::Value,
    responses((status = 200, body = Triggered), AgentWebhookErrors), security(()))]
pub(super) async fn receive(
    State(state): State<Arc<WebhookState>>,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let caller = caller(&state, &path_params).await?;
    let (mut head, body) = request.into_parts();
    let sender = Sender::from_head(&head).tenant(caller.tenant());
    let body = state.bodies.read_body(sender, &mut head, body).await;
    let parts = parts(head, body.map_err(ApiError::shaped_as_docsgpt)?)?;
    let arrival =
        Arrival::read_json(parts).map_err(|error| ApiError::from(error).into_docsgpt_error())?;
    trigger(&state, caller, arrival).await
}

/// Trigger an agent through its own webhook, without a body.
///
/// The query string is the payload.
#[utoipa::path(get, path = "/api/webhooks/agents/{token}",
    operation_id = "trigger_by_token_and_query", tag = "DocsGPT",
    params(("token" = String, Path, description = "The webhook's token"),
           ("idempotency-key" = Option<String>, Header, description = "One key, one run, for 24 hours")),
    responses((status = 200, body = Triggered), AgentWebhookErrors), security(()))]
pub(super) async fn receive_query(
    State(state): State<Arc<WebhookState>>,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let caller = caller(&state, &path_params).await?;
    let (head, _) = request.into_parts();
    let arrival = Arrival::read_query(parts(head, bytes::Bytes::new())?);
    trigger(&state, caller, arrival).await
}

/// Reject a `HEAD` request.
///
/// A `GET` starts a run on this path. A `HEAD` must not, so it is always 405.
#[utoipa::path(head, path = "/api/webhooks/agents/{token}",
    operation_id = "trigger_nothing", tag = "DocsGPT",
    params(("token" = String, Path, description = "The webhook's token")),
    responses((status = 405, description = "The method is not allowed. No task was created.")), security(()))]
pub(super) async fn refuse_head() -> Response {
    // Without this route, the router would send a `HEAD` to the handler of `GET`.
    let mut refused = super::method_not_allowed().await.into_response();
    refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET,POST"));
    refused
}

async fn caller(state: &WebhookState, path_params: &PathParams) -> Result<Caller, ApiError> {
    let unknown = || ApiError::caller(404, "Agent not found").shaped_as_docsgpt();
    // A token that is not UTF-8 once decoded belongs to no agent.
    let token = path_params.text("token").ok_or_else(unknown)?;
    let caller = state.access.webhook(token).await;
    let caller = caller.map_err(|error| ApiError::from(error).shaped_as_docsgpt())?;
    let caller = caller.ok_or_else(unknown)?;
    record_tenant(caller.tenant());
    Ok(caller)
}

fn parts(head: http::request::Parts, body: bytes::Bytes) -> Result<RequestParts, ApiError> {
    let request_id = request_id(&head);
    let query = head.uri.query().unwrap_or_default();
    Ok(RequestParts {
        method: head.method,
        // The path contains the token, which plugins and logs must not see.
        path: String::new(),
        query: query.to_owned(),
        pairs: intake::decode_query(query).map_err(shaped)?,
        headers: head.headers,
        body,
        request_id,
    })
}

fn shaped(error: IntakeError) -> ApiError {
    ApiError::from(error).shaped_as_docsgpt()
}

async fn trigger(
    state: &WebhookState,
    caller: Caller,
    arrival: Arrival,
) -> Result<Response, ApiError> {
    let resolved = intake::resolve_agent_webhook(&state.plugins, caller, &arrival).await;
    let call = match resolved.map_err(shaped)? {
        Resolution::Run(call) => call,
        Resolution::Ignore => {
            let ignored = json!({"success": true, "status": "Ignored"});
            return Ok(json_answer(StatusCode::OK, ignored.to_string()));
        }
        Resolution::Reply(reply) => return Ok(plugin_reply(reply)),
    };
    // A reused idempotency key returns the original task, even if the request differs (CONTRACT D6).
    let submission = state.submitter.runs.submit(*call, false).await;
    let submission = submission.map_err(|error| ApiError::from(error).shaped_as_docsgpt())?;
    record_task(submission.task);
    let body = json!({"success": true, "task_id": submission.task});
    Ok(set_task_headers(&submission, json_answer(StatusCode::OK, body.to_string())))
}
