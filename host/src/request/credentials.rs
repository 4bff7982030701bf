//! Which parts of a request are credentials, by name. Names are compared without regard to case: `X-API-KEY` in a
//! query is the key, and must not pass as one of the caller's own fields.

/// The gateway's API key, in a header or in the query of `POST /` (CONTRACT X4).
pub const API_KEY: &str = "x-api-key";

/// The user's tokens, in the query or the body (CONTRACT X8).
pub const USER_TOKENS: &str = "user_tokens";

/// Headers that carry credentials, for the gateway or for any other service.
pub const HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", API_KEY];

/// Whether a parameter of this name holds an API key of the gateway.
#[must_use]
pub fn is_api_key(name: &str) -> bool {
    name.eq_ignore_ascii_case(API_KEY)
}

/// Whether a parameter of this name holds the user's tokens.
#[must_use]
pub fn is_user_tokens(name: &str) -> bool {
    name.eq_ignore_ascii_case(USER_TOKENS)
}
