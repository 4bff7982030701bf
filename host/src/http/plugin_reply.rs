//! What plugins answer themselves. Its sender reads it as the plugin meant it; a browser that is led to it finds
//! nothing that could act as the gateway: no page of the gateway's origin, no cookie, nothing that holds for
//! other routes.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::sandbox::HttpReply;

/// Headers that hold for more than the answer that they come with, or loosen what browsers keep apart.
const ORIGIN_HEADERS: [&str; 41] = [
    "accept-ch",
    "activate-storage-access",
    "alt-svc",
    "clear-site-data",
    "critical-ch",
    "cross-origin-embedder-policy",
    "cross-origin-opener-policy",
    "cross-origin-resource-policy",
    "document-policy",
    "date",
    "expect-ct",
    "feature-policy",
    "host",
    "integrity-policy",
    "integrity-policy-report-only",
    "nel",
    "no-vary-search",
    "observe-browsing-topics",
    "origin-agent-cluster",
    "origin-trial",
    "permissions-policy",
    "proxy-authenticate",
    "public-key-pins",
    "refresh",
    "report-to",
    "reporting-endpoints",
    "server",
    "service-worker",
    "service-worker-allowed",
    "set-cookie",
    "set-cookie2",
    "set-login",
    "speculation-rules",
    "strict-transport-security",
    "supports-loading-mode",
    "timing-allow-origin",
    "use-as-dictionary",
    // A browser would ask for a password in the gateway's name.
    "www-authenticate",
    "x-dns-prefetch-control",
    "x-frame-options",
    "x-permitted-cross-domain-policies",
];

/// And all that begin with these. Those with `x-`, `cdn-` and `surrogate-` are orders to a proxy in front of the gateway: to send a file of
/// its own, to ask another server, to keep an answer.
const ORIGIN_HEADERS_BEGINNING: [&str; 11] = [
    "access-control-",
    "attribution-reporting-",
    "cdn-",
    "content-security-policy",
    "sec-",
    "surrogate-",
    "x-accel-",
    "x-lighttpd-",
    "x-litespeed-",
    "x-reproxy-",
    "x-sendfile",
];

/// What each of these answers carries: it is read as what it says it is, and where a browser shows it, it is
/// of an origin of its own, without scripts and in no frame.
const POLICIES: [(HeaderName, HeaderValue); 3] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("sandbox; default-src 'none'; frame-ancestors 'none'"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// A plugin's reply as it is sent.
pub(super) fn plugin_reply(reply: HttpReply) -> Response {
    // A body after this status would be read as the next answer (RFC 9110 section 15.3.6).
    let has_body = reply.status != StatusCode::RESET_CONTENT;
    let body = if has_body { Body::from(reply.body) } else { Body::empty() };
    let mut response = Response::new(body);
    *response.status_mut() = reply.status;
    let headers = response.headers_mut();
    for (name, value) in &reply.headers {
        if !is_of_the_origin(name.as_str()) {
            headers.append(name, value.clone());
        }
    }
    for (name, value) in POLICIES {
        headers.insert(name, value);
    }
    response
}

fn is_of_the_origin(name: &str) -> bool {
    // Some proxies take the one for the other.
    let name = name.replace('_', "-");
    ORIGIN_HEADERS.contains(&name.as_str())
        || ORIGIN_HEADERS_BEGINNING.iter().any(|beginning| name.starts_with(beginning))
}
