//! `/mcp`: the gateway as an MCP server. The agents of the key's tenant are tools, and so are the tools of those plugins
//! that the operator publishes.
//!
//! Nothing is kept between requests, so that any process that shares the store can answer each of them. Clients of the
//! revisions before 2026-07-28 get a session id all the same: with it, `notifications/cancelled` finds the call that it
//! is about.
//!
//! | file | job |
//! |---|---|
//! | `server` | dispatches the methods of the protocol |
//! | `agents` | agents as tools, and their runs as calls |
//! | `published` | the tools of published plugins |
//! | `calls_in_flight` | finds the run of a call that a client cancels |

mod agents;
mod calls_in_flight;
mod published;
mod server;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt as _, Full};
use rmcp::transport::streamable_http_server::session::never::NeverSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};

use super::body::{BodyLimits, BodyReader};
use super::budget::Sender;
use super::error::ApiError;
use super::extract::{authenticate_tenant, header_key_or_bearer, request_id};
use super::responses::McpErrors;
use crate::access::{Access, TenantCaller};
use crate::intake::{Arrival, RequestParts};
use crate::request::credentials;
pub(super) use calls_in_flight::CallsInFlight;
pub(super) use server::McpServices;
use server::{McpServer, SESSION_ID};

/// The longest message of a client, in bytes. Once parsed, a message takes several times its length.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const MESSAGE_TIME_MAX: Duration = Duration::from_secs(30);

/// The origins that pages may call from, beside the gateway's own: none that a page of another machine has.
const LOOPBACK_ORIGINS: [&str; 6] = [
    "http://localhost:*",
    "http://127.0.0.1:*",
    "http://[::1]:*",
    "https://localhost:*",
    "https://127.0.0.1:*",
    "https://[::1]:*",
];

/// The services that the route uses.
pub(super) struct McpState {
    access: Access,
    bodies: BodyReader,
    services: Arc<McpServices>,
    protocol: StreamableHttpService<McpServer, NeverSessionManager>,
}

// The library's service has no form for it.
impl std::fmt::Debug for McpState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("McpState(…)")
    }
}

impl McpState {
    pub(super) fn new(
        access: Access,
        bodies: BodyReader,
        services: McpServices,
        public_url: &str,
    ) -> Self {
        let services = Arc::new(services);
        let own_origin = url::Url::parse(public_url).ok().map(|url| url.origin());
        let own_origin = own_origin.map(|origin| origin.ascii_serialization());
        let mut config = StreamableHttpServerConfig::default()
            // The key is what admits a request, and the name under which the gateway is reached is the operator's.
            .disable_allowed_hosts()
            .with_allowed_origins(LOOPBACK_ORIGINS.map(str::to_owned).into_iter().chain(own_origin))
            .enforce_origin_validation();
        config.legacy_session_mode = false;
        config.json_response = true;
        config.max_request_body_bytes = MESSAGE_BYTES_MAX;
        let for_requests = Arc::clone(&services);
        let protocol = StreamableHttpService::new(
            move || Ok(McpServer(Arc::clone(&for_requests))),
            Arc::new(NeverSessionManager::default()),
            config,
        );
        Self { access, bodies, services, protocol }
    }
}

/// A request that was authenticated, as the methods of the protocol see it.
#[derive(Debug, Clone)]
struct McpRequest {
    tenant: TenantCaller,
    arrival: Arc<Arrival>,
    span: tracing::Span,
}

/// Call the gateway as an MCP server.
///
/// Streamable HTTP of the revisions 2025-03-26 to 2026-07-28, without state between requests. The agents of the key's
/// organization are its tools, and so are those tools of plugins that the operator publishes. The key may come as
/// `Authorization: Bearer` as well.
#[utoipa::path(post, path = "/mcp", operation_id = "call_mcp", tag = "mcp",
    params(("mcp-protocol-version" = Option<String>, Header, description = "The revision of the protocol"),
           ("idempotency-key" = Option<String>, Header,
            description = "One key, one run, for 24 hours. `_meta` of the call may hold it as \
                           `io.wardgate/idempotency-key` instead")),
    request_body(content = serde_json::Value, description = "A JSON-RPC message."),
    responses((status = 200,
               content((serde_json::Value = "application/json"), (String = "text/event-stream")),
               description = "The JSON-RPC response, or server-sent events that end with it."),
              (status = 202, description = "The message was a notification."), McpErrors),
    security(("api_key" = []), ("bearer" = [])))]
pub(super) async fn receive(
    State(state): State<Arc<McpState>>,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (mut head, body) = request.into_parts();
    let key = header_key_or_bearer(&head.headers)?;
    let tenant = authenticate_tenant(&state.access, key.as_deref(), &mut head).await?;
    let limits = BodyLimits::new(MESSAGE_BYTES_MAX, MESSAGE_TIME_MAX);
    let sender = Sender::from_head(&head);
    let body = state.bodies.read_within(limits, sender, &mut head, body).await?;
    let arrival = Arc::new(Arrival::read_json(RequestParts {
        method: head.method.clone(),
        path: head.uri.path().to_owned(),
        // No part of a message is in the query.
        query: String::new(),
        pairs: Vec::new(),
        headers: head.headers.clone(),
        body,
        request_id: request_id(&head),
    })?);
    for credential in credentials::HEADERS {
        head.headers.remove(credential);
    }
    let payload = &arrival.incoming.payload;
    let method = payload.scalar("/method");
    if method.as_deref() == Some("notifications/cancelled") {
        let session = server::session_of(&head.headers);
        let call = payload.find("/params/requestId").unwrap_or_default();
        state.services.cancel(tenant.tenant(), session, call).await?;
    }
    let message = Full::new(arrival.incoming.body.clone());
    let span = tracing::Span::current();
    head.extensions.insert(McpRequest { tenant, arrival, span });
    let response = state.protocol.handle(Request::from_parts(head, message)).await;
    let mut response = match is_of_transport(&response) {
        true => return Err(transport_error(response).await),
        false => response.map(Body::new),
    };
    if method.as_deref() == Some("initialize") && response.status().is_success() {
        let session = HeaderValue::try_from(uuid::Uuid::new_v4().to_string());
        session.ok().map(|session| response.headers_mut().insert(SESSION_ID, session));
    }
    Ok(response)
}

/// Whether a response is an error that is no message of the protocol: a text.
fn is_of_transport<B>(response: &http::Response<B>) -> bool {
    let kind = response.headers().get(CONTENT_TYPE);
    let is_json = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    (response.status().is_client_error() || response.status().is_server_error()) && !is_json
}

/// The same error in the gateway's form.
async fn transport_error<B>(response: http::Response<B>) -> ApiError
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible>,
{
    let status = response.status();
    let Ok(text) = response.into_body().collect().await;
    let text = String::from_utf8_lossy(&text.to_bytes()).into_owned();
    match status.is_client_error() {
        true => ApiError::caller(status.as_u16(), text),
        false => ApiError::host(text),
    }
}
