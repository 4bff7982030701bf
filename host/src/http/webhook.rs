//! `POST /`: the xpander-compatible webhook (CONTRACT section 1).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, Request, StatusCode};
use serde_json::json;

use super::body::BodyReader;
use super::budget::Sender;
use super::error::ApiError;
use super::extract::{arrived_path, header_key, request_id};
use super::layers::record_tenant;
use super::plugin_reply::plugin_reply;
use super::reply::json_answer;
use super::responses::{PluginErrors, WriteErrors};
use super::submission::Submitter;
use super::task_headers::{set_task_headers, set_task_headers_after_wait};
use crate::access::{Access, Caller};
use crate::answer::task::TaskAnswer;
use crate::answer::{self, PostRunRecorder};
use crate::intake::{self, AgentCall, Arrival, RequestParts, Resolution};
use crate::plugins::Plugins;
use crate::request::credentials::is_api_key;
use crate::runs::Submission;

/// The services that the webhooks of both products use.
#[derive(Debug)]
pub(super) struct WebhookState {
    pub(super) access: Access,
    pub(super) bodies: BodyReader,
    pub(super) plugins: Plugins,
    pub(super) submitter: Submitter,
    pub(super) post_run: PostRunRecorder,
}

// CONTRACT X5.
/// The parameters of the webhook. They have the same names in the query and in the body.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "documentation: intake reads them, wherever they travel")]
pub(super) struct WebhookParams {
    /// The agent's id, in the query or in the body.
    agent_id: Option<String>,
    /// The prompt. If absent, the agent's text is the payload itself.
    prompt: Option<String>,
    /// Whether to respond at once with `{"status":"Started"}`: `true`/`1`/`yes`/`on` or `false`/`0`/`no`/`off`.
    asynchronous: Option<String>,
    /// The conversation to start or continue: a name of the caller's choice, or the id of an earlier task.
    task_id: Option<String>,
    /// The caller's own id for the user.
    user_id: Option<String>,
    /// The user's email address.
    user_email: Option<String>,
    /// The user's first name.
    user_first_name: Option<String>,
    /// The user's last name.
    user_last_name: Option<String>,
    /// A dot path into the task. The response is the value at this path instead of the task.
    getter: Option<String>,
    /// Whether to return `result` as parsed JSON if it is JSON.
    json: Option<String>,
    /// A JSON object of tokens for MCP servers, keyed by graph item.
    user_tokens: Option<String>,
    /// Validated, but without effect: it concerns files, which this version does not accept.
    disable_attachment_injection: Option<String>,
    /// A JSON object that maps parameters to dot paths into the payload. In the query only.
    params_mapping: Option<String>,
}

/// Trigger an agent.
///
/// Parameters come from the mapping, the query or the body, in this order of precedence; every other field reaches
/// the agent as data. A synchronous caller waits for the task, up to the gateway's limit or `Prefer: wait=N`, and
/// gets 202 if it takes longer. CloudEvents are accepted in binary and in structured mode.
#[utoipa::path(post, path = "/",
    operation_id = "trigger_agent", tag = "webhook",
    params(WebhookParams,
           ("idempotency-key" = Option<String>, Header, description = "One key, one run, for 24 hours"),
           ("prefer" = Option<String>, Header, description = "`wait=N` seconds, or `respond-async`")),
    request_body(content((Object = "application/json"), (Object = "application/x-www-form-urlencoded"),
                         (Object = "multipart/form-data"), (String = "text/plain"))),
    responses((status = 200, body = serde_json::Value,
               description = "The task (`TaskAnswer`), `{\"status\":\"Started\"}`, or the value that the getter returned."),
              (status = 202, body = TaskAnswer, description = "The task, which is still running."),
              WriteErrors, PluginErrors),
    security(("api_key" = []), ("api_key_in_query" = [])))]
pub(super) async fn receive(
    State(state): State<Arc<WebhookState>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    match resolve(&state, request).await? {
        Resolution::Ignore => {
            Ok(json_answer(StatusCode::OK, json!({"status": "Ignored"}).to_string()))
        }
        Resolution::Reply(reply) => Ok(plugin_reply(reply)),
        Resolution::Run(call) => submit_and_answer(&state, *call).await,
    }
}

/// Responds with what a request resolves to.
#[cfg(feature = "bench")]
pub(super) async fn resolve_only(
    State(state): State<Arc<WebhookState>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let Resolution::Run(call) = resolve(&state, request).await? else {
        return Err(ApiError::host("the request does not resolve to a run"));
    };
    let resolved = json!({
        "agent_id": call.caller.agent().id,
        "task_id": call.thread,
        "prompt": call.input.prompt,
        "user_email": call.input.user.email,
        "payload_bytes": call.input.payload.len(),
    });
    Ok(json_answer(StatusCode::OK, resolved.to_string()))
}

/// Authenticates, reads and resolves a request. Every error that rejects a request is returned here, before any task
/// exists.
pub(super) async fn resolve(
    state: &WebhookState,
    request: Request<Body>,
) -> Result<Resolution, ApiError> {
    let (mut head, body) = request.into_parts();
    let request_id = request_id(&head);
    let query = head.uri.query().unwrap_or_default().to_owned();
    let pairs = intake::decode_query(&query)?;
    let key = presented_key(&head.headers, &pairs)?;
    // If the query names the agent, access is checked before the body is read: a caller without a key cannot make the
    // gateway hold ten megabytes.
    let named = pairs.iter().rfind(|(name, _)| name == "agent_id").map(|(_, agent)| agent);
    let (early, proven) = match named.filter(|agent| !agent.is_empty()) {
        Some(agent) => {
            let caller = state.access.caller(key.as_deref(), agent).await?;
            let tenant = caller.tenant();
            (Some(caller), Ok(tenant))
        }
        None => (None, state.access.tenant(key.as_deref()).await.map(|caller| caller.tenant())),
    };
    let sender = Sender::from_head(&head);
    if let Ok(tenant) = &proven {
        record_tenant(*tenant);
    }
    let bytes = match proven {
        Ok(tenant) => state.bodies.read_body(sender.tenant(tenant), &mut head, body).await?,
        // The body is read only to learn whether it names an agent, which decides the error (CONTRACT X4). It is not
        // decoded for that.
        Err(denied) if head.headers.contains_key(CONTENT_ENCODING) => return Err(denied.into()),
        Err(denied) => {
            let read = state.bodies.read_anonymous(sender, &mut head, body).await;
            read.map_err(|_| denied)?
        }
    };
    let path = arrived_path(&head);
    let arrival = Arrival::from_parts(RequestParts {
        method: head.method,
        path,
        query,
        pairs,
        headers: head.headers,
        body: bytes,
        request_id,
    })
    .await?;
    let caller = match early {
        Some(caller) => caller,
        None => authenticate_from_body(state, key.as_deref(), &arrival).await?,
    };
    Ok(intake::resolve(&state.plugins, caller, &arrival).await?)
}

async fn authenticate_from_body(
    state: &WebhookState,
    key: Option<&str>,
    arrival: &Arrival,
) -> Result<Caller, ApiError> {
    let agent = arrival.agent_id()?.ok_or_else(|| ApiError::caller(400, "agent_id is required"))?;
    Ok(state.access.caller(key, &agent).await?)
}

/// The key in the header, else in the query (CONTRACT X4).
fn presented_key(
    headers: &HeaderMap,
    query: &[(String, String)],
) -> Result<Option<String>, ApiError> {
    if let Some(key) = header_key(headers)? {
        return Ok(Some(key));
    }
    let mut keys = query.iter().filter(|(name, _)| is_api_key(name)).map(|(_, key)| key);
    let key = keys.next().filter(|key| !key.is_empty()).cloned();
    match keys.next() {
        Some(_) => Err(ApiError::caller(400, "x-api-key was sent more than once")),
        None => Ok(key),
    }
}

/// Submits a resolved call and responds to it.
async fn submit_and_answer(state: &WebhookState, call: AgentCall) -> Result<Response, ApiError> {
    let waits = !call.response_options.asynchronous;
    let mut submission = state.submitter.submit(call, waits).await?;
    if !waits {
        let started = json_answer(StatusCode::OK, json!({"status": "Started"}).to_string());
        return Ok(set_task_headers(&submission, started));
    }
    let task = state.submitter.wait(&mut submission).await?;
    let status = if task.status.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let Submission { agent, wanted, request_id, .. } = &submission;
    let (plugins, post_run) = (&state.plugins, &state.post_run);
    let body = answer::shape(plugins, post_run, agent, &task, wanted, *request_id).await;
    let response = match body {
        Ok(body) => json_answer(status, body),
        Err(error) => ApiError::from(error).not_retryable().into_response(),
    };
    Ok(set_task_headers_after_wait(&submission, state.submitter.sync_wait_max, response))
}
