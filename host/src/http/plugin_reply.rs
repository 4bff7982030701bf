//! HTTP responses that plugins write. The sender gets the response as the plugin wrote it, but a browser that is
//! lured to it gets nothing that could act as the gateway: no page of the gateway's origin, no cookie, and no header
//! that affects other routes.

use axum::body::Body;
use axum::response::Response;
use http::header::{CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderName, HeaderValue, StatusCode};

use crate::sandbox::HttpReply;

/// Headers that a plugin cannot set: they affect more than their own response, or weaken a browser's isolation of
/// origins.
const FORBIDDEN_HEADERS: [&str; 41] = [
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

/// Prefixes of further headers that a plugin cannot set. Those that begin with `x-`, `cdn-` and `surrogate-` instruct
/// a proxy in front of the gateway: to send a file of its own, to query another server, to cache a response.
const FORBIDDEN_HEADER_PREFIXES: [&str; 11] = [
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

/// Headers that every such response has. A browser does not guess the content type; if it shows the response, it does
/// so in an origin of its own, without scripts, and never in a frame.
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

/// Converts a plugin's reply to a response.
pub(super) fn plugin_reply(reply: HttpReply) -> Response {
    // A body after this status would be read as the next response (RFC 9110 section 15.3.6).
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
    // Some proxies treat an underscore as a hyphen.
    let name = name.replace('_', "-");
    FORBIDDEN_HEADERS.contains(&name.as_str())
        || FORBIDDEN_HEADER_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}
