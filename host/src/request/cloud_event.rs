//! CloudEvents over HTTP, version 1.0 (HTTP protocol binding, section 3). An event in binary mode, with its
//! attributes in headers, is assembled into the JSON event that structured mode would send, so that mappings and
//! agents see one shape.

use base64::Engine as _;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName};
use serde_json::Value;

use super::BadRequest;
use super::Payload;
use super::body::{ContentKind, content_kind};

/// The header that marks a request as a binary-mode event.
pub(crate) const SPECVERSION_HEADER: &str = "ce-specversion";

/// The attributes that every event must have.
const REQUIRED: [&str; 4] = ["specversion", "id", "source", "type"];

/// The supported versions of the specification.
const VERSIONS: [&str; 2] = ["1.0", "0.3"];

/// Returns the event of a request in binary mode, or `None` if the request is not an event.
///
/// # Errors
/// 400 if the event lacks a required attribute, or if its data does not match its declared type.
pub(crate) fn binary(headers: &HeaderMap, body: &Bytes) -> Result<Option<Payload>, BadRequest> {
    if !headers.contains_key(SPECVERSION_HEADER) {
        return Ok(None);
    }
    let mut event: Vec<(&str, String)> = Vec::new();
    for name in headers.keys().filter_map(|name| name.as_str().strip_prefix("ce-")) {
        event.push((name, attribute(headers, name)?));
    }
    for required in REQUIRED {
        if !event.iter().any(|(name, value)| *name == required && !value.is_empty()) {
            return Err(BadRequest::bad(&format!("the CloudEvent has no ce-{required}")));
        }
    }
    check_version(event.iter().find(|(name, _)| *name == "specversion").map(|(_, v)| v.as_str()))?;
    let mut fields: Vec<String> = event
        .iter()
        .map(|(name, value)| field(name, &Value::from(value.as_str()).to_string()))
        .collect();
    if let Some(declared) = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) {
        fields.push(field("datacontenttype", &Value::from(declared).to_string()));
    }
    fields.extend(data(headers, body)?);
    let text = format!("{{{}}}", fields.join(","));
    let event = Payload::parse(text.into());
    event.map(Some).map_err(|error| BadRequest::bad(&error.to_string()))
}

/// Checks an event in structured mode, if the request is declared as one.
///
/// # Errors
/// 400 if a required attribute is missing, which the message names, or if the version is not supported; 415 if the
/// body is a batch.
pub(crate) fn check_structured(headers: &HeaderMap, event: &Payload) -> Result<(), BadRequest> {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = declared.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/cloudevents-batch+json") {
        return Err(BadRequest::unsupported("batches of CloudEvents are not accepted: send each"));
    }
    if !essence.eq_ignore_ascii_case("application/cloudevents+json") {
        return Ok(());
    }
    let text = |name: &str| serde_json::from_str::<String>(event.find(&format!("/{name}"))?).ok();
    for required in REQUIRED {
        if text(required).is_none_or(|value| value.is_empty()) {
            return Err(BadRequest::bad(&format!("the CloudEvent has no {required}")));
        }
    }
    check_version(text("specversion").as_deref())
}

fn check_version(version: Option<&str>) -> Result<(), BadRequest> {
    if version.is_some_and(|version| VERSIONS.contains(&version)) {
        return Ok(());
    }
    Err(BadRequest::bad("the CloudEvent's specversion is neither 1.0 nor 0.3"))
}

/// One attribute's header, percent-decoded (section 3.1.3.2).
fn attribute(headers: &HeaderMap, name: &str) -> Result<String, BadRequest> {
    let wrong = |why: &str| BadRequest::bad(&format!("the header ce-{name} {why}"));
    if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        || matches!(name, "data" | "datacontenttype")
    {
        return Err(wrong("is not an attribute of a CloudEvent"));
    }
    let header = HeaderName::from_bytes(format!("ce-{name}").as_bytes());
    let mut values = header.iter().flat_map(|header| headers.get_all(header));
    let value = values.next().ok_or_else(|| wrong("is missing"))?;
    if values.next().is_some() {
        return Err(wrong("was sent more than once"));
    }
    let decoded = percent_encoding::percent_decode(value.as_bytes()).decode_utf8();
    decoded.map(|text| text.trim().to_owned()).map_err(|_| wrong("is not UTF-8"))
}

/// The event's data: JSON as received, other text as a string, other bytes in base64 (JSON event format, section
/// 3.1.1).
fn data(headers: &HeaderMap, body: &Bytes) -> Result<Option<String>, BadRequest> {
    let declared = content_kind(headers)?;
    if body.is_empty() {
        return Ok(None);
    }
    let json = match Payload::parse(body.clone()) {
        Ok(json) if matches!(declared, ContentKind::Json | ContentKind::Nothing) => Some(json),
        Err(error) if declared == ContentKind::Json => {
            return Err(BadRequest::bad(&error.to_string()));
        }
        _ => None,
    };
    if let Some(json) = json {
        return Ok(Some(field("data", json.text())));
    }
    Ok(Some(match std::str::from_utf8(body) {
        Ok(text) => field("data", &Value::from(text).to_string()),
        Err(_) => {
            let encoded = base64::engine::general_purpose::STANDARD.encode(body);
            field("data_base64", &Value::from(encoded).to_string())
        }
    }))
}

fn field(name: &str, json: &str) -> String {
    format!("{}:{json}", Value::from(name))
}
