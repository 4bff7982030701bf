//! The errors that routes can give, as sets for the OpenAPI document. A set names every status of its
//! routes; bodies are those of `error`.

use utoipa::IntoResponses;

use super::error::{ErrorBody, RefusalBody};

/// Reading with a key.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documentation: the answers themselves come from ApiError")]
pub(super) enum ReadErrors {
    /// `x-api-key` was sent more than once.
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// No key was sent.
    #[response(status = 401)]
    NoKey(ErrorBody),
    /// The key is wrong, or not for this.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// There is no such thing, as far as this key may know.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The query is not as documented.
    #[response(status = 422)]
    Unprocessable(ErrorBody),
    /// The store cannot be used at the moment; `retry-after` says when to try again.
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

/// Changing something with a key.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documentation: the answers themselves come from ApiError")]
pub(super) enum WriteErrors {
    /// The body is not what it is declared as, or `x-api-key` was sent more than once.
    #[response(status = 400)]
    BadRequest(ErrorBody),
    /// No key was sent.
    #[response(status = 401)]
    NoKey(ErrorBody),
    /// The key is wrong, or not for this; or the agent is disabled.
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// There is no such thing, as far as this key may know.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    TooSlow(ErrorBody),
    /// What is there already is in the way; under an `Idempotency-Key`: the original still runs.
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// It was changed by somebody else meanwhile (`if-match`).
    #[response(status = 412)]
    Stale(ErrorBody),
    /// The body is too long.
    #[response(status = 413)]
    TooLong(ErrorBody),
    /// The body is of a type that is not read.
    #[response(status = 415)]
    UnknownType(ErrorBody),
    /// The body is readable and not as documented; or the `Idempotency-Key` belongs to another request.
    #[response(status = 422)]
    Unprocessable(ErrorBody),
    /// The gateway failed.
    #[response(status = 500)]
    Failed(ErrorBody),
    /// The store cannot be used at the moment; `retry-after` says when to try again.
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

/// Where a plugin has a say: its own refusals, and what the sandbox stops it for.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documentation: the answers themselves come from ApiError")]
pub(super) enum PluginErrors {
    /// The caller, or the plugin, calls too often; `retry-after` says when to try again.
    #[response(status = 429)]
    TooMany(ErrorBody),
    /// A plugin failed, or something behind it did.
    #[response(status = 502)]
    BadGateway(ErrorBody),
    /// A plugin, or something behind it, took too long.
    #[response(status = 504)]
    TooSlow(ErrorBody),
}

/// The DocsGPT-compatible routes.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documentation: the answers themselves come from ApiError")]
pub(super) enum HookErrors {
    /// The body, the query or a header is not as documented.
    #[response(status = 400)]
    BadRequest(RefusalBody),
    /// The agent's mapping plugin does not know the sender.
    #[response(status = 401)]
    Unknown(RefusalBody),
    /// The agent is disabled, or its mapping plugin refuses the sender.
    #[response(status = 403)]
    Disabled(RefusalBody),
    /// No agent has this token, or the agent's mapping plugin does not find what the payload names.
    #[response(status = 404)]
    NotFound(RefusalBody),
    /// The body did not arrive in time.
    #[response(status = 408)]
    TooSlow(RefusalBody),
    /// The agent's mapping plugin refuses the payload for what is there already.
    #[response(status = 409)]
    Conflict(RefusalBody),
    /// The body is too long.
    #[response(status = 413)]
    TooLong(RefusalBody),
    /// The body is no JSON and is not declared as JSON.
    #[response(status = 415)]
    NotJson(RefusalBody),
    /// A plugin calls too often; `retry-after` says when to try again.
    #[response(status = 429)]
    TooMany(RefusalBody),
    /// The gateway failed.
    #[response(status = 500)]
    Failed(RefusalBody),
    /// A plugin failed, or something behind it did.
    #[response(status = 502)]
    BadGateway(RefusalBody),
    /// The store cannot be used at the moment; `retry-after` says when to try again.
    #[response(status = 503)]
    Unavailable(RefusalBody),
    /// A plugin, or something behind it, took too long.
    #[response(status = 504)]
    PluginTooSlow(RefusalBody),
}

/// Managing an agent's webhook.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documentation: the answers themselves come from ApiError")]
pub(super) enum HookUrlErrors {
    /// No `id`, or a header that was sent more than once.
    #[response(status = 400)]
    BadRequest(RefusalBody),
    /// No key was sent.
    #[response(status = 401)]
    NoKey(RefusalBody),
    /// The key is wrong.
    #[response(status = 403)]
    Forbidden(RefusalBody),
    /// There is no such agent, as far as this key may know; or its webhook was revoked.
    #[response(status = 404)]
    NotFound(RefusalBody),
    /// The store cannot be used at the moment; `retry-after` says when to try again.
    #[response(status = 503)]
    Unavailable(RefusalBody),
}
