//! The HTTP client of one session: vetted addresses, no redirects, and the credentials of this session alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use http::{HeaderMap, HeaderName, HeaderValue};
use rmcp::model::{ClientJsonRpcMessage, ClientRequest};
use rmcp::transport::streamable_http_client::{
    SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
    StreamableHttpResponseLimits,
};
use sse_stream::Sse;

use super::error::McpError;
use super::session::KEY_META;
use crate::outbound::{PublicOnly, is_public_host};
use crate::tenants::Installer;

/// The time limit for establishing a connection.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// The header in which a call's idempotency key is sent.
const KEY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");

type Headers = HashMap<HeaderName, HeaderValue>;
type HttpError = StreamableHttpError<reqwest::Error>;

/// A client with the credentials of one session. Each session has its own, so that no connection is shared by users.
#[derive(Debug, Clone)]
pub(super) struct McpHttpClient {
    http: reqwest::Client,
    credentials: Arc<HeaderMap>,
}

impl McpHttpClient {
    /// A client for this address, with these credentials. For a server that a tenant's admin has set, names are vetted
    /// when they are resolved.
    pub(super) fn new(
        url: &url::Url,
        set_by: Installer,
        credentials: HeaderMap,
    ) -> Result<Self, McpError> {
        let client = crate::tls::http_client()
            .connect_timeout(CONNECT_TIME_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .user_agent(concat!("wardgate/", env!("CARGO_PKG_VERSION")));
        let client = match set_by {
            Installer::Operator => client,
            Installer::Admin if is_public_host(url) => {
                client.https_only(true).dns_resolver(Arc::new(PublicOnly))
            }
            Installer::Admin => {
                return Err(McpError::Definition("its address is not a public one".to_owned()));
            }
        };
        let http = client
            .build()
            .map_err(|_| McpError::Unreachable("no HTTP client could be made".to_owned()))?;
        Ok(Self { http, credentials: Arc::new(credentials) })
    }

    /// The headers of the protocol, with the credentials.
    fn headers(&self, mut headers: Headers) -> Headers {
        let own = self.credentials.iter();
        headers.extend(own.map(|(name, value)| (name.clone(), value.clone())));
        headers
    }
}

/// The idempotency key of a call.
fn idempotency_key(message: &ClientJsonRpcMessage) -> Option<HeaderValue> {
    let ClientJsonRpcMessage::Request(request) = message else { return None };
    let ClientRequest::CallToolRequest(call) = &request.request else { return None };
    let key = call.params.meta.as_ref()?.get(KEY_META)?.as_str()?;
    HeaderValue::from_str(key).ok()
}

impl StreamableHttpClient for McpHttpClient {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        _: Option<String>,
        headers: Headers,
    ) -> Result<StreamableHttpPostResponse, HttpError> {
        let limits = StreamableHttpResponseLimits::default();
        self.post_message_with_response_limits(uri, message, session_id, None, headers, limits)
            .await
    }

    async fn post_message_with_response_limits(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        _: Option<String>,
        headers: Headers,
        limits: StreamableHttpResponseLimits,
    ) -> Result<StreamableHttpPostResponse, HttpError> {
        let mut headers = self.headers(headers);
        headers.extend(idempotency_key(&message).map(|key| (KEY_HEADER, key)));
        let sent = self
            .http
            .post_message_with_response_limits(uri, message, session_id, None, headers, limits);
        sent.await
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session_id: Arc<str>,
        _: Option<String>,
        headers: Headers,
    ) -> Result<(), HttpError> {
        self.http.delete_session(uri, session_id, None, self.headers(headers)).await
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        _: Option<String>,
        headers: Headers,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, HttpError> {
        self.http.get_stream(uri, session_id, last_event_id, None, self.headers(headers)).await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session_id: Option<Arc<str>>,
        last_event_id: Option<String>,
        _: Option<String>,
        headers: Headers,
        max_sse_event_size: usize,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, HttpError> {
        let stream = self.http.get_stream_with_max_sse_event_size(
            uri,
            session_id,
            last_event_id,
            None,
            self.headers(headers),
            max_sse_event_size,
        );
        stream.await
    }
}
