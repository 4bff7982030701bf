//! What holds for every request: it has an id, browsers may send it from any page, and asking whether one
//! may send something starts nothing.

use std::time::Duration;

use axum::body::Body;
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue, Method, Request};
use tower_http::cors::{AllowHeaders, Any, CorsLayer};

use super::error::AlreadyLogged;
use crate::ids::RequestId;

/// The header in which a request's id travels, both ways.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that a caller may give a request.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// How long a browser remembers what it was allowed.
const PREFLIGHT_AGE: Duration = Duration::from_secs(600);

/// Gives the request an id and says which in `x-request-id`: the caller's own, where he sent one that is
/// short and printable. What goes wrong on our side is logged under it.
pub(super) async fn identify(mut request: Request<Body>, next: Next) -> Response {
    let id = RequestId::next();
    request.extensions_mut().insert(id);
    let own = request.headers().get(&REQUEST_ID).filter(|value| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    });
    let shown = own.cloned().or_else(|| HeaderValue::try_from(id.to_string()).ok());
    let method = request.method().clone();
    let mut response = next.run(request).await;
    if let Some(shown) = shown {
        let is_logged = response.extensions().get::<AlreadyLogged>().is_some();
        if response.status().is_server_error() && !is_logged {
            // Not the path: it may hold a token.
            let status = response.status().as_u16();
            tracing::warn!(request = %id, caller_says = ?shown, %method, status, "a request failed");
        }
        response.headers_mut().insert(REQUEST_ID, shown);
    }
    response
}

/// Answers what a sender of events asks before it sends any (CloudEvents, HTTP 1.1 Web Hooks for Event
/// Delivery, section 4): everybody may, at any rate. Nothing is granted that a key or token does not.
pub(super) async fn allow_events(request: Request<Body>, next: Next) -> Response {
    let asked = request.headers().get("webhook-request-origin");
    let origin = asked.filter(|_| request.method() == Method::OPTIONS).cloned();
    let mut response = next.run(request).await;
    if let Some(origin) = origin {
        response.headers_mut().insert("webhook-allowed-origin", origin);
        response.headers_mut().insert("webhook-allowed-rate", HeaderValue::from_static("*"));
    }
    response
}

/// Lets pages of any origin call. No cookie is read anywhere, so a page can do no more than whoever has
/// the key or token that it sends. `OPTIONS` is answered here and reaches no handler.
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
