//! A host that is scripted by a test vector.

use super::{body_json, decode_body, headers_json};
use crate::egress::{Answer, Outgoing};
use crate::host::Host;
use crate::{Failure, Field, Json};
use alloc::borrow::ToOwned;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};

/// The headers that the gateway hides from every role but verifiers.
const CREDENTIAL_HEADERS: [&str; 3] = ["authorization", "cookie", "x-api-key"];

/// A host that is scripted by a test vector; [the module](super) describes its format.
pub struct ScriptedHost {
    vector: Value,
    headers: Vec<Field>,
    payload: Value,
    sent: RefCell<Vec<Value>>,
}

impl ScriptedHost {
    /// Creates a host for one vector.
    pub fn new(vector: &Value) -> Self {
        let headers = match &vector["headers"] {
            Value::Object(headers) => headers
                .iter()
                .map(|(name, value)| {
                    (name.to_ascii_lowercase(), value.as_str().unwrap_or_default().to_owned())
                })
                .collect(),
            _ => Vec::new(),
        };
        let mut host = Self {
            vector: vector.clone(),
            headers,
            payload: Value::Null,
            sent: RefCell::default(),
        };
        host.payload = host.parse_payload();
        host
    }

    /// Removes headers with credentials, as the gateway does for mappers and repliers.
    pub(super) fn hide_credentials(&mut self) {
        self.headers.retain(|(name, _)| !CREDENTIAL_HEADERS.contains(&name.as_str()));
    }

    /// The requests sent by egress so far.
    pub fn sent_requests(&self) -> Vec<Value> {
        self.sent.borrow().clone()
    }

    /// Parses the payload as the gateway does: as JSON, or as the fields of a form. Without a body, the
    /// fields come from the query.
    fn parse_payload(&self) -> Value {
        let body = self.body();
        if let Ok(parsed) = serde_json::from_slice(&body) {
            return parsed;
        }
        let fields = if body.is_empty() { self.query().into_bytes() } else { body };
        let fields: Map<_, _> = form_urlencoded::parse(&fields)
            .map(|(name, value)| (name.into_owned(), Value::from(value.into_owned())))
            .collect();
        Value::from(fields)
    }

    fn path_and_query(&self) -> (&str, &str) {
        let target = self.vector["target"].as_str().unwrap_or("/hooks/channel");
        target.split_once('?').unwrap_or((target, ""))
    }

    fn secret_values(&self, name: &str) -> Result<Vec<String>, Failure> {
        let values = self.vector["secrets"][name].as_array();
        values
            .map(|values| values.iter().map(|value| value.as_str().unwrap().to_owned()).collect())
            .ok_or_else(|| Failure::forbidden("no secret of this name is granted"))
    }
}

impl Host for ScriptedHost {
    type Secret = Vec<Vec<u8>>;

    fn method(&self) -> String {
        self.vector["method"].as_str().unwrap_or("POST").to_owned()
    }

    fn path(&self) -> String {
        self.path_and_query().0.to_owned()
    }

    fn query(&self) -> String {
        self.path_and_query().1.to_owned()
    }

    fn header(&self, name: &str) -> Option<String> {
        let found = self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    }

    fn body(&self) -> Vec<u8> {
        decode_body(&self.vector["body"])
    }

    fn json(&self, pointer: &str) -> Option<Json> {
        self.payload.pointer(pointer).map(ToString::to_string)
    }

    fn scalar(&self, pointer: &str) -> Option<String> {
        match self.payload.pointer(pointer)? {
            Value::String(text) => Some(text.clone()),
            value @ (Value::Number(_) | Value::Bool(_)) => Some(value.to_string()),
            _ => None,
        }
    }

    fn task_json(&self, pointer: &str) -> Option<Json> {
        self.vector.get("task")?.pointer(pointer).map(ToString::to_string)
    }

    fn attribute(&self, name: &str) -> Option<Json> {
        self.vector["attributes"].get(name).map(ToString::to_string)
    }

    fn setting(&self, name: &str) -> Result<Option<String>, Failure> {
        let value = self.vector["settings"].get(name);
        Ok(value.map(|value| value.as_str().unwrap().to_owned()))
    }

    fn now_seconds(&self) -> u64 {
        self.vector["now"].as_u64().unwrap_or_default()
    }

    fn open_secret(&self, name: &str) -> Result<Self::Secret, Failure> {
        Ok(self.secret_values(name)?.into_iter().map(String::into_bytes).collect())
    }

    fn open_encoded_secret(
        &self,
        name: &str,
        prefix: &str,
        encoding: &str,
    ) -> Result<Self::Secret, Failure> {
        let encoding = crate::signature::Encoding::from_name(encoding)
            .ok_or_else(|| Failure::invalid_input("the encoding is not known"))?;
        self.secret_values(name)?
            .iter()
            .map(|text| {
                // Some providers display the secret with the signature version before the prefix.
                let bare = text.strip_prefix("v1,").and_then(|text| text.strip_prefix(prefix));
                let bare = bare.or_else(|| text.strip_prefix(prefix));
                encoding.decode(bare.unwrap_or(text))
            })
            .collect::<Option<_>>()
            .ok_or_else(|| Failure::forbidden("the secret cannot be used as it is bound"))
    }

    fn hmac_verify(
        &self,
        key: &Self::Secret,
        algorithm: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, Failure> {
        let any_value = |is_valid: &dyn Fn(&[u8]) -> bool| key.iter().any(|value| is_valid(value));
        match algorithm {
            "sha256" => Ok(any_value(&|key| verify::<Hmac<sha2::Sha256>>(key, message, signature))),
            "sha512" => Ok(any_value(&|key| verify::<Hmac<sha2::Sha512>>(key, message, signature))),
            "sha1" => Ok(any_value(&|key| verify::<Hmac<sha1::Sha1>>(key, message, signature))),
            _ => Err(Failure::invalid_input("the algorithm is not known")),
        }
    }

    fn hmac_verify_body(
        &self,
        key: &Self::Secret,
        algorithm: &str,
        before: &[u8],
        after: &[u8],
        signatures: &[Vec<u8>],
    ) -> Result<bool, Failure> {
        let message = [before, &self.body(), after].concat();
        signatures.iter().try_fold(false, |is_valid, signature| {
            Ok(is_valid | self.hmac_verify(key, algorithm, &message, signature)?)
        })
    }

    fn hmac_sign(
        &self,
        key: &Self::Secret,
        algorithm: &str,
        message: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        let newest = key.first().expect("a secret has a value");
        match algorithm {
            "sha256" => Ok(sign::<Hmac<sha2::Sha256>>(newest, message)),
            "sha512" => Ok(sign::<Hmac<sha2::Sha512>>(newest, message)),
            "sha1" => Ok(sign::<Hmac<sha1::Sha1>>(newest, message)),
            _ => Err(Failure::invalid_input("the algorithm is not known")),
        }
    }

    fn secret_matches(&self, key: &Self::Secret, presented: &[u8]) -> bool {
        key.iter().any(|value| value == presented)
    }

    fn send(&self, outgoing: &Outgoing, credential: Option<&str>) -> Result<Answer, Failure> {
        let mut sent = self.sent.borrow_mut();
        let answer = &self.vector["answers"][sent.len()];
        sent.push(json!({
            "method": outgoing.method,
            "url": outgoing.url,
            "credential": credential,
            "headers": headers_json(&outgoing.headers),
            "body": body_json(outgoing.body.as_deref().unwrap_or_default()),
        }));
        if let Some(code) = answer["failure"].as_str() {
            return Err(Failure::new(code, "as the vector says"));
        }
        let status = answer["status"].as_u64().expect("the vector has an answer for this");
        let headers = answer["headers"].as_object().cloned().unwrap_or_default();
        Ok(Answer {
            status: u16::try_from(status).unwrap(),
            headers: headers
                .into_iter()
                .map(|(name, value)| (name, value.as_str().unwrap().to_owned()))
                .collect(),
            body: decode_body(&answer["body"]),
            truncated: false,
            extra: None,
        })
    }
}

fn sign<M: Mac + KeyInit>(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn verify<M: Mac + KeyInit>(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(message);
    mac.verify_slice(signature).is_ok()
}
