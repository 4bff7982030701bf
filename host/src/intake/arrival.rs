//! A request whose body has been read and parsed, with its credentials removed.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, Method};

use super::IntakeError;
use super::params::Sources;
use super::tokens::{self, ExtractedTokens};
use crate::ids::RequestId;
use crate::request::content::Encoding;
use crate::request::credentials;
use crate::request::credentials::is_api_key;
use crate::request::stored::{self, StoredHead};
use crate::request::{BadRequest, IncomingRequest, Payload};
use crate::request::{body, cloud_event, query};
use crate::secrets::UserTokens;

/// A request with its body read and bounded and its query decoded.
#[derive(Debug)]
pub struct Arrival {
    /// The request that plugins and the store see.
    pub incoming: Arc<IncomingRequest>,
    /// Names and values of the query, without credentials.
    pub query: Vec<(String, String)>,
    /// The user's tokens, removed from everything else.
    pub user_tokens: UserTokens,
    /// Whether the request may contain redacted credentials.
    pub is_redacted: bool,
    /// For logs and plugins.
    pub request_id: RequestId,
}

/// The parts of a request that intake reads.
#[derive(Debug)]
pub struct RequestParts {
    /// The HTTP method.
    pub method: Method,
    /// The path, percent-encoded; empty if it holds a credential.
    pub path: String,
    /// The query as it arrived, without `?`.
    pub query: String,
    /// The query as names and values.
    pub pairs: Vec<(String, String)>,
    /// All headers.
    pub headers: HeaderMap,
    /// The body, bounded.
    pub body: Bytes,
    /// For logs and plugins.
    pub request_id: RequestId,
}

/// A replacement body that keeps the original alive, because the original's bytes are charged to the sender's budget
/// until it is dropped.
struct ReplacedBody {
    body: Bytes,
    _arrived: Bytes,
}

impl AsRef<[u8]> for ReplacedBody {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl RequestParts {
    /// Replaces the body, if it is not empty.
    pub(super) fn replace_body(&mut self, body: Bytes) {
        if self.body.is_empty() {
            return;
        }
        let _arrived = std::mem::take(&mut self.body);
        self.body = Bytes::from_owner(ReplacedBody { body, _arrived });
    }
}

impl Arrival {
    /// Reads a body of any content type that `POST /` accepts (CONTRACT X2).
    ///
    /// # Errors
    /// [`IntakeError::Request`].
    pub async fn from_parts(mut parts: RequestParts) -> Result<Self, IntakeError> {
        let payload = match cloud_event::binary(&parts.headers, &parts.body)? {
            Some(event) => event,
            None => {
                let payload = body::payload(&parts.headers, parts.body.clone()).await?;
                cloud_event::check_structured(&parts.headers, &payload)?;
                payload
            }
        };
        let (payload, extracted) = tokens::extract(&mut parts, payload)?;
        let ExtractedTokens { user_tokens, is_redacted } = extracted;
        Ok(Self { user_tokens, is_redacted, ..Self::with(parts, payload) })
    }

    /// Reads a body that must be JSON and may hold the user's tokens (CONTRACT section 2).
    ///
    /// # Errors
    /// [`IntakeError::Request`].
    pub fn read_invocation(mut parts: RequestParts) -> Result<Self, IntakeError> {
        let payload = body::json_only(&parts.headers, parts.body.clone())?;
        let (payload, extracted) = tokens::extract(&mut parts, payload)?;
        let ExtractedTokens { user_tokens, is_redacted } = extracted;
        Ok(Self { user_tokens, is_redacted, ..Self::with(parts, payload) })
    }

    /// Reads a body that must be JSON (CONTRACT D3).
    ///
    /// # Errors
    /// [`IntakeError::Request`].
    pub fn read_json(parts: RequestParts) -> Result<Self, IntakeError> {
        let payload = match cloud_event::binary(&parts.headers, &parts.body)? {
            Some(event) => event,
            None => {
                let payload = body::json_only(&parts.headers, parts.body.clone())?;
                cloud_event::check_structured(&parts.headers, &payload)?;
                payload
            }
        };
        Ok(Self::with(parts, payload))
    }

    /// Uses the query as the payload (CONTRACT D2): all values are strings, and the first value of a repeated name
    /// wins.
    #[must_use]
    pub fn read_query(parts: RequestParts) -> Self {
        let payload = Payload::of_query(&parts.pairs);
        Self::with(parts, payload)
    }

    /// Reads a body of any type for a channel, whose plugins interpret it. A body that cannot be parsed yields an
    /// empty payload, and its bytes stay available. For a GET without a body, the query is the payload. Every header
    /// is kept because a verifier may need it.
    pub async fn read_for_channel(parts: RequestParts) -> Self {
        let (payload, unreadable) = if parts.body.is_empty() && parts.method == Method::GET {
            (Payload::of_query(&parts.pairs), None)
        } else {
            payload_or_why_not(&parts.headers, parts.body.clone()).await
        };
        let incoming = IncomingRequest {
            method: parts.method,
            path: parts.path,
            query: parts.query,
            headers: parts.headers,
            body: parts.body,
            payload,
            unreadable,
        };
        Self {
            incoming: Arc::new(incoming),
            query: parts.pairs,
            user_tokens: UserTokens::default(),
            is_redacted: false,
            request_id: parts.request_id,
        }
    }

    /// The same channel request with its body decoded from its content encodings.
    pub async fn without_encodings(self, body: Bytes) -> Self {
        let incoming = &self.incoming;
        let mut headers = incoming.headers.clone();
        headers.remove(CONTENT_ENCODING);
        let (payload, unreadable) = payload_or_why_not(&headers, body.clone()).await;
        let incoming = Arc::new(IncomingRequest {
            method: incoming.method.clone(),
            path: incoming.path.clone(),
            query: incoming.query.clone(),
            headers,
            body,
            payload,
            unreadable,
        });
        Self { incoming, ..self }
    }

    fn with(mut parts: RequestParts, payload: Payload) -> Self {
        let payload = without_key(&mut parts, payload);
        for credential in credentials::HEADERS {
            parts.headers.remove(credential);
        }
        if parts.pairs.iter().any(|(name, _)| is_api_key(name)) {
            parts.pairs.retain(|(name, _)| !is_api_key(name));
            parts.query = query::without_fields(&parts.query, is_api_key);
        }
        let incoming = IncomingRequest {
            method: parts.method,
            path: parts.path,
            query: parts.query,
            headers: parts.headers,
            body: parts.body,
            payload,
            unreadable: None,
        };
        Self {
            incoming: Arc::new(incoming),
            query: parts.pairs,
            user_tokens: UserTokens::default(),
            is_redacted: false,
            request_id: parts.request_id,
        }
    }

    pub(super) fn sources<'a>(&'a self, mapped: &'a [(String, String)]) -> Sources<'a> {
        Sources { query: &self.query, payload: &self.incoming.payload, mapped }
    }

    /// The id of the requested agent: from the query, else from the body (CONTRACT X3).
    ///
    /// # Errors
    /// [`IntakeError::Request`] if it is not a string, number or boolean.
    pub fn agent_id(&self) -> Result<Option<String>, IntakeError> {
        self.sources(&[]).text("agent_id")
    }
}

/// Parses the payload of a body, or returns an empty one and the reason.
async fn payload_or_why_not(headers: &HeaderMap, body: Bytes) -> (Payload, Option<BadRequest>) {
    let payload = match Encoding::from_headers(headers) {
        Ok(encodings) if encodings.is_empty() => body::payload(headers, body).await,
        // The body is decoded later, after the caller is authenticated.
        Ok(_) => Err(BadRequest::unsupported("the body is compressed")),
        Err(error) => Err(error),
    };
    match payload {
        Ok(payload) => (payload, None),
        Err(unreadable) => (Payload::empty(), Some(unreadable)),
    }
}

/// Removes an API key from the payload (CONTRACT X5) and from the body, so that neither plugins nor the agent nor the
/// store see it. Not used for channels: their callers have no API keys, and the field is the provider's own.
fn without_key(parts: &mut RequestParts, payload: Payload) -> Payload {
    if !payload.fields().is_some_and(|mut fields| fields.any(|(name, _)| is_api_key(name))) {
        return payload;
    }
    let rest = payload.without(is_api_key);
    parts.replace_body(rest.to_bytes());
    rest
}

/// The parameters that concern the plugins before and after a run.
#[derive(Debug, Default)]
pub struct PluginParams {
    /// `params_mapping`, verbatim.
    pub spec: Option<String>,
    /// `getter`.
    pub getter: Option<String>,
    /// `json`.
    pub json: bool,
}

/// Reads the plugin parameters of a request that was stored with its task. Only `POST /` has them, and an
/// asynchronous request has no getter because its caller did not wait for the result.
pub async fn plugin_params(head: &StoredHead, body: Bytes, by_channel: bool) -> PluginParams {
    if by_channel || head.path() != "/" {
        return PluginParams::default();
    }
    let pairs = query::decode(head.query().as_bytes()).unwrap_or_default();
    let call = stored::restore(head, body, by_channel).await;
    let sources = Sources { query: &pairs, payload: &call.payload, mapped: &[] };
    PluginParams {
        spec: sources.query("params_mapping").map(str::to_owned),
        // The request was accepted, so these can be parsed.
        getter: match sources.boolean("asynchronous") {
            Ok(false) => sources.text("getter").ok().flatten(),
            _ => None,
        },
        json: sources.boolean("json").unwrap_or_default(),
    }
}
