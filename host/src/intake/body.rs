//! From a body and its content type to a payload (CONTRACT X2, X13, X16).
//!
//! What is declared as JSON has to be JSON. What is declared as a form, as text or not at all is JSON
//! all the same where it looks and parses like it: `curl -d '{…}'` declares a form.

use std::convert::Infallible;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::IntakeError;
use super::query::FIELDS_MAX;
use crate::call::Payload;

/// What a body is declared as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Declared {
    Json,
    Form,
    Multipart,
    Text,
    Nothing,
    /// A type that we do not read.
    Other(String),
}

/// The payload of a `POST`, whatever it was sent as.
///
/// # Errors
/// 400 where the body is not what it is declared as, 415 where it is declared as something we do not
/// read.
pub(super) async fn payload(headers: &HeaderMap, body: Bytes) -> Result<Payload, IntakeError> {
    let declared = declared(headers)?;
    if body.iter().all(u8::is_ascii_whitespace) {
        // No body at all is no payload, however it is declared; a multipart body is never empty.
        return match declared {
            Declared::Multipart => Err(IntakeError::bad("the multipart body is empty")),
            Declared::Other(declared) => Err(unknown(&declared)),
            _ => Ok(Payload::empty()),
        };
    }
    match declared {
        Declared::Json => parse(body),
        Declared::Form if looks_like_json(&body) => match Payload::parse(body.clone()) {
            Err(_) if has_a_name_without_quotes(&body) => form(&body),
            parsed => parsed.map_err(|error| IntakeError::bad(&error.to_string())),
        },
        Declared::Form => form(&body),
        Declared::Multipart => multipart(headers, body).await,
        Declared::Text | Declared::Nothing => parse(body),
        Declared::Other(declared) => Err(unknown(&declared)),
    }
}

/// The payload of a surface that takes JSON only (CONTRACT D3): any JSON value but null.
///
/// # Errors
/// 400 where a body declared as JSON is none; 415 where it is declared as something else and is none.
pub(super) fn json_only(headers: &HeaderMap, body: Bytes) -> Result<Payload, IntakeError> {
    let is_json = declared(headers)? == Declared::Json;
    match Payload::parse(body) {
        Ok(payload) if payload.find("") != Some("null") => Ok(payload),
        Err(error) if !is_json => Err(IntakeError::unsupported(&format!(
            "the content type is not application/json and {error}"
        ))),
        Ok(_) => Err(IntakeError::bad("the body is null")),
        Err(error) => Err(IntakeError::bad(&error.to_string())),
    }
}

fn parse(body: Bytes) -> Result<Payload, IntakeError> {
    Payload::parse(body).map_err(|error| IntakeError::bad(&error.to_string()))
}

fn looks_like_json(body: &[u8]) -> bool {
    matches!(body.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// Whether what looks like JSON and is none may be a form that begins with a brace. Broken or absurdly
/// deep JSON, which `curl -d` declares as a form too, has a quote before its first `=` or no `=` at all.
fn has_a_name_without_quotes(body: &[u8]) -> bool {
    body.iter().find(|byte| matches!(byte, b'=' | b'"')) == Some(&b'=')
}

pub(super) fn declared(headers: &HeaderMap) -> Result<Declared, IntakeError> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    if encodings.any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(IntakeError::unsupported("compressed bodies are not accepted"));
    }
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let Some(first) = types.next() else {
        return Ok(Declared::Nothing);
    };
    if types.any(|other| other != first) {
        return Err(IntakeError::bad("the header content-type was sent more than once"));
    }
    let text = first.to_str().map_err(|_| IntakeError::bad("the content type is not readable"))?;
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "" => Ok(Declared::Nothing),
        "application/x-www-form-urlencoded" => Ok(Declared::Form),
        "multipart/form-data" => Ok(Declared::Multipart),
        "application/json" | "text/json" => Ok(Declared::Json),
        "text/plain" | "application/octet-stream" => Ok(Declared::Text),
        json if json.ends_with("+json") => Ok(Declared::Json),
        _ => Ok(Declared::Other(essence)),
    }
}

fn unknown(declared: &str) -> IntakeError {
    let shown: String = declared.chars().take(80).collect();
    IntakeError::unsupported(&format!(
        "the content type {shown} is not accepted; send JSON, a form or multipart/form-data"
    ))
}

fn form(body: &[u8]) -> Result<Payload, IntakeError> {
    let fields = super::query::decode(body)
        .map_err(|error| IntakeError::bad(&format!("the body is not a valid form: {error}")))?;
    Ok(Payload::of_fields(fields))
}

async fn multipart(headers: &HeaderMap, body: Bytes) -> Result<Payload, IntakeError> {
    let bad = |error: multer::Error| {
        IntakeError::bad(&format!("the body is not valid multipart/form-data: {error}"))
    };
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = multer::parse_boundary(content_type.unwrap_or_default()).map_err(bad)?;
    let whole = futures::stream::once(async move { Ok::<_, Infallible>(body) });
    let mut parts = multer::Multipart::new(whole, boundary);
    let mut fields = Vec::new();
    while let Some(part) = parts.next_field().await.map_err(bad)? {
        if let Some(name) = part.file_name() {
            let shown: String = name.chars().take(80).collect();
            return Err(IntakeError::unsupported(&format!(
                "the file {shown:?} cannot be accepted: this version takes no file uploads"
            )));
        }
        let name = part
            .name()
            .ok_or_else(|| IntakeError::bad("a part of the multipart body has no name"))?
            .to_owned();
        let value = part.bytes().await.map_err(bad)?;
        let value = String::from_utf8(value.into()).map_err(|_| {
            let shown: String = name.chars().take(80).collect();
            IntakeError::bad(&format!("the part {shown:?} is not valid UTF-8"))
        })?;
        if name.contains('\0') || value.contains('\0') {
            return Err(IntakeError::bad("a part of the multipart body holds a NUL byte"));
        }
        if fields.len() == FIELDS_MAX {
            return Err(IntakeError::bad("the multipart body has more than 1,000 parts"));
        }
        fields.push((name, value));
    }
    Ok(Payload::of_fields(fields))
}
