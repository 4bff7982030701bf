//! The HTTP client of one session: vetted addresses, no redirects, and the credentials of this session alone.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use rmcp::model::{ClientJsonRpcMessage, ClientRequest};
use rmcp::transport::streamable_http_client::{
    SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
    StreamableHttpResponseLimits,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use sse_stream::Sse;
use zeroize::Zeroizing;

use super::error::McpError;
use super::oauth::OauthTokens;
use super::session::IDEMPOTENCY_KEY_META;
use crate::outbound::{admins_server_client, is_public_host, server_client};
use crate::tenants::Installer;

/// The header in which a call's idempotency key is sent.
const KEY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// The most events on the stream of one answer.
const EVENTS_MAX: usize = 10_000;

type Headers = HashMap<HeaderName, HeaderValue>;
type HttpError = StreamableHttpError<reqwest::Error>;

/// What a session is authorized by.
#[derive(Debug, Clone)]
pub(super) enum Credentials {
    /// These headers.
    Headers(HeaderMap),
    /// Access tokens.
    Oauth(Arc<OauthTokens>),
}

/// A client with the credentials of one session. Each session has its own, so that no connection is shared by users.
#[derive(Debug, Clone)]
pub(super) struct McpHttpClient {
    http: reqwest::Client,
    credentials: Arc<Credentials>,
}

/// An HTTP client for this address. If a tenant's admin has set it, names are vetted when they are resolved.
pub(super) fn vetted_client(
    url: &url::Url,
    set_by: Installer,
) -> Result<reqwest::Client, McpError> {
    let client = match set_by {
        Installer::Operator => server_client().no_proxy(),
        Installer::Admin if is_public_host(url) => admins_server_client(),
        Installer::Admin => {
            return Err(McpError::Definition("its address is not a public one".to_owned()));
        }
    };
    client.build().map_err(|_| McpError::Unreachable("no HTTP client could be made".to_owned()))
}

impl McpHttpClient {
    /// A client for this address, with these credentials.
    pub(super) fn new(
        url: &url::Url,
        set_by: Installer,
        credentials: Credentials,
    ) -> Result<Self, McpError> {
        Ok(Self { http: vetted_client(url, set_by)?, credentials: Arc::new(credentials) })
    }

    /// The headers of the protocol with the credentials, and the access token among them.
    async fn authorized(
        &self,
        mut headers: Headers,
        refused: Option<&str>,
    ) -> Result<(Headers, Option<Zeroizing<String>>), HttpError> {
        match &*self.credentials {
            Credentials::Headers(own) => {
                headers.extend(own.iter().map(|(name, value)| (name.clone(), value.clone())));
                Ok((headers, None))
            }
            Credentials::Oauth(tokens) => {
                let own = |error| HttpError::Io(std::io::Error::other(error));
                let token = tokens.token(refused).await.map_err(own)?;
                let value = Zeroizing::new(format!("Bearer {}", token.as_str()));
                let value = HeaderValue::from_str(&value).map_err(|_| {
                    own(McpError::Authorization("its token cannot be sent in a header".to_owned()))
                });
                let mut value = value?;
                value.set_sensitive(true);
                headers.insert(AUTHORIZATION, value);
                Ok((headers, Some(token)))
            }
        }
    }
}

/// Whether the server did not accept the token, with a challenge or without one.
fn is_unauthorized(error: &HttpError) -> bool {
    match error {
        HttpError::AuthRequired(_) => true,
        HttpError::UnexpectedServerResponse(text) => text.starts_with("HTTP 401"),
        _ => false,
    }
}

/// The idempotency key of a call.
fn idempotency_key(message: &ClientJsonRpcMessage) -> Option<HeaderValue> {
    let ClientJsonRpcMessage::Request(request) = message else { return None };
    let ClientRequest::CallToolRequest(call) = &request.request else { return None };
    let key = call.params.meta.as_ref()?.get(IDEMPOTENCY_KEY_META)?.as_str()?;
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
        mut headers: Headers,
        limits: StreamableHttpResponseLimits,
    ) -> Result<StreamableHttpPostResponse, HttpError> {
        headers.extend(idempotency_key(&message).map(|key| (KEY_HEADER, key)));
        let send = async |headers: Headers, message: ClientJsonRpcMessage| {
            let (uri, session_id) = (Arc::clone(&uri), session_id.clone());
            let http = &self.http;
            let sent = http
                .post_message_with_response_limits(uri, message, session_id, None, headers, limits)
                .await?;
            Ok(match sent {
                StreamableHttpPostResponse::Sse(stream, session_id) => {
                    StreamableHttpPostResponse::Sse(answers_only(stream), session_id)
                }
                sent => sent,
            })
        };
        let (authorized, token) = self.authorized(headers.clone(), None).await?;
        match (send(authorized, message.clone()).await, token) {
            // It was not carried out. The token may have ended before its time.
            (Err(error), Some(token)) if is_unauthorized(&error) => {
                let (authorized, _) = self.authorized(headers, Some(token.as_str())).await?;
                send(authorized, message).await
            }
            (sent, _) => sent,
        }
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session_id: Arc<str>,
        _: Option<String>,
        headers: Headers,
    ) -> Result<(), HttpError> {
        let (headers, _) = self.authorized(headers, None).await?;
        self.http.delete_session(uri, session_id, None, headers).await
    }

    async fn get_stream(
        &self,
        _: Arc<str>,
        _: Option<Arc<str>>,
        _: Option<String>,
        _: Option<String>,
        _: Headers,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, HttpError> {
        // On the common stream a server says what nobody here wants to know, and it need not end.
        Err(HttpError::ServerDoesNotSupportSse)
    }
}

/// The answer to a request, without what else a server sends on its stream: requests, which nobody answers, and
/// notifications. It ends after so many events, of which a call needs one.
fn answers_only(
    stream: BoxStream<'static, Result<Sse, SseError>>,
) -> BoxStream<'static, Result<Sse, SseError>> {
    let is_answer = |event: &Result<Sse, SseError>| {
        #[derive(Deserialize)]
        struct Message {
            method: Option<IgnoredAny>,
        }

        let Ok(Sse { data: Some(data), .. }) = event else { return true };
        serde_json::from_str::<Message>(data).map_or(true, |message| message.method.is_none())
    };
    let events = stream.take(EVENTS_MAX).filter(move |event| std::future::ready(is_answer(event)));
    events.boxed()
}
