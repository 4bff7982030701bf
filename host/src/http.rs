//! The HTTP surface: routes, and the rules that hold for all of them.
//!
//! | file | surface |
//! |---|---|
//! | `webhook` | `POST /` (xpander) |
//! | `agent_webhook` | `/api/webhooks/agents/{token}` (DocsGPT) |
//! | `webhook_url` | `/api/agent_webhook` (DocsGPT) |
//! | `task_status` | `GET /api/task_status` (DocsGPT) |
//! | `hooks` | `/hooks/{channel}` |
//! | `rest` | `/v1/…`, the same without a prefix, and the names of xpander's SDK |
//! | `admin` | `/admin/…` |
//! | `openapi` | `/openapi.json` and `/docs` |
//! | `health` | `GET /healthz` |
//! | `metrics` | `GET /metrics` |

mod admin;
mod agent_webhook;
mod aliases;
mod body;
pub mod budget;
mod client;
mod error;
mod extract;
mod health;
mod hooks;
mod layers;
mod marks;
mod metrics;
pub mod openapi;
pub mod places;
mod plugin_reply;
mod reply;
mod responses;
mod rest;
pub mod serve;
mod submission;
mod task_status;
mod webhook;
mod webhook_url;

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::Access;
use crate::access::webhooks::Webhooks;
use crate::answer::PostRunRecorder;
use crate::bulk::BulkLane;
use crate::channel::Channels;
use crate::clock::Clock;
use crate::plugins::Plugins;
use crate::runs::Runs;
use crate::secrets::PlainSecret;
use crate::settings::HttpSettings;
use crate::store::Store;
use crate::vault::Vault;
use budget::BodyBudget;
use error::ApiError;
use places::{Operations, Streams};

/// What handlers reach: one struct, every handle by its name.
#[derive(Debug)]
pub struct Handles {
    /// Proof of access.
    pub access: Access,
    /// Mappers and getters.
    pub plugins: Plugins,
    /// Where tasks are accepted.
    pub runs: Runs,
    /// Where tasks are read.
    pub store: Store,
    /// Tokens of agents' own webhooks.
    pub webhooks: Webhooks,
    /// Tenants' secrets.
    pub vault: Vault,
    /// Where providers' webhooks come in.
    pub channels: Channels,
    /// Where calls of plugins about ended tasks are noted.
    pub post_run: PostRunRecorder,
    /// Names of the models that agents may have, besides `offline`.
    pub models: Vec<String>,
    /// The base of URLs that are handed out, without a slash at its end.
    pub public_url: String,
    /// What time it is.
    pub clock: Clock,
    /// Limits of the surface.
    pub settings: HttpSettings,
    /// Comes when the gateway is about to stop: whoever waits is answered with what there is.
    pub hurry: CancellationToken,
    /// Event streams that are open.
    pub streams: Streams,
    /// Tools that are called directly.
    pub operations: Operations,
    /// As many of those one tenant may have: as many as runs, which call tools too.
    pub operations_per_tenant_max: usize,
    /// What request bodies may hold together.
    pub bodies: BodyBudget,
    /// Where requests with long bodies are handled, and runs about them.
    pub bulk: Arc<BulkLane>,
}

impl Handles {
    /// The URL of the webhook that has this token.
    fn webhook_url(&self, token: &PlainSecret) -> String {
        format!("{}/api/webhooks/agents/{}", self.public_url, token.reveal())
    }
}

type Handle = State<Arc<Handles>>;

/// Every route.
pub fn router(handles: Arc<Handles>) -> Router {
    let Routes { callers, hooks, managers, document } = routes();
    // A layer sees the answers of what stands above it. Those after `fallback` see every answer of the gateway, but
    // for those of the HTTP library itself.
    let refused =
        |router: Router<Arc<Handles>>| router.method_not_allowed_fallback(method_not_allowed);
    refused(callers.merge(openapi::routes(&document)))
        .layer(layers::cors())
        .layer(from_fn(layers::allow_events))
        .merge(refused(hooks).layer(from_fn(layers::cors_of_hooks)))
        // A console is served from here itself: no other page has business with this.
        .merge(refused(managers))
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(&handles), layers::long_on_bulk_lane))
        .layer(tower_http::catch_panic::CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Arc::clone(&handles), layers::hold_answers))
        .layer(from_fn(layers::identify))
        .with_state(handles)
}

/// The OpenAPI document of every route.
#[must_use]
pub fn document() -> OpenApi {
    routes().document
}

/// Routes, by who asks for them, and the document of all.
struct Routes {
    callers: Router<Arc<Handles>>,
    /// Providers: an `OPTIONS` of theirs may be for the channel's plugins.
    hooks: Router<Arc<Handles>>,
    managers: Router<Arc<Handles>>,
    document: OpenApi,
}

fn routes() -> Routes {
    let (callers, document) = OpenApiRouter::with_openapi(openapi::beginning())
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
    let (managers, managing) = admin::router().routes(routes!(metrics::read)).split_for_parts();
    let mut document = document.merge_from(managing).merge_from(receiving);
    openapi::describe_responses(&mut document);
    Routes { callers, hooks, managers, document }
}

/// The intake of `POST /` alone: answers the resolved parameters and starts nothing. For the benchmark,
/// which compares it with a handler that does the same without a sandbox.
#[cfg(feature = "bench")]
pub fn intake_router(handles: Arc<Handles>) -> Router {
    Router::new().route("/", axum::routing::post(webhook::resolve_only)).with_state(handles)
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
