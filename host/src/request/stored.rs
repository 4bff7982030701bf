//! A request as it is stored with its task, and restored from there.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{IncomingRequest, Payload, body, cloud_event, query};

/// A stored request without its body.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = RequestHead)]
pub struct StoredHead {
    method: String,
    /// Percent-encoded; empty if it held a credential.
    path: String,
    /// Percent-encoded.
    query: String,
    /// Names and values.
    #[schema(value_type = Vec<Vec<String>>)]
    headers: Vec<(String, String)>,
    /// What the channel's verifier returned about the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub principal: Option<Value>,
    /// The channel's URL as its caller addressed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel_url: Option<String>,
}

impl StoredHead {
    /// Builds the stored form of a request. Header values that are not UTF-8 are stored as plugins see them.
    #[must_use]
    pub fn from_request(call: &IncomingRequest) -> Self {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = call.headers.iter().map(|(name, value)| (name.to_string(), text(value)));
        Self {
            method: call.method.to_string(),
            path: call.path.clone(),
            query: call.query.clone(),
            headers: headers.collect(),
            principal: None,
            channel_url: None,
        }
    }

    /// Adds what is stored for a request that arrived by a channel.
    #[must_use]
    pub fn by_channel(self, url: &str, principal: Option<&str>) -> Self {
        let principal = principal.and_then(|json| serde_json::from_str(json).ok());
        Self { principal, channel_url: Some(url.to_owned()), ..self }
    }

    /// Whether the method is GET.
    #[must_use]
    pub fn is_get(&self) -> bool {
        self.method == Method::GET.as_str()
    }

    /// The path, percent-encoded. Empty if it held a credential.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The query, percent-encoded.
    #[must_use]
    pub fn query(&self) -> &str {
        &self.query
    }

    /// The headers as stored.
    #[must_use]
    pub fn headers(&self) -> HeaderMap {
        let parsed = self.headers.iter().filter_map(|(name, value)| {
            Some((name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value).ok()?))
        });
        let mut headers = HeaderMap::new();
        for (name, value) in parsed {
            headers.append(name, value);
        }
        headers
    }

    /// Rebuilds the request with this body and payload.
    #[must_use]
    pub fn request(&self, body: Bytes, payload: Payload) -> IncomingRequest {
        IncomingRequest {
            method: self.method.parse().unwrap_or(Method::POST),
            path: self.path.clone(),
            query: self.query.clone(),
            headers: self.headers(),
            body,
            payload,
            unreadable: None,
        }
    }

    /// Serializes to JSON for the store.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// Restores a request that was stored with its task. By a channel, plugins parse the body as it arrived; on the other
/// surfaces, a CloudEvent in binary mode is assembled for them.
pub async fn restore(head: &StoredHead, bytes: Bytes, by_channel: bool) -> IncomingRequest {
    let headers = head.headers();
    let event =
        if by_channel { None } else { cloud_event::binary(&headers, &bytes).ok().flatten() };
    let payload = match event {
        Some(event) => event,
        None if bytes.is_empty() && head.is_get() => {
            Payload::of_query(&query::decode(head.query().as_bytes()).unwrap_or_default())
        }
        None => match body::payload(&headers, bytes.clone()).await {
            Ok(payload) => payload,
            // Accepted as JSON whatever its content type: an agent's own webhook accepts such bodies, and a form from
            // which a credential was removed is stored as JSON.
            Err(_) if !by_channel => {
                Payload::parse(bytes.clone()).unwrap_or_else(|_| Payload::empty())
            }
            Err(_) => Payload::empty(),
        },
    };
    head.request(bytes, payload)
}
