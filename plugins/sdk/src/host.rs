//! The host as a value, so that a plugin's logic can be tested natively.
//!
//! Logic that takes `&impl Host` runs against [`Gateway`] in the gateway and against a scripted host in
//! native tests. The host is a type parameter, not a trait object: a plugin imports only what it calls.

use crate::{Failure, Field, Json, clock, config, context, egress, json, request, secrets, task};
use alloc::string::String;
use alloc::vec::Vec;

/// The functions of the host that a plugin may call.
pub trait Host {
    /// A handle of an opened secret.
    type Secret;

    /// See [`request::method`].
    fn method(&self) -> String;
    /// See [`request::path`].
    fn path(&self) -> String;
    /// See [`request::query`].
    fn query(&self) -> String;
    /// See [`request::header`]. An empty header counts as missing.
    fn header(&self, name: &str) -> Option<String>;
    /// See [`request::body`].
    fn body(&self) -> Vec<u8>;
    /// See [`request::json`].
    fn json(&self, pointer: &str) -> Option<Json>;
    /// See [`request::scalar`].
    fn scalar(&self, pointer: &str) -> Option<String>;
    /// See [`task::json`].
    fn task_json(&self, pointer: &str) -> Option<Json>;
    /// See [`context::attribute`].
    fn attribute(&self, name: &str) -> Option<Json>;
    /// See [`config`]: a setting of this plugin, or of the channel that calls it. `None` if it is not set.
    fn setting(&self, name: &str) -> Result<Option<String>, Failure>;
    /// See [`clock::now_seconds`].
    fn now_seconds(&self) -> u64;
    /// See [`secrets::open`].
    fn open_secret(&self, name: &str) -> Result<Self::Secret, Failure>;
    /// See [`secrets::open_encoded`].
    fn open_encoded_secret(
        &self,
        name: &str,
        prefix: &str,
        encoding: &str,
    ) -> Result<Self::Secret, Failure>;
    /// See [`secrets::hmac_verify`].
    fn hmac_verify(
        &self,
        key: &Self::Secret,
        algorithm: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, Failure>;
    /// See [`secrets::hmac_verify_body`].
    fn hmac_verify_body(
        &self,
        key: &Self::Secret,
        algorithm: &str,
        before: &[u8],
        after: &[u8],
        signatures: &[Vec<u8>],
    ) -> Result<bool, Failure>;
    /// See [`secrets::hmac_sign`].
    fn hmac_sign(
        &self,
        key: &Self::Secret,
        algorithm: &str,
        message: &[u8],
    ) -> Result<Vec<u8>, Failure>;
    /// See [`secrets::matches`].
    fn secret_matches(&self, key: &Self::Secret, presented: &[u8]) -> bool;
    /// See [`egress::send`].
    fn send(
        &self,
        outgoing: &egress::Outgoing,
        credential: Option<&str>,
    ) -> Result<egress::Answer, Failure>;
}

/// The gateway that the plugin runs in.
pub struct Gateway;

impl Host for Gateway {
    type Secret = secrets::Secret;

    fn method(&self) -> String {
        request::method()
    }

    fn path(&self) -> String {
        request::path()
    }

    fn query(&self) -> String {
        request::query()
    }

    fn header(&self, name: &str) -> Option<String> {
        request::header(name).filter(|value| !value.is_empty())
    }

    fn body(&self) -> Vec<u8> {
        request::body()
    }

    fn json(&self, pointer: &str) -> Option<Json> {
        request::json(pointer)
    }

    fn scalar(&self, pointer: &str) -> Option<String> {
        request::scalar(pointer)
    }

    fn task_json(&self, pointer: &str) -> Option<Json> {
        task::json(pointer)
    }

    fn attribute(&self, name: &str) -> Option<Json> {
        context::attribute(name)
    }

    fn setting(&self, name: &str) -> Result<Option<String>, Failure> {
        config::get(name).map_err(|_| Failure::new("settings", "the settings cannot be read"))
    }

    fn now_seconds(&self) -> u64 {
        clock::now_seconds()
    }

    fn open_secret(&self, name: &str) -> Result<Self::Secret, Failure> {
        secrets::open(name)
    }

    fn open_encoded_secret(
        &self,
        name: &str,
        prefix: &str,
        encoding: &str,
    ) -> Result<Self::Secret, Failure> {
        secrets::open_encoded(name, prefix, encoding)
    }

    fn hmac_verify(
        &self,
        key: &Self::Secret,
        algorithm: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, Failure> {
        secrets::hmac_verify(key, algorithm, message, signature)
    }

    fn hmac_verify_body(
        &self,
        key: &Self::Secret,
        algorithm: &str,
        before: &[u8],
        after: &[u8],
        signatures: &[Vec<u8>],
    ) -> Result<bool, Failure> {
        secrets::hmac_verify_body(key, algorithm, before, after, signatures)
    }

    fn hmac_sign(
        &self,
        key: &Self::Secret,
        algorithm: &str,
        message: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        secrets::hmac_sign(key, algorithm, message)
    }

    fn secret_matches(&self, key: &Self::Secret, presented: &[u8]) -> bool {
        secrets::matches(key, presented)
    }

    fn send(
        &self,
        outgoing: &egress::Outgoing,
        credential: Option<&str>,
    ) -> Result<egress::Answer, Failure> {
        egress::send(outgoing, credential)
    }
}

/// A host whose payload may be a JSON object inside a field of the actual payload: some senders post it in
/// a form field. Everything but the payload comes from the wrapped host.
pub struct HostWithPayload<'h, H> {
    host: &'h H,
    payload: Option<String>,
}

impl<'h, H: Host> HostWithPayload<'h, H> {
    /// Reads the payload as it arrived.
    pub fn original(host: &'h H) -> Self {
        Self { host, payload: None }
    }

    /// Reads the object in the field at this pointer. `None` if the field does not hold an object.
    pub fn from_field(host: &'h H, pointer: &str) -> Option<Self> {
        let payload = host.scalar(pointer).filter(|text| json::is_object(text))?;
        Some(Self { host, payload: Some(payload) })
    }

    /// The text of the object, if the payload is taken from a field.
    pub fn embedded_object(&self) -> Option<&str> {
        self.payload.as_deref()
    }
}

impl<H: Host> Host for HostWithPayload<'_, H> {
    type Secret = H::Secret;

    fn method(&self) -> String {
        self.host.method()
    }

    fn path(&self) -> String {
        self.host.path()
    }

    fn query(&self) -> String {
        self.host.query()
    }

    fn header(&self, name: &str) -> Option<String> {
        self.host.header(name)
    }

    fn body(&self) -> Vec<u8> {
        self.host.body()
    }

    fn json(&self, pointer: &str) -> Option<Json> {
        match &self.payload {
            Some(payload) => json::value_at(payload, pointer).map(String::from),
            None => self.host.json(pointer),
        }
    }

    fn scalar(&self, pointer: &str) -> Option<String> {
        match &self.payload {
            Some(payload) => json::value_at(payload, pointer).and_then(json::scalar_text),
            None => self.host.scalar(pointer),
        }
    }

    fn task_json(&self, pointer: &str) -> Option<Json> {
        self.host.task_json(pointer)
    }

    fn attribute(&self, name: &str) -> Option<Json> {
        self.host.attribute(name)
    }

    fn setting(&self, name: &str) -> Result<Option<String>, Failure> {
        self.host.setting(name)
    }

    fn now_seconds(&self) -> u64 {
        self.host.now_seconds()
    }

    fn open_secret(&self, name: &str) -> Result<Self::Secret, Failure> {
        self.host.open_secret(name)
    }

    fn open_encoded_secret(
        &self,
        name: &str,
        prefix: &str,
        encoding: &str,
    ) -> Result<Self::Secret, Failure> {
        self.host.open_encoded_secret(name, prefix, encoding)
    }

    fn hmac_verify(
        &self,
        key: &Self::Secret,
        algorithm: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, Failure> {
        self.host.hmac_verify(key, algorithm, message, signature)
    }

    fn hmac_verify_body(
        &self,
        key: &Self::Secret,
        algorithm: &str,
        before: &[u8],
        after: &[u8],
        signatures: &[Vec<u8>],
    ) -> Result<bool, Failure> {
        self.host.hmac_verify_body(key, algorithm, before, after, signatures)
    }

    fn hmac_sign(
        &self,
        key: &Self::Secret,
        algorithm: &str,
        message: &[u8],
    ) -> Result<Vec<u8>, Failure> {
        self.host.hmac_sign(key, algorithm, message)
    }

    fn secret_matches(&self, key: &Self::Secret, presented: &[u8]) -> bool {
        self.host.secret_matches(key, presented)
    }

    fn send(
        &self,
        outgoing: &egress::Outgoing,
        credential: Option<&str>,
    ) -> Result<egress::Answer, Failure> {
        self.host.send(outgoing, credential)
    }
}

impl egress::Outgoing {
    /// A POST request with this body and one header, its content type.
    pub fn post(url: String, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        let content_type: Field = ("content-type".into(), content_type.into());
        Self {
            method: "POST".into(),
            url,
            headers: Vec::from([content_type]),
            body: Some(body.into()),
            timeout_ms: None,
            extra: None,
        }
    }
}
