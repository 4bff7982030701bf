//! `/hooks/{channel}`: receives providers' webhooks. The channel's verifier authenticates a request, its mapper
//! decides what it starts, and its replier writes the response.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{Method, Request, StatusCode};
use serde_json::json;

use super::body::BodyReader;
use super::budget::Sender;
use super::error::ApiError;
use super::extract::{PathParams, arrived_path, request_id};
use super::layers::record_tenant;
use super::openapi::Binary;
use super::plugin_reply::plugin_reply;
use super::reply::json_answer;
use super::responses::{PluginErrors, WriteErrors};
use super::submission::Submitter;
use super::task_headers::set_task_headers;
use crate::answer::PostRunRecorder;
use crate::answer::task::TaskAnswer;
use crate::channel::{ActiveChannel, ChannelError, Channels, ReplySubject};
use crate::clock::Clock;
use crate::ids::{ChannelId, PluginName};
use crate::intake::{self, AgentCall, Arrival, IntakeError, RequestParts, Resolution};
use crate::plugins::{PluginUnavailable, Plugins};
use crate::sandbox::PluginError;
use crate::tasks::Task;
use crate::tenants::ChannelAnswer;

/// The services that the channel routes use.
#[derive(Debug)]
pub(super) struct HookState {
    pub(super) channels: Channels,
    pub(super) bodies: BodyReader,
    pub(super) plugins: Plugins,
    pub(super) submitter: Submitter,
    pub(super) post_run: PostRunRecorder,
    pub(super) clock: Clock,
}

/// Receive a provider's webhook.
///
/// The body may be of any type. The channel's plugins decide the response: a handshake, an acknowledgement, or the
/// answer of the run. If the channel has no replier, the response is JSON.
#[utoipa::path(post, path = "/hooks/{channel}",
    operation_id = "receive_hook", tag = "channels",
    params(("channel" = String, Path, description = "The channel's id")),
    request_body(content = Binary, content_type = "application/octet-stream"),
    responses((status = 200, body = serde_json::Value,
               description = "`{\"status\":\"Started\"}`, `{\"status\":\"Ignored\"}`, the task, or the response of the channel's plugins."),
              (status = 202, body = TaskAnswer, description = "The task, which is still running."),
              WriteErrors, PluginErrors),
    security(()))]
pub(super) async fn receive(
    State(state): State<Arc<HookState>>,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    handle(&state, &path_params, request).await
}

/// Receive a provider's `GET` request.
///
/// The same as `POST`, for providers that use `GET`, as some do for a handshake.
#[utoipa::path(get, path = "/hooks/{channel}",
    operation_id = "receive_hook_query", tag = "channels",
    params(("channel" = String, Path, description = "The channel's id")),
    responses((status = 200, body = serde_json::Value,
               description = "The response of the channel's plugins."),
              (status = 202, body = TaskAnswer, description = "The task, which is still running."),
              WriteErrors, PluginErrors),
    security(()))]
pub(super) async fn receive_query(
    State(state): State<Arc<HookState>>,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    handle(&state, &path_params, request).await
}

/// Answer a provider's `OPTIONS` handshake.
///
/// Some providers ask for permission before they send webhooks (CloudEvents' abuse protection). The request starts no
/// run, whatever the channel's mapper returns.
#[utoipa::path(options, path = "/hooks/{channel}",
    operation_id = "receive_hook_handshake", tag = "channels",
    params(("channel" = String, Path, description = "The channel's id")),
    responses((status = 200, body = serde_json::Value,
               description = "The response of the channel's plugins."),
              (status = 405, body = super::error::ErrorBody,
               description = "The channel's plugins do not support this handshake."),
              WriteErrors, PluginErrors),
    security(()))]
pub(super) async fn receive_options(
    State(state): State<Arc<HookState>>,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    handle(&state, &path_params, request).await
}

/// Check that a channel exists.
///
/// Some providers probe a URL before they accept it (Trello). No plugin is called, because a `GET` may start a run.
#[utoipa::path(head, path = "/hooks/{channel}",
    operation_id = "probe_hook", tag = "channels",
    params(("channel" = String, Path, description = "The channel's id")),
    responses((status = 200, description = "The channel exists. No task was created."),
              (status = 404, description = "The channel does not exist."),
              (status = 503, description = "The store is temporarily unavailable.")),
    security(()))]
pub(super) async fn probe(
    State(state): State<Arc<HookState>>,
    path_params: PathParams,
) -> Result<(), ApiError> {
    let id: ChannelId = path_params.id("channel", "Channel")?;
    match state.channels.open(id).await? {
        Some(_) => Ok(()),
        None => Err(ApiError::not_found("Channel")),
    }
}

async fn handle(
    state: &HookState,
    path_params: &PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let id: ChannelId = path_params.id("channel", "Channel")?;
    let may_run = request.method() != Method::OPTIONS;
    let channel = state.channels.open(id).await?;
    let channel = channel.ok_or_else(|| ApiError::not_found("Channel"))?;
    record_tenant(channel.tenant());
    let (head, body) = request.into_parts();
    let request_id = request_id(&head);
    let query = head.uri.query().unwrap_or_default();
    let pairs = intake::decode_query(query)?;
    // Anyone who knows the URL may send a body, so it is not read if the verifier cannot be called anyway.
    let admitted = channel.check_verifier(&state.plugins).await;
    admitted.map_err(|error| reject(state, &channel, error))?;
    let sender = Sender::from_head(&head).channel(id).tenant(channel.tenant());
    let body = state.bodies.read_unverified(sender, &head, body).await;
    let body = body.inspect_err(|error| {
        if error.is_shortage() {
            log_sampled(
                state,
                &channel,
                "its senders, or all, have as many bytes in flight as they may",
            );
        }
    })?;
    let path = arrived_path(&head);
    let arrival = Arrival::read_for_channel(RequestParts {
        method: head.method,
        path,
        query: query.to_owned(),
        pairs,
        headers: head.headers,
        body,
        request_id,
    })
    .await;
    let incoming = Arc::clone(&arrival.incoming);
    let verified = channel.verify(&state.plugins, incoming, request_id).await;
    let verified = verified.map_err(|error| reject(state, &channel, error))?;
    let is_unauthenticated = !verified.verified;
    let incoming = channel.without_credentials(Arc::clone(&arrival.incoming));
    let mut arrival = Arrival { incoming, ..arrival };
    // Not before verification, so that a rejected sender costs no decoding.
    let (headers, body) = (&arrival.incoming.headers, &arrival.incoming.body);
    if let Some(body) = state.bodies.decode_body(sender, headers, body).await? {
        arrival = arrival.without_encodings(body).await;
    }
    let resolved = channel.map(&state.plugins, verified, &arrival).await;
    let resolved = resolved.map_err(|error| match error {
        IntakeError::Plugin(name, error) if is_unauthenticated => {
            refuse_unauthenticated(state, &channel, &name, &error)
        }
        IntakeError::Unavailable(error) if is_unauthenticated => {
            unavailable(state, &channel, error)
        }
        IntakeError::Request(error) => {
            // Logged, because the sender may never look at the response.
            log_sampled(state, &channel, &error.detail);
            error.into()
        }
        error => error.into(),
    })?;
    match resolved {
        Resolution::Ignore => {
            Ok(json_answer(StatusCode::OK, json!({"status": "Ignored"}).to_string()))
        }
        Resolution::Reply(reply) => Ok(plugin_reply(reply)),
        Resolution::Run(call) if may_run => {
            submit_and_answer(state, &channel, *call, is_unauthenticated).await
        }
        Resolution::Run(_) => Err(super::method_not_allowed().await),
    }
}

/// The error response to a sender that is not authenticated, if a plugin of the channel fails or is unavailable.
fn reject(state: &HookState, channel: &ActiveChannel, error: ChannelError) -> ApiError {
    match error {
        ChannelError::Plugin(name, error) => refuse_unauthenticated(state, channel, &name, &error),
        ChannelError::Unavailable(error) => unavailable(state, channel, error),
    }
}

/// The error response to a sender that is not authenticated, after a plugin's error. Internals go to the log, sampled
/// so that such requests cannot fill it.
fn refuse_unauthenticated(
    state: &HookState,
    channel: &ActiveChannel,
    plugin: &PluginName,
    error: &PluginError,
) -> ApiError {
    let (refusal, reason) = ApiError::for_unauthenticated(plugin.as_str(), error);
    if let Some(reason) = reason {
        log_sampled(state, channel, &reason);
    }
    refusal
}

fn unavailable(state: &HookState, channel: &ActiveChannel, error: PluginUnavailable) -> ApiError {
    if let PluginUnavailable::Store(error) = error {
        return error.into();
    }
    log_sampled(state, channel, &error.to_string());
    ApiError::unusable_channel()
}

fn log_sampled(state: &HookState, channel: &ActiveChannel, reason: &str) {
    let facts = channel.facts();
    if let Some(unlogged) = state.channels.sample(facts.id, state.clock.now()) {
        let (id, name) = (facts.id, &facts.name);
        tracing::warn!(channel = %id, %name, reason, unlogged, "a channel could not look at a request");
    }
}

async fn submit_and_answer(
    state: &HookState,
    channel: &ActiveChannel,
    call: AgentCall,
    is_unauthenticated: bool,
) -> Result<Response, ApiError> {
    let definition = channel.definition();
    let waits = definition.answer == ChannelAnswer::Wait;
    let mut submission = state.submitter.submit(call, waits).await?;
    let Some(replier) = &definition.replier else {
        // Only a replier needs the request's bytes.
        submission.request = None;
        let response = if waits {
            as_json(&state.submitter.wait(&mut submission).await?)
        } else {
            let started = json!({"status": "Started", "task_id": submission.task});
            json_answer(StatusCode::OK, started.to_string())
        };
        return Ok(set_task_headers(&submission, response));
    };
    let task = state.submitter.wait(&mut submission).await?;
    // For an acknowledgement, the task is shown as accepted, however far its run is: the answer is delivered or
    // polled later.
    let task = if waits { task } else { task.into_accepted() };
    let about = ReplySubject {
        agent: &submission.agent,
        task: &task,
        request: submission.request.take(),
        principal: submission.channel.take().and_then(|by| by.principal),
        request_id: submission.request_id,
    };
    let replied = channel.reply(&state.plugins, &state.post_run, replier, about).await;
    let response = match replied {
        Ok(reply) => plugin_reply(reply),
        Err(error) => {
            let error = match (is_unauthenticated, error) {
                (true, error) => reject(state, channel, error),
                (false, ChannelError::Plugin(name, error)) => {
                    ApiError::from_plugin(name.as_str(), &error)
                }
                (false, ChannelError::Unavailable(error)) => error.into(),
            };
            // Without a reply, the caller still learns which task it was.
            error.not_retryable().into_response()
        }
    };
    Ok(set_task_headers(&submission, response))
}

fn as_json(task: &Task) -> Response {
    let status = if task.status.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    let body = serde_json::to_string(&TaskAnswer::new(task, false)).unwrap_or_default();
    json_answer(status, body)
}
