//! A request as it arrived, before anybody has decided what it means. Plain data; the sandbox shows it
//! to plugins, intake resolves it.

pub mod credentials;
pub mod kept;
pub mod payload;

use bytes::Bytes;
use http::{HeaderMap, Method};

pub use payload::{Payload, PayloadError};

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
    /// The body as JSON, where it is JSON or a form.
    pub payload: Payload,
}
