//! `POST /`: the xpander-compatible webhook (CONTRACT section 1).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use serde_json::json;

use super::body::{self, BodyLimits};
use super::error::ApiError;
use super::{Handle, Handles};
use crate::access::Caller;
use crate::answer;
use crate::ids::TaskId;
use crate::intake::{self, AgentCall, Arrival, RequestParts, Resolved};
use crate::sandbox::ReplyNow;
use crate::tasks::{Accepted, NewTask, Status};

/// Headers that a mapper's immediate reply may not set: they are the connection's, or say what only the
/// gateway can know.
const REPLY_HEADERS_FORBIDDEN: [&str; 8] = [
    "connection",
    "content-length",
    "idempotent-replayed",
    "keep-alive",
    "te",
    "transfer-encoding",
    "upgrade",
    "x-task-id",
];

/// Most headers of a mapper's immediate reply.
const REPLY_HEADERS_MAX: usize = 64;

/// `POST /`.
pub(super) async fn receive(
    State(handles): Handle,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    match resolve(&handles, request).await? {
        Resolved::Ignore => {
            Ok(json_answer(StatusCode::OK, json!({"status": "Ignored"}).to_string()))
        }
        Resolved::Reply(reply) => reply_now(reply),
        Resolved::Run(call) => run(&handles, *call).await,
    }
}

/// What a request resolves to, as the answer.
pub(super) async fn resolve_only(
    State(handles): Handle,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let Resolved::Run(call) = resolve(&handles, request).await? else {
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

/// From the request to what it comes to. Everything that can be refused is refused in here: no task
/// exists before it is over.
pub(super) async fn resolve(
    handles: &Handles,
    request: Request<Body>,
) -> Result<Resolved, ApiError> {
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default();
    let pairs = intake::decode_query(query)?;
    let key = presented_key(&head.headers, &pairs)?;
    // Where the query names the agent, access is settled before the body is read: somebody without a
    // key cannot make us hold ten megabytes.
    let named = pairs.iter().rfind(|(name, _)| name == "agent_id").map(|(_, agent)| agent);
    let (early, denied) = match named.filter(|agent| !agent.is_empty()) {
        Some(agent) => (Some(handles.access.caller(key.as_deref(), agent).await?), None),
        None => (None, handles.access.tenant(key.as_deref()).await.err()),
    };
    let bytes = match denied {
        None => body::read(&head.headers, body, BodyLimits::of(&handles.settings)).await?,
        // Only to learn whether an agent is named, which decides which error it is (CONTRACT X4).
        Some(denied) => {
            body::read(&head.headers, body, BodyLimits::OF_STRANGERS).await.map_err(|_| denied)?
        }
    };
    let arrival = Arrival::read(RequestParts {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: query.to_owned(),
        pairs,
        headers: head.headers,
        body: bytes,
    })
    .await?;
    let caller = match early {
        Some(caller) => caller,
        None => late(handles, key.as_deref(), &arrival).await?,
    };
    Ok(intake::resolve(&handles.plugins, caller, &arrival).await?)
}

async fn late(handles: &Handles, key: Option<&str>, arrival: &Arrival) -> Result<Caller, ApiError> {
    let agent = arrival.agent_id()?.ok_or_else(|| ApiError::caller(400, "agent_id is required"))?;
    Ok(handles.access.caller(key, &agent).await?)
}

/// The key of the header, else of the query (CONTRACT X4).
fn presented_key(
    headers: &HeaderMap,
    query: &[(String, String)],
) -> Result<Option<String>, ApiError> {
    if let Some(key) = header_key(headers)? {
        return Ok(Some(key));
    }
    let mut keys = query.iter().filter(|(name, _)| name == "x-api-key").map(|(_, key)| key);
    let key = keys.next().filter(|key| !key.is_empty()).cloned();
    match keys.next() {
        Some(_) => Err(ApiError::caller(400, "x-api-key was sent more than once")),
        None => Ok(key),
    }
}

/// The key of the header `x-api-key`.
pub(super) fn header_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut keys = headers.get_all("x-api-key").iter();
    let key = keys.next();
    if keys.next().is_some() {
        return Err(ApiError::caller(400, "x-api-key was sent more than once"));
    }
    // A key that is no text is a wrong key, not a missing one.
    let text = key.map(|key| key.to_str().unwrap_or("not a key").trim().to_owned());
    Ok(text.filter(|key| !key.is_empty()))
}

/// Accepts a resolved call and answers it.
async fn run(handles: &Arc<Handles>, call: AgentCall) -> Result<Response, ApiError> {
    let task = new_task(&call);
    let id = task.id;
    let mut waiter = (!call.wanted.asynchronous).then(|| handles.queue.waiter(id));
    if let Accepted::Replayed { original, same_request } = handles.queue.accept(task).await? {
        return replayed(handles, &call, original, same_request).await;
    }
    let Some(waiter) = waiter.as_mut() else {
        let started = json_answer(StatusCode::OK, json!({"status": "Started"}).to_string());
        return Ok(with_task_headers(started, id));
    };
    let limit = handles.settings.sync_wait_max;
    // Whether it has ended is read from the store either way.
    let _ = tokio::time::timeout(limit, waiter.ended()).await;
    answer_with(handles, &call, id).await
}

/// The task as it is now: 200 where it has ended, else 202 with what there is (CONTRACT X22).
async fn answer_with(
    handles: &Handles,
    call: &AgentCall,
    id: TaskId,
) -> Result<Response, ApiError> {
    let agent = call.caller.agent();
    let task = handles
        .store
        .task(agent.tenant, id)
        .await?
        .ok_or_else(|| ApiError::host("the task is gone"))?;
    let status = if task.status.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let body = answer::shape(&handles.plugins, agent, &task, &call.wanted, call.request_id).await;
    // Without an answer the caller still learns which task it was.
    let response = match body {
        Ok(body) => json_answer(status, body),
        Err(error) => ApiError::from(error).into_response(),
    };
    Ok(with_task_headers(response, id))
}

/// The answer under an idempotency key that was used before (CONTRACT D6).
async fn replayed(
    handles: &Handles,
    call: &AgentCall,
    original: TaskId,
    same_request: bool,
) -> Result<Response, ApiError> {
    if !same_request {
        let detail = "this Idempotency-Key was used before with a different request";
        return Err(ApiError::caller(422, detail));
    }
    let mut response = if call.wanted.asynchronous {
        let started = json_answer(StatusCode::OK, json!({"status": "Started"}).to_string());
        with_task_headers(started, original)
    } else {
        let task = handles.store.task(call.caller.tenant(), original).await?;
        if task.is_some_and(|task| matches!(task.status, Status::Pending | Status::Executing)) {
            let error = ApiError::caller(409, "the original request is still running");
            return Ok(with_task_headers(error.retry_after(1).into_response(), original));
        }
        answer_with(handles, call, original).await?
    };
    response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
    Ok(response)
}

/// The task that a call becomes.
pub(super) fn new_task(call: &AgentCall) -> NewTask {
    NewTask {
        id: TaskId::random(),
        tenant: call.caller.tenant(),
        agent: call.caller.agent().id,
        thread: call.thread.clone(),
        source: "webhook",
        input: call.input.clone(),
        mapping: call.mapping.clone(),
        idempotency: call.idempotency.clone(),
    }
}

/// A mapper's immediate reply. What it sets is checked here: a plugin cannot break the connection.
pub(super) fn reply_now(reply: ReplyNow) -> Result<Response, ApiError> {
    let wrong = |what: &str| {
        tracing::warn!(what, "a mapper's reply cannot be sent");
        ApiError::host(format!("the mapping plugin gave a reply that cannot be sent: {what}"))
    };
    let status = StatusCode::from_u16(reply.status).map_err(|_| wrong("its status"))?;
    if status.is_informational() {
        return Err(wrong("its status"));
    }
    let mut response = (status, reply.body).into_response();
    response.headers_mut().remove(CONTENT_TYPE);
    if reply.headers.len() > REPLY_HEADERS_MAX {
        return Err(wrong("more than 64 headers"));
    }
    for (name, value) in &reply.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong("a header's name"))?;
        if REPLY_HEADERS_FORBIDDEN.contains(&name.as_str())
            || name.as_str().starts_with("x-wardgate-")
        {
            return Err(wrong("a header that is the gateway's"));
        }
        let value = HeaderValue::from_str(value).map_err(|_| wrong("a header's value"))?;
        response.headers_mut().append(name, value);
    }
    Ok(response)
}

pub(super) fn json_answer(status: StatusCode, body: String) -> Response {
    let json = HeaderValue::from_static("application/json");
    (status, [(CONTENT_TYPE, json)], body).into_response()
}

/// Where the task can be found (CONTRACT X21).
pub(super) fn with_task_headers(mut response: Response, id: TaskId) -> Response {
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::try_from(id.to_string()) {
        headers.insert("x-task-id", value);
    }
    if let Ok(value) = HeaderValue::try_from(format!("/v1/tasks/{id}")) {
        headers.insert(LOCATION, value);
    }
    response
}
