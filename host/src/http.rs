//! The HTTP surface: routes, and the rules that hold for all of them.
//!
//! | file | surface |
//! |---|---|
//! | `webhook` | `POST /` (xpander) |
//! | `agent_webhook` | `/api/webhooks/agents/{token}` (DocsGPT) |
//! | `task_status` | `GET /api/task_status` (DocsGPT) |
//! | `rest` | `GET /v1/tasks/…` (xpander) |
//! | `health` | `GET /healthz` |

mod agent_webhook;
mod body;
mod error;
mod health;
mod rest;
pub mod serve;
mod task_status;
mod webhook;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};

use crate::access::Access;
use crate::plugins::Plugins;
use crate::queue::Queue;
use crate::settings::HttpSettings;
use crate::store::Store;
use error::ApiError;

/// What handlers reach: one struct, every handle by its name.
#[derive(Debug)]
pub struct Handles {
    /// Proof of access.
    pub access: Access,
    /// Mappers and getters.
    pub plugins: Plugins,
    /// Where tasks are accepted.
    pub queue: Queue,
    /// Where tasks are read.
    pub store: Store,
    /// Limits of the surface.
    pub settings: HttpSettings,
}

type Handle = State<Arc<Handles>>;

/// Every route.
pub fn router(handles: Arc<Handles>) -> Router {
    Router::new()
        .route("/", post(webhook::receive))
        .route(
            "/api/webhooks/agents/{token}",
            // A GET starts a run here, and a HEAD must not: it would be answered like a GET.
            get(agent_webhook::receive_query).post(agent_webhook::receive).head(method_not_allowed),
        )
        .route("/api/task_status", get(task_status::read))
        .route("/v1/tasks/{id}", get(rest::task))
        .route("/v1/tasks/{id}/thread", get(rest::thread))
        .route("/healthz", get(health::read))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(panicked))
        .with_state(handles)
}

/// The intake of `POST /` alone: answers the resolved parameters and starts nothing. For the benchmark,
/// which compares it with a handler that does the same without a sandbox.
pub fn intake_router(handles: Arc<Handles>) -> Router {
    Router::new().route("/", post(webhook::resolve_only)).with_state(handles)
}

async fn not_found() -> ApiError {
    ApiError::caller(404, "Not Found")
}

async fn method_not_allowed() -> ApiError {
    ApiError::caller(405, "Method Not Allowed")
}

/// A panic in a handler is our bug: the caller learns that much, the log has the rest.
fn panicked(_panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    use axum::response::IntoResponse as _;
    tracing::error!("a handler panicked");
    ApiError::host("the gateway failed to handle the request").into_response()
}
