//! Errors as callers see them: `{"detail": …}` (CONTRACT X16), whose fault it was in the header
//! `x-wardgate-fault`, and `retry-after` where trying again makes sense.

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use serde_json::json;

use crate::access::Denied;
use crate::answer::AnswerError;
use crate::intake::IntakeError;
use crate::plugins::PluginUnavailable;
use crate::sandbox::{Fault, PluginError, Refusal};
use crate::store::StoreError;

/// An error answer.
#[derive(Debug)]
pub(super) struct ApiError {
    status: u16,
    detail: String,
    fault: Fault,
    retry_after_seconds: Option<u64>,
    shape: Shape,
}

/// The two products write errors differently.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// `{"detail": …}`
    Detail,
    /// `{"success": false, "message": …}` (CONTRACT D3)
    Success,
}

impl ApiError {
    /// The request is wrong.
    pub(super) fn caller(status: u16, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            fault: Fault::Caller,
            retry_after_seconds: None,
            shape: Shape::Detail,
        }
    }

    /// The gateway is wrong.
    pub(super) fn host(detail: impl Into<String>) -> Self {
        Self { status: 500, fault: Fault::Host, ..Self::caller(500, detail) }
    }

    /// Something behind the surface is not there now.
    fn unavailable(detail: impl Into<String>) -> Self {
        Self {
            status: 503,
            fault: Fault::Host,
            retry_after_seconds: Some(1),
            ..Self::caller(503, detail)
        }
    }

    pub(super) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_seconds: Some(seconds), ..self }
    }

    /// The same error in DocsGPT's words.
    pub(super) fn worded_as_docsgpt(self) -> Self {
        let detail = if self.status == 400 && matches!(self.fault, Fault::Caller) {
            "Invalid or missing JSON data in request body".to_owned()
        } else {
            self.detail
        };
        Self { detail, shape: Shape::Success, ..self }
    }

    /// The same error in DocsGPT's shape, its own words kept.
    pub(super) fn shaped_as_docsgpt(self) -> Self {
        Self { shape: Shape::Success, ..self }
    }

    fn of_plugin(name: &str, error: &PluginError) -> Self {
        match error {
            PluginError::Failure(failure) => {
                let status = failure.status();
                let fault = match status {
                    400..=499 => Fault::Caller,
                    502 | 504 => Fault::Upstream,
                    _ => Fault::Guest,
                };
                let retry = failure.retry_after_ms.map(|ms| ms.div_ceil(1_000));
                Self {
                    status,
                    detail: failure.message.clone(),
                    fault,
                    retry_after_seconds: retry,
                    shape: Shape::Detail,
                }
            }
            PluginError::Refusal(refusal) => {
                let detail = format!("The plugin {name} was stopped: {refusal}.");
                tracing::warn!(plugin = name, code = refusal.code(), %refusal, "a plugin call was refused");
                let (status, retry_after_seconds) = match refusal {
                    Refusal::Busy => (503, Some(1)),
                    Refusal::Deadline { .. } | Refusal::OutOfCpuTime { .. } => (504, None),
                    Refusal::Host(_) => (500, None),
                    _ => (502, None),
                };
                Self {
                    status,
                    detail,
                    fault: refusal.fault(),
                    retry_after_seconds,
                    shape: Shape::Detail,
                }
            }
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        Self::unavailable("the gateway's store cannot be used at the moment; try again")
    }
}

impl From<Denied> for ApiError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::NoKey => Self::caller(401, "API key not specified"),
            Denied::Invalid => Self::caller(403, "Invalid API key"),
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

impl From<IntakeError> for ApiError {
    fn from(error: IntakeError) -> Self {
        match error {
            IntakeError::Request { status, detail } => Self::caller(status, detail),
            IntakeError::Plugin(name, error) => Self::of_plugin(name.as_str(), &error),
            IntakeError::Unavailable(error) => error.into(),
        }
    }
}

impl From<AnswerError> for ApiError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::NothingThere(_) => Self::caller(404, error.to_string()),
            AnswerError::Plugin(name, error) => Self::of_plugin(name.as_str(), &error),
            AnswerError::Unavailable(error) => error.into(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = match self.shape {
            Shape::Detail => json!({"detail": self.detail}),
            Shape::Success => json!({"success": false, "message": self.detail}),
        };
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, body.to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-wardgate-fault", HeaderValue::from_static(self.fault.as_str()));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}
