//! An HTTP request as received, before interpretation. Plain data: the sandbox exposes it to plugins, and intake
//! resolves it.

pub(crate) mod body;
pub(crate) mod cloud_event;
pub mod content;
pub mod credentials;
pub mod payload;
pub mod prefer;
pub mod query;
pub mod stored;

use bytes::Bytes;
use http::{HeaderMap, Method};

pub use payload::{Payload, PayloadError};
pub use prefer::Prefer;

/// The parameters that a mapping may set (CONTRACT X9).
pub const MAPPABLE: [&str; 6] =
    ["task_id", "user_id", "user_email", "user_first_name", "user_last_name", "prompt"];

/// One HTTP request, with its body read and bounded.
#[derive(Debug)]
pub struct IncomingRequest {
    /// The HTTP method.
    pub method: Method,
    /// The path, percent-encoded as it arrived. Empty if it holds a credential (a webhook token).
    pub path: String,
    /// The query string without `x-api-key`, percent-encoded.
    pub query: String,
    /// The headers without the gateway's own credentials.
    pub headers: HeaderMap,
    /// The raw body.
    pub body: Bytes,
    /// The body as JSON if it is JSON or converts to JSON; otherwise the empty object.
    pub payload: Payload,
    /// Why the body could not be read, if it could not.
    pub unreadable: Option<BadRequest>,
}

/// Why a body cannot be read as a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct BadRequest {
    /// 400, or 415 for an unsupported content type.
    pub status: u16,
    /// The error message for the caller.
    pub detail: String,
}

impl BadRequest {
    pub(crate) fn bad(detail: &str) -> Self {
        Self { status: 400, detail: detail.to_owned() }
    }

    pub(crate) fn unsupported(detail: &str) -> Self {
        Self { status: 415, detail: detail.to_owned() }
    }
}

/// How the caller wants the response.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResponseOptions {
    /// Respond immediately, before the run (CONTRACT X21).
    pub asynchronous: bool,
    /// Return one value, selected by this getter, instead of the task (CONTRACT X11).
    pub getter: Option<String>,
    /// Return `result` as JSON if it is JSON (CONTRACT X12).
    pub json: bool,
    /// The caller's `Prefer` header.
    pub prefer: Prefer,
}
