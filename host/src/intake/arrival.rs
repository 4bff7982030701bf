//! A request as it arrived, read whole: what its body holds, and what nobody behind this gets to see.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, Method};

use super::IntakeError;
use super::params::Sources;
use super::tokens::{self, Taken};
use crate::ids::RequestId;
use crate::request::content::Encoding;
use crate::request::credentials;
use crate::request::credentials::is_api_key;
use crate::request::stored::{self, StoredHead};
use crate::request::{BadRequest, IncomingRequest, Payload};
use crate::request::{body, cloud_event, query};
use crate::secrets::UserTokens;

/// A request read whole, its body bounded, its query decoded.
#[derive(Debug)]
pub struct Arrival {
    /// See [`IncomingRequest`].
    pub incoming: Arc<IncomingRequest>,
    /// Names and values of the query, without credentials.
    pub query: Vec<(String, String)>,
    /// Tokens of the user, taken out of everything else.
    pub user_tokens: UserTokens,
    /// Whether a credential that was repeated may be redacted in it.
    pub is_redacted: bool,
    /// For logs and plugins.
    pub request_id: RequestId,
}

/// The parts of a request that intake reads.
#[derive(Debug)]
pub struct RequestParts {
    /// The method.
    pub method: Method,
    /// The path, percent-encoded; empty where it holds a credential.
    pub path: String,
    /// The query as it arrived, without `?`.
    pub query: String,
    /// The same as names and values.
    pub pairs: Vec<(String, String)>,
    /// All headers.
    pub headers: HeaderMap,
    /// The body, bounded.
    pub body: Bytes,
    /// For logs and plugins.
    pub request_id: RequestId,
}

/// A body in the place of the one that arrived, which is counted for its sender as long as this is held.
struct InPlaceOf {
    body: Bytes,
    _arrived: Bytes,
}

impl AsRef<[u8]> for InPlaceOf {
    fn as_ref(&self) -> &[u8] {
        &self.body
    }
}

impl RequestParts {
    /// Puts another body in the place of the one that arrived, if one did.
    pub(super) fn replace_body(&mut self, body: Bytes) {
        if self.body.is_empty() {
            return;
        }
        let _arrived = std::mem::take(&mut self.body);
        self.body = Bytes::from_owner(InPlaceOf { body, _arrived });
    }
}

impl Arrival {
    /// Reads a body of any shape that `POST /` takes (CONTRACT X2).
    ///
    /// # Errors
    /// [`IntakeError::Request`].
    pub async fn read(mut parts: RequestParts) -> Result<Self, IntakeError> {
        let payload = match cloud_event::binary(&parts.headers, &parts.body)? {
            Some(event) => event,
            None => {
                let payload = body::payload(&parts.headers, parts.body.clone()).await?;
                cloud_event::check_structured(&parts.headers, &payload)?;
                payload
            }
        };
        let (payload, taken) = tokens::take_out(&mut parts, payload)?;
        let Taken { user_tokens, is_redacted } = taken;
        Ok(Self { user_tokens, is_redacted, ..Self::with(parts, payload) })
    }

    /// Reads a body that has to be JSON and may hold tokens of the user (CONTRACT section 2).
    ///
    /// # Errors
    /// [`IntakeError::Request`].
    pub fn read_invocation(mut parts: RequestParts) -> Result<Self, IntakeError> {
        let payload = body::json_only(&parts.headers, parts.body.clone())?;
        let (payload, taken) = tokens::take_out(&mut parts, payload)?;
        let Taken { user_tokens, is_redacted } = taken;
        Ok(Self { user_tokens, is_redacted, ..Self::with(parts, payload) })
    }

    /// Reads a body that has to be JSON (CONTRACT D3).
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

    /// Takes the query as the payload (CONTRACT D2): strings all, of a repeated name the first.
    #[must_use]
    pub fn read_query(parts: RequestParts) -> Self {
        let payload = Payload::of_query(&parts.pairs);
        Self::with(parts, payload)
    }

    /// Reads a body of any shape for a channel, whose plugins read it: what cannot be read is no payload, and its
    /// bytes are there all the same. The query is the payload of a request without a body. Every header is
    /// kept: a verifier may need it.
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

    /// The same request by a channel, without the encodings of its body.
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
            parts.query = query::without(&parts.query, is_api_key);
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

    /// Which agent is asked for: from the query, else from the body (CONTRACT X3).
    ///
    /// # Errors
    /// [`IntakeError::Request`] where it is no text.
    pub fn agent_id(&self) -> Result<Option<String>, IntakeError> {
        self.sources(&[]).text("agent_id")
    }
}

/// The payload that this body holds, or none and why.
async fn payload_or_why_not(headers: &HeaderMap, body: Bytes) -> (Payload, Option<BadRequest>) {
    let payload = match Encoding::of(headers) {
        Ok(encodings) if encodings.is_empty() => body::payload(headers, body).await,
        // For whoever is let in it is undone.
        Ok(_) => Err(BadRequest::unsupported("the body is compressed")),
        Err(error) => Err(error),
    };
    match payload {
        Ok(payload) => (payload, None),
        Err(unreadable) => (Payload::empty(), Some(unreadable)),
    }
}

/// The payload without a key that somebody sent in it (CONTRACT X5), and the body likewise: neither plugins
/// nor the agent nor a store get to see it. By a channel the gateway has no keys, and the field is the
/// provider's own.
fn without_key(parts: &mut RequestParts, payload: Payload) -> Payload {
    if !payload.fields().is_some_and(|mut fields| fields.any(|(name, _)| is_api_key(name))) {
        return payload;
    }
    let rest = payload.without(is_api_key);
    parts.replace_body(rest.to_bytes());
    rest
}

/// What a request asks of the plugins before and after the run.
#[derive(Debug, Default)]
pub struct AroundTheRun {
    /// `params_mapping`, verbatim.
    pub spec: Option<String>,
    /// `getter`.
    pub getter: Option<String>,
    /// `json`.
    pub json: bool,
}

/// What a request that was kept with its task asked of plugins around the run. Parameters are those of
/// `POST /` alone, and nobody waited for the answer of an asynchronous one.
pub async fn around_the_run(head: &StoredHead, body: Bytes, by_channel: bool) -> AroundTheRun {
    if by_channel || head.path() != "/" {
        return AroundTheRun::default();
    }
    let pairs = query::decode(head.query().as_bytes()).unwrap_or_default();
    let call = stored::restore(head, body, by_channel).await;
    let sources = Sources { query: &pairs, payload: &call.payload, mapped: &[] };
    AroundTheRun {
        spec: sources.query("params_mapping").map(str::to_owned),
        // The request was accepted, so these can be read.
        getter: match sources.boolean("asynchronous") {
            Ok(false) => sources.text("getter").ok().flatten(),
            _ => None,
        },
        json: sources.boolean("json").unwrap_or_default(),
    }
}
