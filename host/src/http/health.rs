//! `GET /healthz`: whether the gateway can work, and its versions.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;

use super::error::{ApiError, ErrorBody};
use super::reply::json_answer;
use crate::store::Store;

/// The health of the gateway.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "documentation: the answer is written as JSON")]
pub(super) struct Health {
    /// Always `ok`.
    status: String,
    /// The gateway's version.
    version: String,
    /// The newest plugin interface that the gateway supports.
    plugin_interface: String,
}

/// Check the gateway's health.
///
/// 200 if the store responds, 503 if it does not.
#[utoipa::path(get, path = "/healthz",
    operation_id = "read_health", tag = "gateway",
    responses((status = 200, body = Health),
              (status = 503, body = ErrorBody, description = "The store does not respond.")),
    security(()))]
pub(super) async fn read(State(store): State<Store>) -> Result<Response, ApiError> {
    store.ping().await?;
    let health = json!({
        "status": "ok",
        "version": env!("CARGO_PKG_VERSION"),
        "plugin_interface": concat!("wardgate:plugin@", env!("PLUGIN_INTERFACE_VERSION")),
    });
    Ok(json_answer(StatusCode::OK, health.to_string()))
}
