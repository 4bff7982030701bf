//! What in a request is a credential, by its name. A name in another case is the same name: whoever writes
//! `X-API-KEY` in a query means the key, and it must not pass for a field of his.

/// The key of the gateway, in a header or in the query of `POST /` (CONTRACT X4).
pub const API_KEY: &str = "x-api-key";

/// Tokens of the user, in the query or the body (CONTRACT X8).
pub const USER_TOKENS: &str = "user_tokens";

/// Headers that are credentials, whoever they are for.
pub const HEADERS: [&str; 4] = ["authorization", "proxy-authorization", "cookie", API_KEY];

/// Whether a parameter of this name is a key of the gateway.
#[must_use]
pub fn is_api_key(name: &str) -> bool {
    name.eq_ignore_ascii_case(API_KEY)
}

/// Whether a parameter of this name holds tokens of the user.
#[must_use]
pub fn is_user_tokens(name: &str) -> bool {
    name.eq_ignore_ascii_case(USER_TOKENS)
}
