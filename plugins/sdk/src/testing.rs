//! Runs test vectors against an [`Integration`] natively, with a scripted host in place of the gateway. For
//! tests only, behind the feature `testing`.
//!
//! A vector is a JSON object. Only what `expect` names is compared, so every vector must name something.
//! The same files can drive a running gateway over HTTP.
//!
//! | member | holds |
//! |---|---|
//! | `name`, `source` | what the vector shows, and where it was published |
//! | `secrets` | `{"secret": ["newest", "previous"]}` |
//! | `settings`, `attributes` | values by name: strings for settings, JSON for attributes |
//! | `now` | seconds since 1970 |
//! | `method`, `target`, `headers` | the request; the target is path and query |
//! | `body` | text, `{"base64": "…"}`, or any other JSON, which is sent as its text |
//! | `task` | the task, for repliers |
//! | `answers` | the responses to `egress.send`, in order: `{"status", "headers", "body"}` or `{"failure": code}` |
//! | `expect.verify` | `ok` or the failure's code |
//! | `expect.map` | `{"action", "params", "delivery_id", "context", "reply"}` or `{"failure": code}` |
//! | `expect.reply` | `{"status", "headers", "body"}` |
//! | `expect.deliver` | `ok` or the failure's code |
//! | `expect.sent` | `[{"method", "url", "credential", "headers", "body"}]` |
//!
//! In objects such as headers and contexts, only the named members are compared; in `params`, all of them.
//! If the expected body is an object or array, the body is compared as JSON.

#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "this is test code, although for other crates' tests"
)]

extern crate std;

mod scripted;

use crate::integration::Integration;
use crate::mapper::Mapped;
use crate::{Failure, Field, HttpReply};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{borrow::ToOwned, format};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
pub use scripted::ScriptedHost;
use serde_json::{Map, Value, json};

/// Runs every vector of a file, which is a JSON array.
///
/// # Panics
///
/// If the result of a vector differs from its `expect`, with the name of each such vector; or if the file
/// has no vectors.
pub fn run_vectors<I: Integration>(file: &str) {
    let vectors: Vec<Value> = serde_json::from_str(file).expect("a JSON array of vectors");
    assert!(!vectors.is_empty(), "there are no vectors");
    let mismatches: Vec<_> = vectors.iter().flat_map(mismatches::<I>).collect();
    assert!(mismatches.is_empty(), "\n{}", mismatches.join("\n"));
}

/// Asserts that the signature covers every byte of a body: takes each vector that `verify` accepts, changes
/// one byte of its body at a time, and expects a refusal each time. For integrations that sign the raw body.
///
/// # Panics
///
/// If a changed body is accepted, or if there is no accepted vector with a body.
pub fn assert_every_byte_is_signed<I: Integration>(file: &str) {
    let vectors: Vec<Value> = serde_json::from_str(file).expect("a JSON array of vectors");
    let mut changed = 0;
    for vector in vectors.iter().filter(|vector| vector["expect"]["verify"] == "ok") {
        let body = decode_body(&vector["body"]);
        for index in 0..body.len() {
            let mut other = body.clone();
            other[index] ^= 1;
            let mut vector = vector.clone();
            vector["body"] = json!({"base64": BASE64_STANDARD.encode(other)});
            let is_accepted = I::verify(&ScriptedHost::new(&vector)).is_ok();
            assert!(!is_accepted, "{}: byte {index} is not signed", vector["name"]);
            changed += 1;
        }
    }
    assert!(changed > 0, "there is no body that was accepted");
}

/// Runs one vector and lists where the result differs from its `expect`.
fn mismatches<I: Integration>(vector: &Value) -> Vec<String> {
    let name = vector["name"].as_str().expect("a vector has a name");
    assert!(vector["source"].is_string(), "{name}: say where it comes from");
    let expect = vector["expect"].as_object().expect("a vector expects something");
    let mut host = ScriptedHost::new(vector);
    let mut mismatches = Vec::new();
    let mut compare = |what: &str, found: Value| {
        if let Some(expected) = expect.get(what)
            && !matches_expected(expected, &found)
        {
            mismatches.push(format!("{name}: {what}\n  expected {expected}\n  found    {found}"));
        }
    };
    for member in expect.keys() {
        assert!(
            ["verify", "map", "reply", "deliver", "sent"].contains(&member.as_str()),
            "{name}: `{member}` is not looked at"
        );
    }
    let verified = I::verify(&host);
    let is_accepted = verified.is_ok();
    compare("verify", outcome_json(verified.map(|_| ())));
    host.hide_credentials();
    // The gateway maps verified requests only.
    compare("map", if is_accepted { mapped_json(I::map_payload(&host)) } else { Value::Null });
    if expect.contains_key("reply") {
        compare("reply", I::reply(&host).map_or_else(failure_json, reply_json));
    }
    if expect.contains_key("deliver") {
        compare("deliver", outcome_json(I::deliver(&host)));
    }
    compare("sent", Value::Array(host.sent_requests()));
    mismatches
}

/// Whether the result has everything that is expected. Objects may have more members, except `params`.
fn matches_expected(expected: &Value, found: &Value) -> bool {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => expected.iter().all(|(name, value)| {
            let other = found.get(name).unwrap_or(&Value::Null);
            if name == "params" { value == other } else { matches_expected(value, other) }
        }),
        (Value::Array(expected), Value::Array(found)) => {
            expected.len() == found.len()
                && expected.iter().zip(found).all(|(value, other)| matches_expected(value, other))
        }
        (Value::Object(_) | Value::Array(_), Value::String(text)) => {
            serde_json::from_str(text).is_ok_and(|parsed| matches_expected(expected, &parsed))
        }
        _ => expected == found,
    }
}

fn outcome_json(result: Result<(), Failure>) -> Value {
    Value::from(result.err().map_or("ok".to_owned(), |failure| failure.code))
}

fn failure_json(failure: Failure) -> Value {
    json!({
        "failure": failure.code,
        "message": failure.message,
        "retry_after_ms": failure.retry_after_ms,
    })
}

fn mapped_json(result: Result<Mapped, Failure>) -> Value {
    let mapped = match result {
        Ok(mapped) => mapped,
        Err(refused) => return failure_json(refused),
    };
    let context = mapped.context.map(|text| {
        let context: Value = serde_json::from_str(&text).expect("the context is JSON");
        assert!(context.is_object(), "the context is an object");
        context
    });
    let count = mapped.params.len();
    let params: Map<_, _> =
        mapped.params.into_iter().map(|(name, value)| (name, value.into())).collect();
    assert_eq!(params.len(), count, "a parameter is set twice");
    json!({
        "action": mapped.action,
        "params": params,
        "context": context,
        "delivery_id": mapped.delivery_id,
        "reply": mapped.reply.map(reply_json),
    })
}

fn reply_json(reply: HttpReply) -> Value {
    json!({
        "status": reply.status,
        "headers": headers_json(&reply.headers),
        "body": body_json(&reply.body),
    })
}

fn headers_json(fields: &[Field]) -> Value {
    fields.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect()
}

fn body_json(body: &[u8]) -> Value {
    match core::str::from_utf8(body) {
        Ok(text) => Value::from(text),
        Err(_) => json!({"base64": BASE64_STANDARD.encode(body)}),
    }
}

/// Decodes bytes as a vector represents them.
fn decode_body(value: &Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.as_bytes().to_vec(),
        Value::Null => Vec::new(),
        _ => match value["base64"].as_str() {
            Some(text) => BASE64_STANDARD.decode(text).expect("base64"),
            None => value.to_string().into_bytes(),
        },
    }
}

/// Asserts that the check of these settings reports problems at exactly these pointers, in this order.
///
/// # Panics
///
/// If it reports others.
pub fn assert_diagnostics<I: Integration>(config: &str, pointers: &[&str]) {
    let found = crate::integration::check_config::<I>(config);
    let found: Vec<_> = found.iter().map(|problem| problem.pointer.as_str()).collect();
    assert_eq!(found, pointers, "{config}");
}

/// Asserts that, with these settings, `verify` fails with the code `settings`, whatever the request is.
///
/// # Panics
///
/// If it succeeds or fails with another code.
pub fn assert_misconfigured<I: Integration>(settings: &str) {
    let settings: Value = serde_json::from_str(settings).expect("settings are JSON");
    let host = ScriptedHost::new(&json!({"settings": settings, "secrets": {"secret": ["a"]}}));
    let code = I::verify(&host).err().map(|failure| failure.code);
    assert_eq!(code.as_deref(), Some("settings"), "{settings}");
}
