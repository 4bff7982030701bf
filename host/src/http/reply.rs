//! Builds JSON responses.

use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use super::error::ApiError;

/// A response with this value as JSON.
pub(super) fn json<T: Serialize>(status: StatusCode, body: &T) -> Response {
    match serde_json::to_string(body) {
        Ok(text) => json_answer(status, text),
        Err(error) => {
            tracing::error!(%error, "an answer cannot be written");
            ApiError::host("the gateway failed to write its answer").into_response()
        }
    }
}

/// A response with this text, which is already JSON.
pub(super) fn json_answer(status: StatusCode, body: String) -> Response {
    let json = HeaderValue::from_static("application/json");
    (status, [(CONTENT_TYPE, json)], body).into_response()
}
