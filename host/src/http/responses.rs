//! Error responses of routes, as sets for the OpenAPI document. A set names every error status of its routes; the
//! bodies are those of `error`.

use utoipa::IntoResponses;

use super::error::{ErrorBody, RefusalBody};

/// Errors of routes that read with a key.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documentation: the answers themselves come from ApiError")]
pub(super) enum ReadErrors {
    /// `x-api-key` was sent more than once.
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// No key was sent.
    #[response(status = 401)]
    NoKey(ErrorBody),
    /// The key is invalid, or gives no access to this.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// The resource does not exist, or this key gives no access to it.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The query does not match the documentation.
    #[response(status = 422)]
    Unprocessable(ErrorBody),
    /// The gateway or its store is temporarily unavailable; `retry-after` says when to retry.
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

/// Errors of routes that change something with a key.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documentation: the answers themselves come from ApiError")]
pub(super) enum WriteErrors {
    /// The body is malformed, a parameter or header is invalid, or `x-api-key` was sent more than once.
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// No key was sent.
    #[response(status = 401)]
    NoKey(ErrorBody),
    /// The key is invalid or gives no access to this, or the agent is disabled.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// The resource does not exist, or this key gives no access to it.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    TooSlow(ErrorBody),
    /// The request conflicts with the current state. With an `Idempotency-Key`: the original request is still
    /// running.
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// Another client has changed the resource in the meantime (`if-match`).
    #[response(status = 412)]
    Stale(ErrorBody),
    /// The body is too long.
    #[response(status = 413)]
    TooLong(ErrorBody),
    /// The content type or content encoding of the body is not supported.
    #[response(status = 415)]
    UnknownType(ErrorBody),
    /// The body does not match the documentation, or the `Idempotency-Key` was used with another request.
    #[response(status = 422)]
    Unprocessable(ErrorBody),
    /// The gateway failed.
    #[response(status = 500)]
    Failed(ErrorBody),
    /// The gateway, its store or a plugin is temporarily unavailable; `retry-after`, if present, says when to retry.
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

/// Errors of `/mcp` that are not part of the protocol. Those of methods and of tools are in JSON-RPC responses.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documentation: the answers themselves come from ApiError")]
pub(super) enum McpErrors {
    /// The body is not JSON, the headers do not match the message (then with a JSON-RPC error), or `x-api-key` was sent
    /// more than once.
    #[response(status = 400)]
    BadRequest(serde_json::Value),
    /// No key was sent.
    #[response(status = 401)]
    NoKey(ErrorBody),
    /// The key is invalid, or the request comes from a page of another origin.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// The server does not have the method (2026-07-28). The body is a JSON-RPC error.
    #[response(status = 404)]
    NotFound(serde_json::Value),
    /// `accept` does not name both `application/json` and `text/event-stream`.
    #[response(status = 406)]
    NotAcceptable(ErrorBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    TooSlow(ErrorBody),
    /// The body is longer than 1 MiB.
    #[response(status = 413)]
    TooLong(ErrorBody),
    /// The content type or content encoding of the body is not supported, or the body is no message of the protocol.
    #[response(status = 415)]
    UnknownType(ErrorBody),
    /// The gateway failed.
    #[response(status = 500)]
    Failed(ErrorBody),
    /// The gateway or its store is temporarily unavailable; `retry-after` says when to retry.
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

/// Errors of routes that call plugins: those that a plugin returns, and those that the sandbox stops it for.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documentation: the answers themselves come from ApiError")]
pub(super) enum PluginErrors {
    /// The caller or a plugin is rate-limited; `retry-after` says when to retry.
    #[response(status = 429)]
    TooMany(ErrorBody),
    /// A plugin failed, or a service that it depends on did.
    #[response(status = 502)]
    BadGateway(ErrorBody),
    /// A plugin, or a service that it depends on, took too long.
    #[response(status = 504)]
    TooSlow(ErrorBody),
}

/// Errors of the pages behind signed links.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documentation: the answers themselves come from ApiError")]
pub(super) enum LinkErrors {
    /// The approval does not exist, or the signature is not the link's.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The signature is missing.
    #[response(status = 422)]
    Unprocessable(ErrorBody),
    /// The store is temporarily unavailable; `retry-after` says when to retry.
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

/// Errors of the DocsGPT-compatible trigger.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documentation: the answers themselves come from ApiError")]
pub(super) enum AgentWebhookErrors {
    /// The body, the query or a header does not match the documentation.
    #[response(status = 400)]
    BadRequest(RefusalBody),
    /// The agent's mapping plugin cannot authenticate the sender.
    #[response(status = 401)]
    Unknown(RefusalBody),
    /// The agent is disabled, or its mapping plugin denies the sender access.
    #[response(status = 403)]
    Disabled(RefusalBody),
    /// No agent has this token, or the agent's mapping plugin cannot find what the payload names.
    #[response(status = 404)]
    NotFound(RefusalBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    TooSlow(RefusalBody),
    /// The agent's mapping plugin rejects the payload because it conflicts with the current state.
    #[response(status = 409)]
    Conflict(RefusalBody),
    /// The body is too long.
    #[response(status = 413)]
    TooLong(RefusalBody),
    /// The body is neither JSON nor declared as JSON, or its content encoding is not supported.
    #[response(status = 415)]
    NotJson(RefusalBody),
    /// A plugin is rate-limited; `retry-after` says when to retry.
    #[response(status = 429)]
    TooMany(RefusalBody),
    /// The gateway failed.
    #[response(status = 500)]
    Failed(RefusalBody),
    /// A plugin failed, or a service that it depends on did.
    #[response(status = 502)]
    BadGateway(RefusalBody),
    /// The gateway, its store or a plugin is temporarily unavailable; `retry-after`, if present, says when to retry.
    #[response(status = 503)]
    Unavailable(RefusalBody),
    /// A plugin, or a service that it depends on, took too long.
    #[response(status = 504)]
    PluginTooSlow(RefusalBody),
}

/// Errors of the routes for an agent's webhook URL.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documentation: the answers themselves come from ApiError")]
pub(super) enum WebhookUrlErrors {
    /// `id` is missing, or a header was sent more than once.
    #[response(status = 400)]
    BadRequest(RefusalBody),
    /// No key was sent.
    #[response(status = 401)]
    NoKey(RefusalBody),
    /// The key is invalid.
    #[response(status = 403)]
    Forbidden(RefusalBody),
    /// The agent does not exist, this key gives no access to it, or its webhook was revoked.
    #[response(status = 404)]
    NotFound(RefusalBody),
    /// The gateway or its store is temporarily unavailable; `retry-after` says when to retry.
    #[response(status = 503)]
    Unavailable(RefusalBody),
}
