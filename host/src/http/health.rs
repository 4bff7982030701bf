//! `GET /healthz`: whether the gateway can do its work, and what it runs on.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;

use super::Handle;
use super::error::ApiError;
use super::webhook::json_answer;

/// 200 where the store answers, 503 where it does not.
pub(super) async fn read(State(handles): Handle) -> Result<Response, ApiError> {
    handles.store.answers().await?;
    let health = json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "plugin_interface": "wardgate:plugin@0.1.0",
    });
    Ok(json_answer(StatusCode::OK, health.to_string()))
}
