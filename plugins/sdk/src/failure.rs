//! Constructors of [`Failure`], the error type of every plugin function.

use crate::Failure;
use alloc::string::String;

/// A failure is a code and one sentence for the caller. Each code with a constructor below maps to an
/// HTTP status; any other code is allowed and maps to 500.
///
/// ```
/// # use wardgate_sdk::Failure;
/// let failure = Failure::upstream("the ticket system is down").retry_after_ms(30_000);
/// assert_eq!(failure.code, "upstream");
/// ```
impl Failure {
    /// A failure with any code: HTTP 500, unless the code has a constructor here.
    pub fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), retry_after_ms: None, extra: None }
    }

    /// The input is invalid: HTTP 400.
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::new("invalid-input", message)
    }

    /// The sender is not authenticated: HTTP 401.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new("unauthorized", message)
    }

    /// The sender is authenticated but not allowed to do this: HTTP 403.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new("forbidden", message)
    }

    /// What the request refers to does not exist: HTTP 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new("not-found", message)
    }

    /// The request conflicts with the current state: HTTP 409.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new("conflict", message)
    }

    /// The caller sends too many requests: HTTP 429. Set with [`Self::retry_after_ms`] when to retry.
    pub fn rate_limited(message: impl Into<String>) -> Self {
        Self::new("rate-limited", message)
    }

    /// A service that the plugin depends on failed: HTTP 502.
    pub fn upstream(message: impl Into<String>) -> Self {
        Self::new("upstream", message)
    }

    /// A service that the plugin depends on did not respond in time: HTTP 504.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new("timeout", message)
    }

    /// Sets how long to wait before a retry can succeed.
    #[must_use]
    pub fn retry_after_ms(mut self, milliseconds: u64) -> Self {
        self.retry_after_ms = Some(milliseconds);
        self
    }
}
