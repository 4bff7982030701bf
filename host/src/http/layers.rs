//! Middleware for all requests: ids and logging, the bulk lane for long bodies, charges for long responses, CORS, and
//! the CloudEvents handshake.

use std::sync::Arc;

use std::sync::LazyLock;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::State;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_ENCODING, ORIGIN};
use http::{HeaderName, HeaderValue, Method, Request};
use tower::{Layer as _, Service as _};
use tower_http::cors::{AllowHeaders, Any, CorsLayer};
use tracing::Instrument as _;

use http_body_util::BodyExt as _;
use tokio::task::JoinError;

use super::budget::{BodyBudget, Sender};
use super::error::{AlreadyLogged, ApiError};
use crate::bulk::{BULK_BYTES, BulkLane, TenantCell};
use crate::ids::{RequestId, TaskId, TenantId};

/// The header with a request's id, in the request and in the response.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Maximum length of a request id that a caller chooses, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Responses up to this size are not charged to the budget.
const UNCHARGED_RESPONSE_BYTES_MAX: usize = 64 << 10;

/// How long a browser may cache a preflight response.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

/// The services that layers use.
#[derive(Debug)]
pub(super) struct LayerState {
    pub(super) bodies: BodyBudget,
    pub(super) bulk: Arc<BulkLane>,
}

/// Assigns an id to the request and returns it in `x-request-id`. A caller's own id is returned instead if it is
/// short and printable. Server errors are logged with it.
pub(super) async fn identify(mut request: Request<Body>, next: Next) -> Response {
    let id = RequestId::next();
    request.extensions_mut().insert(id);
    let own = request.headers().get(&REQUEST_ID).filter(|value| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    });
    let shown = own.cloned().or_else(|| HeaderValue::try_from(id.to_string()).ok());
    // An error's span, so that it is in every line, whatever the filter. `tenant` and `task` are recorded once they are
    // known. The path never is: it may contain a token.
    let span = tracing::error_span!(
        "request",
        request = %id,
        method = method_name(request.method()),
        tenant = tracing::field::Empty,
        task = tracing::field::Empty
    );
    let mut response = next.run(request).instrument(span.clone()).await;
    let _entered = span.enter();
    tracing::debug!(status = response.status().as_u16(), "a request was answered");
    if let Some(shown) = shown {
        let is_logged = response.extensions().get::<AlreadyLogged>().is_some();
        if response.status().is_server_error() && !is_logged {
            let status = response.status().as_u16();
            tracing::warn!(caller_says = ?shown, status, "a request failed");
        }
        response.headers_mut().insert(REQUEST_ID, shown);
    }
    response
}

/// Names the authenticated tenant in the request's span. Once for each request: a second record would be printed beside
/// the first.
pub(super) fn record_tenant(tenant: TenantId) {
    tracing::Span::current().record("tenant", tracing::field::display(tenant));
}

/// Names the task that the request created, or asked for again, in the request's span.
pub(super) fn record_task(task: TaskId) {
    tracing::Span::current().record("task", tracing::field::display(task));
}

/// The method for log lines. Any token can be one, up to the length of a head.
fn method_name(method: &Method) -> &str {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS => method.as_str(),
        _ => "another",
    }
}

/// Handles requests whose body is long, compressed, or of unknown length, on the [bulk lane](crate::bulk).
pub(super) async fn route_to_bulk_lane(
    State(state): State<Arc<LayerState>>,
    mut request: Request<Body>,
    next: Next,
) -> Response {
    let length = request.body().size_hint().exact();
    // A compressed body may be as long as the limit allows once it is decoded.
    let is_compressed = request.headers().contains_key(CONTENT_ENCODING);
    if !is_compressed && length.is_some_and(|length| length <= BULK_BYTES as u64) {
        return next.run(request).await;
    }
    // The body's reader sets the tenant.
    let tenant_cell = TenantCell::default();
    request.extensions_mut().insert(tenant_cell.clone());
    let handled = state.bulk.spawn(tenant_cell, next.run(request).in_current_span());
    let handled = match handled {
        Some(handled) => handled.await,
        None => return ApiError::stopping("the request").into_response(),
    };
    match handled.map_err(JoinError::try_into_panic) {
        Ok(response) => response,
        // As if the request had been handled on this thread.
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => ApiError::stopping("the request").into_response(),
    }
}

/// Marks a response whose bytes are static and shared by all readers, so a slow reader holds no memory of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Static;

/// Charges long responses to the budget until they are sent, like request bodies: a client that reads slowly keeps
/// the response in memory.
pub(super) async fn charge_responses(
    State(state): State<Arc<LayerState>>,
    request: Request<Body>,
    next: Next,
) -> Response {
    let client = Sender::by_client(&request);
    let starts_nothing = request.method().is_safe();
    let response = next.run(request).await;
    if response.extensions().get::<Static>().is_some() {
        return response;
    }
    // Streams have no length, and hold almost nothing.
    let length =
        response.body().size_hint().exact().and_then(|length| usize::try_from(length).ok());
    let Some(length) = length.filter(|length| *length > UNCHARGED_RESPONSE_BYTES_MAX) else {
        return response;
    };
    let mut charge = state.bodies.charge(client);
    if let Err(over) = charge.grow_to(length) {
        let over = ApiError::from(over);
        let over = if starts_nothing { over } else { over.retry_with_key() };
        let mut refused = over.into_response();
        // The request may have started a task: the headers still say where to read its result.
        for name in ["x-task-id", "location"] {
            if let Some(value) = response.headers().get(name) {
                refused.headers_mut().insert(name, value.clone());
            }
        }
        return refused;
    }
    response.map(|body| {
        // The charge is dropped with the body: once it is sent, or when the connection ends.
        Body::new(body.map_frame(move |frame| {
            let _held = &charge;
            frame
        }))
    })
}

/// Answers the handshake of a sender that asks for permission to send events (CloudEvents, HTTP 1.1 Web Hooks for
/// Event Delivery, section 4): every origin may send, at any rate. This grants no access: that still takes a key or
/// token.
pub(super) async fn cloudevents_handshake(request: Request<Body>, next: Next) -> Response {
    let origin = request.headers().get("webhook-request-origin");
    let origin = origin.filter(|_| request.method() == Method::OPTIONS).cloned();
    let mut response = next.run(request).await;
    if let Some(origin) = origin {
        response.headers_mut().insert("webhook-allowed-origin", origin);
        response.headers_mut().insert("webhook-allowed-rate", HeaderValue::from_static("*"));
    }
    response
}

/// Allows requests from pages of any origin. The gateway reads no cookies, so a page can do no more than the key or
/// token that it sends permits. `OPTIONS` requests are answered here and reach no handler.
pub(super) fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(
            [
                "location",
                "retry-after",
                "x-task-id",
                "x-request-id",
                "idempotent-replayed",
                "idempotency-mismatch",
                "preference-applied",
                "x-wardgate-fault",
                "x-wardgate-retry",
            ]
            .map(HeaderName::from_static),
        )
        .max_age(PREFLIGHT_AGE)
}

/// CORS for channels, where an `OPTIONS` request that is not a browser's preflight goes to the channel's plugins.
pub(super) async fn cors_of_hooks(request: Request<Body>, next: Next) -> Response {
    static CORS: LazyLock<CorsLayer> = LazyLock::new(cors);
    let headers = request.headers();
    let is_handshake =
        request.method() == Method::OPTIONS && !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if is_handshake || !headers.contains_key(ORIGIN) {
        return next.run(request).await;
    }
    match CORS.layer(next).call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}
