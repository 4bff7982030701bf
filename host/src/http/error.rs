//! Error responses: `{"detail": …}` (CONTRACT X16). The header `x-wardgate-fault` says whose fault it was,
//! `x-wardgate-retry` whether a retry is safe, and `retry-after` when to retry, if that is known. If a retry may
//! help, the body says so too; all other bodies match the contract to the byte.

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::json;

use super::budget::OverBudget;
use super::task_headers::TaskHeaders;
use crate::access::Denied;
use crate::agent::ToolsError;
use crate::answer::AnswerError;
use crate::fault::Fault;
use crate::intake::IntakeError;
use crate::plugins::PluginUnavailable;
use crate::request::BadRequest;
use crate::runs::SubmitError;
use crate::sandbox::{PluginError, Refusal};
use crate::store::StoreError;

/// An error response.
#[derive(Debug)]
pub(super) struct ApiError {
    status: u16,
    detail: String,
    fault: Fault,
    retry: Retry,
    retry_after_seconds: Option<u64>,
    shape: Shape,
    /// Whether it is already logged, or too frequent to be logged each time.
    is_logged: bool,
    /// The task that the error is about, if there is one.
    task_headers: Option<TaskHeaders>,
}

/// A response extension: the error needs no further log entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct AlreadyLogged;

/// The `retry-after` of a plugin that is not set up, for example because a secret is missing, and of a channel
/// without its plugin: a person has to fix that first.
const NOT_SET_UP_RETRY_SECONDS: u64 = 60;

/// Whether a call was stopped because it took too long.
fn is_timeout(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Deadline { .. } | Refusal::OutOfCpuTime { .. })
}

/// Whether it is safe to send the same request again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Retry {
    /// Nothing was started, so a retry cannot run twice.
    Safe,
    /// The request may have been accepted. With an `Idempotency-Key`, a retry cannot run twice.
    WithIdempotencyKey,
    /// A retry would be rejected again, or would run again.
    Never,
}

impl Retry {
    fn as_str(self) -> &'static str {
        match self {
            Self::Safe => "safe",
            Self::WithIdempotencyKey => "with-idempotency-key",
            Self::Never => "never",
        }
    }
}

/// The body of an error response.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct ErrorBody {
    /// What happened, in one sentence.
    detail: String,
    /// Whether it is safe to send the same request again. Absent if it would be rejected again.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<Retry>,
}

/// The body of an error response of the DocsGPT-compatible routes.
#[derive(Debug, serde::Serialize, utoipa::ToSchema)]
pub(super) struct RefusalBody {
    /// Always `false`.
    success: bool,
    /// What happened, in one sentence.
    message: String,
    /// Whether it is safe to send the same request again. Absent if it would be rejected again.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry: Option<Retry>,
}

/// The shape of the body, which differs between the two products.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// `{"detail": …}`
    Detail,
    /// `{"success": false, "message": …}` (CONTRACT D3)
    Success,
}

impl ApiError {
    /// The request is wrong: the caller's fault.
    pub(super) fn caller(status: u16, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            fault: Fault::Caller,
            retry: Retry::Never,
            retry_after_seconds: None,
            shape: Shape::Detail,
            is_logged: false,
            task_headers: None,
        }
    }

    /// The gateway failed: its own fault.
    pub(super) fn host(detail: impl Into<String>) -> Self {
        Self { fault: Fault::Host, retry: Retry::Safe, ..Self::caller(500, detail) }
    }

    /// A server that the request needs failed, or refuses.
    pub(super) fn upstream(detail: impl Into<String>) -> Self {
        Self { fault: Fault::Upstream, retry: Retry::Safe, ..Self::caller(502, detail) }
    }

    /// The resource does not exist, or the caller may not know that it does.
    pub(super) fn not_found(what: &str) -> Self {
        Self::caller(404, format!("{what} not found"))
    }

    /// Something that the surface depends on is temporarily unavailable.
    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self {
            fault: Fault::Host,
            retry: Retry::Safe,
            retry_after_seconds: Some(1),
            ..Self::caller(503, detail)
        }
    }

    /// The gateway is shutting down before the work that the request started has ended. Whether that work had an
    /// effect is unknown.
    pub(super) fn stopping(what: &str) -> Self {
        let detail = format!("the gateway is stopping, and {what} has not ended yet");
        Self { retry: Retry::Never, retry_after_seconds: None, ..Self::unavailable(detail) }
    }

    /// Adds headers that name the task that the error is about.
    pub(super) fn about_task(self, task_headers: TaskHeaders) -> Self {
        Self { task_headers: Some(task_headers), ..self }
    }

    pub(super) fn retry_after(self, seconds: u64) -> Self {
        Self { retry: Retry::Safe, retry_after_seconds: Some(seconds), ..self }
    }

    /// Whether the request was rejected for lack of capacity.
    pub(super) fn is_shortage(&self) -> bool {
        self.status == 503
    }

    /// Rules out a retry: the task already exists, and a retry would start another one.
    pub(super) fn not_retryable(self) -> Self {
        Self { retry: Retry::Never, retry_after_seconds: None, ..self }
    }

    /// Makes a retry depend on an idempotency key: whether the task exists is unknown.
    pub(super) fn retry_with_key(self) -> Self {
        Self { retry: Retry::WithIdempotencyKey, ..self }
    }

    /// The same error in DocsGPT's shape; an invalid request also gets DocsGPT's message.
    pub(super) fn into_docsgpt_error(self) -> Self {
        let detail = if self.status == 400 && matches!(self.fault, Fault::Caller) {
            "Invalid or missing JSON data in request body".to_owned()
        } else {
            self.detail
        };
        Self { detail, shape: Shape::Success, ..self }
    }

    /// The same error in DocsGPT's shape, with its own message.
    pub(super) fn shaped_as_docsgpt(self) -> Self {
        Self { shape: Shape::Success, ..self }
    }

    pub(super) fn from_plugin(name: &str, error: &PluginError) -> Self {
        match error {
            PluginError::Failure(failure) => {
                let status = failure.status();
                let fault = match status {
                    400..=499 => Fault::Caller,
                    502 | 504 => Fault::Upstream,
                    _ => Fault::Guest,
                };
                let after = failure.retry_after_ms.map(|ms| ms.div_ceil(1_000));
                let passing = matches!(status, 429 | 500..) || after.is_some();
                Self {
                    fault,
                    retry: if passing { Retry::Safe } else { Retry::Never },
                    retry_after_seconds: after.or((status == 429).then_some(1)),
                    ..Self::caller(status, failure.message.clone())
                }
            }
            PluginError::Refusal(refusal) => {
                let detail = format!("The plugin {name} was stopped: {refusal}.");
                tracing::warn!(plugin = name, code = refusal.code(), %refusal, "a plugin call was refused");
                Self::of_refusal(refusal, detail)
            }
        }
    }

    /// The error of a direct tool call. A tool that has started may have had its effect before it failed, so a retry
    /// is not safe.
    pub(super) fn from_tool(name: &str, error: &PluginError) -> Self {
        let has_started = match error {
            // With 429, the tool itself says that it was too busy to start.
            PluginError::Failure(failure) => failure.status() != 429,
            PluginError::Refusal(
                Refusal::Busy(_)
                | Refusal::Quarantined { .. }
                | Refusal::NotSetUp(_)
                | Refusal::NoSuchRole { .. },
            ) => false,
            PluginError::Refusal(_) => true,
        };
        let api_error = Self::from_plugin(name, error);
        if has_started { api_error.not_retryable() } else { api_error }
    }

    fn of_refusal(refusal: &Refusal, detail: String) -> Self {
        let retry = match refusal {
            Refusal::NoSuchRole { .. } | Refusal::Malformed(_) => Retry::Never,
            // The request would exceed the same limit again, unless it is a limit on time.
            Refusal::RequestTooMuch(underlying) if !is_timeout(underlying) => Retry::Never,
            _ => Retry::Safe,
        };
        let (status, retry_after_seconds) = match refusal {
            Refusal::Busy(_) => (503, Some(1)),
            Refusal::Quarantined { retry_after_ms, .. } => {
                (503, Some(retry_after_ms.div_ceil(1_000)))
            }
            Refusal::NotSetUp(_) => (503, Some(NOT_SET_UP_RETRY_SECONDS)),
            Refusal::RequestTooMuch(underlying) if is_timeout(underlying) => (408, None),
            Refusal::RequestTooMuch(underlying) => match **underlying {
                Refusal::Trapped(_) | Refusal::Malformed(_) => (400, None),
                _ => (413, None),
            },
            refusal if is_timeout(refusal) => (504, None),
            Refusal::Host(_) => (500, None),
            _ => (502, None),
        };
        let fault = refusal.fault();
        Self { fault, retry, retry_after_seconds, ..Self::caller(status, detail) }
    }

    /// A plugin of the channel is unavailable. The log says why.
    pub(super) fn unusable_channel() -> Self {
        let detail = "the channel takes no requests at the moment";
        Self {
            is_logged: true,
            retry_after_seconds: Some(NOT_SET_UP_RETRY_SECONDS),
            ..Self::unavailable(detail)
        }
    }

    /// The response to a sender that is not authenticated, after a plugin's error: it contains what the plugin says
    /// to the sender, and no internals. Also returns the reason for the log, if there is more to say.
    pub(super) fn for_unauthenticated(name: &str, error: &PluginError) -> (Self, Option<String>) {
        let (api_error, reason) = match error {
            PluginError::Failure(failure) if failure.status() < 500 => {
                return (Self::from_plugin(name, error), None);
            }
            PluginError::Failure(failure) => {
                let detail = "the request could not be looked at".to_owned();
                (Self { detail, ..Self::from_plugin(name, error) }, failure.message.clone())
            }
            PluginError::Refusal(refusal) => {
                let detail = match refusal {
                    Refusal::RequestTooMuch(underlying) if is_timeout(underlying) => {
                        "looking at the request took too long"
                    }
                    Refusal::RequestTooMuch(_) => {
                        "the request cannot be looked at: it asks too much"
                    }
                    Refusal::Busy(_) => "the gateway is busy",
                    Refusal::NotSetUp(_) | Refusal::Quarantined { .. } => {
                        "the channel takes no requests at the moment"
                    }
                    _ => "the request could not be looked at",
                };
                (Self::of_refusal(refusal, detail.to_owned()), refusal.to_string())
            }
        };
        (Self { is_logged: true, ..api_error }, Some(format!("the plugin {name}: {reason}")))
    }
}

impl ApiError {
    /// Whether the caller is at fault.
    pub(super) fn is_of_caller(&self) -> bool {
        matches!(self.fault, Fault::Caller)
    }

    /// Returns the message alone, for a response that has a field for it.
    pub(super) fn into_detail(self) -> String {
        self.detail
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict { why, .. } => Self::caller(409, why),
            StoreError::Missing { .. } => Self::not_found("Tenant or agent"),
            StoreError::Stale { .. } => {
                Self::caller(412, "another client has changed it meanwhile; read it again")
            }
            StoreError::Busy { .. } => {
                let detail = "too much is being read at the moment; try again";
                Self { is_logged: true, ..Self::unavailable(detail) }
            }
            StoreError::Unavailable { .. } | StoreError::Corrupt { .. } => {
                // Logged with its cause: otherwise a full disk looks like any other failure.
                tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
                Self::unavailable("the gateway's store cannot be used at the moment; try again")
            }
        }
    }
}

impl From<OverBudget> for ApiError {
    fn from(over: OverBudget) -> Self {
        let (holder, fault) = match over {
            OverBudget::Gateway => ("the requests that the gateway has in hand", Fault::Host),
            OverBudget::Channel => ("requests by this channel", Fault::Policy),
            OverBudget::Tenant => ("requests of this tenant", Fault::Policy),
            OverBudget::Client => ("requests from this address", Fault::Policy),
        };
        let detail = format!(
            "the bodies of {holder}, with their answers, are as many bytes as they may be; try again"
        );
        // Not logged: senders can cause it as often as they like. The metrics report how many bytes are held.
        Self { fault, is_logged: true, ..Self::unavailable(detail) }
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NoKey => Self::caller(401, "API key not specified"),
            Denied::Invalid | Denied::Disabled => Self::caller(403, denied.to_string()),
            Denied::Store(error) => error.into(),
        }
    }
}

impl From<PluginUnavailable> for ApiError {
    fn from(error: PluginUnavailable) -> Self {
        if let PluginUnavailable::Store(error) = error {
            return error.into();
        }
        tracing::error!(%error, "a plugin cannot be had");
        Self::host(error.to_string())
    }
}

impl From<ToolsError> for ApiError {
    fn from(error: ToolsError) -> Self {
        match error {
            ToolsError::Unavailable(_, PluginUnavailable::Store(error)) => error.into(),
            ToolsError::Plugin(name, error) => Self::from_plugin(name.as_str(), &error),
            error @ ToolsError::Unavailable(..) => {
                tracing::warn!(%error, "an agent's tools cannot be used");
                Self { fault: Fault::Guest, ..Self::caller(502, error.to_string()) }
            }
        }
    }
}

impl From<BadRequest> for ApiError {
    fn from(error: BadRequest) -> Self {
        let BadRequest { status, detail } = error;
        Self::caller(status, detail)
    }
}

impl From<IntakeError> for ApiError {
    fn from(error: IntakeError) -> Self {
        match error {
            IntakeError::Request(error) => error.into(),
            IntakeError::Plugin(name, error) => Self::from_plugin(name.as_str(), &error),
            IntakeError::Unavailable(error) => error.into(),
        }
    }
}

impl From<SubmitError> for ApiError {
    fn from(error: SubmitError) -> Self {
        match error {
            SubmitError::Reading(error) => error.into(),
            SubmitError::Sealing(error) => {
                tracing::error!(%error, "the tokens of a user cannot be sealed");
                Self::host("the tokens of the user cannot be sealed")
            }
            SubmitError::Accepting(error) => Self::from(error).retry_with_key(),
        }
    }
}

impl From<AnswerError> for ApiError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::PathNotFound(_) => Self::caller(404, error.to_string()),
            AnswerError::Plugin(name, error) => Self::from_plugin(name.as_str(), &error),
            AnswerError::Unavailable(error) => error.into(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let may_help = matches!(self.status, 408 | 409 | 429 | 500..);
        let retry = may_help.then_some(self.retry);
        let body = match self.shape {
            Shape::Detail => json!(ErrorBody { detail: self.detail, retry }),
            Shape::Success => json!(RefusalBody { success: false, message: self.detail, retry }),
        };
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-wardgate-fault", HeaderValue::from_static(self.fault.as_str()));
        headers.insert("x-wardgate-retry", HeaderValue::from_static(self.retry.as_str()));
        if let Some(task_headers) = self.task_headers {
            task_headers.set(headers);
        }
        if self.is_logged {
            response.extensions_mut().insert(AlreadyLogged);
        }
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}
