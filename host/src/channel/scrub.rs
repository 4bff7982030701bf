//! Removes the credentials that only the verifier may see. Mappers and the agent do not see them, and they are not
//! stored.

use std::sync::Arc;

use http::{HeaderMap, Method};

use super::ActiveChannel;
use crate::request::credentials::{self, is_api_key};
use crate::request::{IncomingRequest, Payload};
use crate::sandbox::BoundSecret;
use crate::secrets::SecretVersions;

/// Secrets shorter than this are not searched for in a request.
const SECRET_BYTES_MIN: usize = 6;

impl ActiveChannel {
    /// Returns the request without the usual credential headers and without any header or query parameter that holds
    /// one of the channel's secrets. This is what mappers see and what is stored.
    #[must_use]
    pub fn without_credentials(&self, incoming: Arc<IncomingRequest>) -> Arc<IncomingRequest> {
        let versions = self.facts.secrets.values().filter_map(BoundSecret::versions);
        let secrets: Vec<&[u8]> = versions
            .flat_map(SecretVersions::all)
            .map(<[u8]>::trim_ascii)
            .filter(|secret| secret.len() >= SECRET_BYTES_MIN)
            .collect();
        let has_secret =
            |text: &[u8]| secrets.iter().any(|secret| memchr::memmem::find(text, secret).is_some());
        let mut headers = HeaderMap::with_capacity(incoming.headers.len());
        for (name, value) in &incoming.headers {
            if !credentials::HEADERS.contains(&name.as_str()) && !has_secret(value.as_bytes()) {
                headers.append(name.clone(), value.clone());
            }
        }
        // An API key of the gateway does not belong here and is removed as well.
        let pair_has_secret = |pair: &str| {
            let name = decoded(pair.split('=').next().unwrap_or_default());
            is_api_key(&String::from_utf8_lossy(&name)) || has_secret(&decoded(pair))
        };
        let query_has_secret = incoming.query.split('&').any(pair_has_secret);
        if headers.len() == incoming.headers.len() && !query_has_secret {
            return incoming;
        }
        let rest = incoming.query.split('&').filter(|pair| !pair_has_secret(pair));
        let query = rest.collect::<Vec<_>>().join("&");
        // For a GET without a body, the query is also the payload.
        let is_payload =
            query_has_secret && incoming.body.is_empty() && incoming.method == Method::GET;
        let payload = match incoming.payload.fields() {
            Some(fields) if is_payload => {
                let rest: Vec<_> = fields
                    .filter(|(name, _)| !is_api_key(name) && !has_secret(name.as_bytes()))
                    .filter_map(|(name, value)| {
                        Some((name.to_owned(), serde_json::from_str::<String>(value).ok()?))
                    })
                    .filter(|(_, value)| !has_secret(value.as_bytes()))
                    .collect();
                Payload::of_fields(rest)
            }
            _ => incoming.payload.clone(),
        };
        Arc::new(IncomingRequest {
            method: incoming.method.clone(),
            path: incoming.path.clone(),
            query,
            headers,
            body: incoming.body.clone(),
            payload,
            unreadable: incoming.unreadable.clone(),
        })
    }
}

/// A name-value pair of the query, decoded.
fn decoded(pair: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(&pair.replace('+', " ")).collect()
}
