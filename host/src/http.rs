//! The HTTP surface: its routes, and the rules that apply to all of them.
//!
//! | file | surface |
//! |---|---|
//! | `webhook` | `POST /` (xpander) |
//! | `agent_webhook` | `/api/webhooks/agents/{token}` (DocsGPT) |
//! | `webhook_url` | `/api/agent_webhook` (DocsGPT) |
//! | `task_status` | `GET /api/task_status` (DocsGPT) |
//! | `hooks` | `/hooks/{channel}` |
//! | `rest` | `/v1/…`, the same routes without the prefix, and aliases for xpander's SDK |
//! | `mcp` | `/mcp` |
//! | `admin` | `/admin/…` |
//! | `openapi` | `/openapi.json` and `/docs` |
//! | `health` | `GET /healthz` |
//! | `metrics` | `GET /metrics` |

mod admin;
mod agent_webhook;
mod aliases;
mod approvals;
mod body;
pub mod budget;
mod client;
mod concurrency;
mod error;
mod extract;
mod health;
mod hooks;
mod layers;
mod mcp;
mod metrics;
pub mod openapi;
mod plugin_reply;
mod reply;
mod responses;
mod rest;
pub mod serve;
mod state;
mod submission;
mod task_headers;
mod task_status;
mod webhook;
mod webhook_url;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use error::ApiError;
use state::HttpState;
pub use state::Services;

/// Builds the router of all routes, on these services.
pub fn router(services: &Services) -> Router {
    let state = HttpState::new(services);
    let Routes { callers, hooks, managers, document } = routes();
    // A layer sees the responses of the routes above it. Layers after `fallback` see every response of the gateway,
    // except those of the HTTP library itself.
    let refused =
        |router: Router<HttpState>| router.method_not_allowed_fallback(method_not_allowed);
    refused(callers.merge(openapi::routes(&document)))
        .layer(layers::cors())
        .layer(from_fn(layers::cloudevents_handshake))
        .merge(refused(hooks).layer(from_fn(layers::cors_of_hooks)))
        // Without CORS: only pages of the gateway's own origin can manage it.
        .merge(refused(managers))
        .fallback(not_found)
        .layer(from_fn_with_state(state.clone(), layers::route_to_bulk_lane))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(state.clone(), layers::charge_responses))
        .layer(from_fn(layers::identify))
        .with_state(state)
}

/// The OpenAPI document of every route.
#[must_use]
pub fn document() -> OpenApi {
    routes().document
}

/// The routes by kind of caller, and the OpenAPI document of all of them.
struct Routes {
    callers: Router<HttpState>,
    /// Called by providers, whose `OPTIONS` requests may be for the channel's plugins.
    hooks: Router<HttpState>,
    managers: Router<HttpState>,
    document: OpenApi,
}

fn routes() -> Routes {
    let (callers, document) = OpenApiRouter::with_openapi(openapi::base_document())
        .routes(routes!(webhook::receive))
        .routes(routes!(
            agent_webhook::receive,
            agent_webhook::receive_query,
            agent_webhook::refuse_head
        ))
        .routes(routes!(webhook_url::read, webhook_url::revoke))
        .routes(routes!(webhook_url::rotate))
        .routes(routes!(task_status::read))
        .merge(rest::router())
        .routes(routes!(health::read))
        .split_for_parts();
    let (hooks, receiving) = OpenApiRouter::new()
        .routes(routes!(hooks::receive, hooks::receive_query, hooks::receive_options, hooks::probe))
        .split_for_parts();
    let (managers, managing) = admin::router()
        .routes(routes!(metrics::read))
        // A page of another origin must not call it, whatever key it has.
        .routes(routes!(mcp::receive))
        .routes(routes!(approvals::show, approvals::decide_by_link))
        .split_for_parts();
    let mut document = document.merge_from(managing).merge_from(receiving);
    openapi::describe_responses(&mut document);
    Routes { callers, hooks, managers, document }
}

/// The intake of `POST /` alone: responds with the resolved parameters and starts nothing. The benchmark compares it
/// with a handler that does the same without a sandbox.
#[cfg(feature = "bench")]
pub fn intake_router(services: &Services) -> Router {
    let route = axum::routing::post(webhook::resolve_only);
    Router::new().route("/", route).with_state(HttpState::new(services))
}

async fn not_found() -> ApiError {
    ApiError::caller(404, "Not Found")
}

async fn method_not_allowed() -> ApiError {
    ApiError::caller(405, "Method Not Allowed")
}

/// Responds to a panic in a handler, which is a bug in the gateway. The response contains no details; the panic hook
/// reports them.
fn panicked(_panic: Box<dyn std::any::Any + Send + 'static>) -> Response {
    use axum::response::IntoResponse as _;
    tracing::error!("a handler panicked");
    ApiError::host("the gateway failed to handle the request").into_response()
}
