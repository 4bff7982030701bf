//! A request as it arrived, before anybody has decided what it means. Plain data; the sandbox shows it
//! to plugins, intake resolves it.

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

/// What a mapping may set (CONTRACT X9).
pub const MAPPABLE: [&str; 6] =
    ["task_id", "user_id", "user_email", "user_first_name", "user_last_name", "prompt"];

/// One HTTP request, its body already read and bounded.
#[derive(Debug)]
pub struct IncomingRequest {
    /// The method.
    pub method: Method,
    /// The path, percent-encoded as it arrived. Empty where it holds a credential (webhook tokens).
    pub path: String,
    /// The query without `x-api-key`, percent-encoded.
    pub query: String,
    /// The headers without the gateway's own credentials.
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The body as JSON, where it is JSON or can be read as such; else the empty object.
    pub payload: Payload,
    /// Why the body could not be read, where there is one that could not.
    pub unreadable: Option<BadRequest>,
}

/// Why a body cannot be read as a payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct BadRequest {
    /// 400, or 415 for a type that is not read.
    pub status: u16,
    /// For its sender.
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

/// How a caller wants the answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AnswerWanted {
    /// At once, before the run (CONTRACT X21).
    pub asynchronous: bool,
    /// One value instead of the task (CONTRACT X11).
    pub getter: Option<String>,
    /// `result` as JSON where it is JSON (CONTRACT X12).
    pub json: bool,
    /// What the caller prefers of the waiting.
    pub prefer: Prefer,
}
