//! A request as it arrived, before anybody has decided what it means. Plain data; the sandbox shows it
//! to plugins, intake resolves it.

pub mod credentials;
pub mod kept;
pub mod payload;

use bytes::Bytes;
use http::{HeaderMap, Method};

pub use payload::{Payload, PayloadError};

/// What a mapping may set (CONTRACT X9).
pub const MAPPABLE: [&str; 6] =
    ["task_id", "user_id", "user_email", "user_first_name", "user_last_name", "prompt"];

/// One HTTP request, its body already read and bounded.
#[derive(Debug)]
pub struct IncomingCall {
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
    pub unreadable: Option<Unreadable>,
}

/// Why a body is no payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// 400, or 415 for a type that is not read.
    pub status: u16,
    /// For its sender.
    pub detail: String,
}
