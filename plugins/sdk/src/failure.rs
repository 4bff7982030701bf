//! How a plugin says no.

use crate::Failure;
use alloc::string::String;

/// A failure is a code and one sentence for the caller. The codes with a constructor become an HTTP
/// status; any other code is allowed, and becomes 500.
///
/// ```
/// # use wardgate_sdk::Failure;
/// let failure = Failure::upstream("the ticket system is down").retry_after_ms(30_000);
/// assert_eq!(failure.code, "upstream");
/// ```
impl Failure {
    /// A failure with a code of the plugin's own: HTTP 500.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retry_after_ms: None, extra: None }
    }

    /// The caller sent something that makes no sense: HTTP 400.
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::new("invalid-input", message)
    }

    /// The caller did not prove who it is: HTTP 401.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new("unauthorized", message)
    }

    /// The caller is known, and may not do this: HTTP 403.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new("forbidden", message)
    }

    /// What the caller speaks of does not exist: HTTP 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new("not-found", message)
    }

    /// The request contradicts the state of things: HTTP 409.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new("conflict", message)
    }

    /// The caller comes too often: HTTP 429. Say with [`Self::retry_after_ms`] when to come back.
    pub fn rate_limited(message: impl Into<String>) -> Self {
        Self::new("rate-limited", message)
    }

    /// A service that the plugin relies on failed: HTTP 502.
    pub fn upstream(message: impl Into<String>) -> Self {
        Self::new("upstream", message)
    }

    /// A service that the plugin relies on did not answer in time: HTTP 504.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new("timeout", message)
    }

    /// Says that trying again makes sense, and when.
    #[must_use]
    pub fn retry_after_ms(mut self, milliseconds: u64) -> Self {
        self.retry_after_ms = Some(milliseconds);
        self
    }
}
