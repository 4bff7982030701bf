//! From a body and its content type to a payload (CONTRACT X2, X13, X16).
//!
//! What is declared as JSON has to be JSON. What is declared as a form, as text or not at all is JSON
//! all the same where it looks and parses like it: `curl -d '{…}'` declares a form. Other text, XML among it, is
//! a payload of one string, and lines of JSON are an array of them.

use std::convert::Infallible;

use bytes::Bytes;
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde::de::IgnoredAny;
use serde_json::Value;

use super::BadRequest;
use super::query::FIELDS_MAX;
use super::{Payload, PayloadError};

/// The largest part of a text's bytes that are control characters: one in so many.
const CONTROLS_PART: usize = 10;

/// What a body is declared as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Declared {
    Json,
    Form,
    Multipart,
    /// A JSON value in each line.
    JsonLines,
    /// Plain text, and bytes of no type.
    Text,
    /// Text of a type of its own.
    Markup,
    Nothing,
    /// A type that we do not read.
    Other(String),
}

/// The payload of a `POST`, whatever it was sent as.
///
/// # Errors
/// 400 where the body is not what it is declared as, 415 where it is declared as something we do not
/// read.
pub(crate) async fn payload(headers: &HeaderMap, body: Bytes) -> Result<Payload, BadRequest> {
    let declared = declared(headers)?;
    let body = match declared {
        Declared::Multipart | Declared::Other(_) => body,
        _ => utf8(headers, body)?,
    };
    if body.iter().all(u8::is_ascii_whitespace) {
        // No body at all is no payload, however it is declared; a multipart body is never empty.
        return match declared {
            Declared::Multipart => Err(BadRequest::bad("the multipart body is empty")),
            Declared::Other(declared) => Err(unknown(&declared)),
            _ => Ok(Payload::empty()),
        };
    }
    match declared {
        Declared::Json => parse(body),
        Declared::Form if looks_like_json(&body) => match Payload::parse(body.clone()) {
            Err(_) if has_a_name_without_quotes(&body) => form(&body),
            parsed => parsed.map_err(|error| BadRequest::bad(&error.to_string())),
        },
        Declared::Form => form(&body),
        Declared::Multipart => multipart(headers, body).await,
        Declared::JsonLines => lines(&body),
        Declared::Text | Declared::Nothing if !looks_like_json(&body) => text(&body),
        Declared::Markup => text(&body),
        Declared::Text | Declared::Nothing => parse(body),
        Declared::Other(declared) => Err(unknown(&declared)),
    }
}

/// The payload of a surface that takes JSON only (CONTRACT D3): any JSON value but null.
///
/// # Errors
/// 400 where a body declared as JSON is none; 415 where it is declared as something else and is none.
pub(crate) fn json_only(headers: &HeaderMap, body: Bytes) -> Result<Payload, BadRequest> {
    let is_json = declared(headers)? == Declared::Json;
    match Payload::parse(utf8(headers, body)?) {
        Ok(payload) if payload.find("") != Some("null") => Ok(payload),
        Err(error) if !is_json => Err(BadRequest::unsupported(&format!(
            "the content type is not application/json and {error}"
        ))),
        Ok(_) => Err(BadRequest::bad("the body is null")),
        Err(error) => Err(BadRequest::bad(&error.to_string())),
    }
}

fn parse(body: Bytes) -> Result<Payload, BadRequest> {
    Payload::parse(body).map_err(|error| BadRequest::bad(&error.to_string()))
}

/// A payload of one string.
fn text(body: &[u8]) -> Result<Payload, BadRequest> {
    let text = std::str::from_utf8(body).map_err(not_utf8)?;
    if text.contains('\0') {
        return Err(BadRequest::bad("the text of the body holds a NUL byte"));
    }
    // Each of these is six bytes of JSON. Text has few, as those that colour a terminal.
    let is_long = |byte: &&u8| byte.is_ascii_control() && !b"\x08\t\n\x0c\r\x7f".contains(byte);
    if body.iter().filter(is_long).count() > body.len() / CONTROLS_PART {
        return Err(BadRequest::bad("the body is not text: it holds too many control characters"));
    }
    parse(Value::from(text).to_string().into())
}

/// An array of the JSON values that the lines are.
fn lines(body: &[u8]) -> Result<Payload, BadRequest> {
    let text = std::str::from_utf8(body).map_err(not_utf8)?;
    let mut array = String::with_capacity(text.len() + 2);
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        // Each for itself: what is no value could be made one by the lines around it.
        serde_json::from_str::<IgnoredAny>(line).map_err(|error| {
            BadRequest::bad(&format!("line {} of the body is not valid JSON: {error}", number + 1))
        })?;
        array.push(if array.is_empty() { '[' } else { ',' });
        array.push_str(line);
    }
    array.push(']');
    parse(array.into())
}

/// The body as UTF-8, as far as anything says that it is something else: a byte order mark, which goes, or else
/// the charset of its content type. JSON that is UTF-8 is so whatever is said of it (RFC 8259 section 8.1).
fn utf8(headers: &HeaderMap, body: Bytes) -> Result<Bytes, BadRequest> {
    if let Some((encoding, length)) = Encoding::for_bom(&body) {
        let rest = body.slice(length..);
        return if encoding == UTF_8 { Ok(rest) } else { decoded(encoding, &rest) };
    }
    let Some(charset) = charset(headers) else { return Ok(body) };
    let Some(encoding) = Encoding::for_label(charset.as_bytes()) else {
        let shown: String = charset.chars().take(40).collect();
        return Err(BadRequest::unsupported(&format!("the charset {shown:?} is not known")));
    };
    // In both every second byte of ASCII is a NUL, which UTF-8 may hold too.
    let is_wide = encoding == UTF_16LE || encoding == UTF_16BE;
    if encoding == UTF_8 || (!is_wide && std::str::from_utf8(&body).is_ok()) {
        return Ok(body);
    }
    decoded(encoding, &body)
}

fn decoded(encoding: &'static Encoding, body: &[u8]) -> Result<Bytes, BadRequest> {
    let text = encoding.decode_without_bom_handling_and_without_replacement(body);
    let text = text.ok_or_else(|| {
        BadRequest::bad(&format!("the body is not valid {}, its charset", encoding.name()))
    })?;
    Ok(text.into_owned().into())
}

/// The charset that the content type names.
fn charset(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let mut parameters = text.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let (_, charset) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))?;
    Some(charset.trim().trim_matches('"')).filter(|charset| !charset.is_empty())
}

fn not_utf8(error: std::str::Utf8Error) -> BadRequest {
    BadRequest::bad(&PayloadError::NotUtf8 { at: error.valid_up_to() }.to_string())
}

fn looks_like_json(body: &[u8]) -> bool {
    matches!(body.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// Whether what looks like JSON and is none may be a form that begins with a brace. Broken or absurdly
/// deep JSON, which `curl -d` declares as a form too, has a quote before its first `=` or no `=` at all.
fn has_a_name_without_quotes(body: &[u8]) -> bool {
    body.iter().find(|byte| matches!(byte, b'=' | b'"')) == Some(&b'=')
}

pub(crate) fn declared(headers: &HeaderMap) -> Result<Declared, BadRequest> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let Some(first) = types.next() else {
        return Ok(Declared::Nothing);
    };
    if types.any(|other| other != first) {
        return Err(BadRequest::bad("the header content-type was sent more than once"));
    }
    let text = first.to_str().map_err(|_| BadRequest::bad("the content type is not readable"))?;
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "" => Ok(Declared::Nothing),
        "application/x-www-form-urlencoded" => Ok(Declared::Form),
        "multipart/form-data" => Ok(Declared::Multipart),
        "application/json" | "text/json" => Ok(Declared::Json),
        "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/x-jsonlines"
        | "application/jsonlines" => Ok(Declared::JsonLines),
        "text/plain" | "application/octet-stream" => Ok(Declared::Text),
        json if json.ends_with("+json") => Ok(Declared::Json),
        "application/xml" => Ok(Declared::Markup),
        text if text.starts_with("text/") || text.ends_with("+xml") => Ok(Declared::Markup),
        _ => Ok(Declared::Other(essence)),
    }
}

fn unknown(declared: &str) -> BadRequest {
    let shown: String = declared.chars().take(80).collect();
    BadRequest::unsupported(&format!(
        "the content type {shown} is not accepted; send JSON, a form or multipart/form-data"
    ))
}

fn form(body: &[u8]) -> Result<Payload, BadRequest> {
    let fields = super::query::decode(body)
        .map_err(|error| BadRequest::bad(&format!("the body is not a valid form: {error}")))?;
    Ok(Payload::of_fields(fields))
}

const NO_FILES: &str = "this version takes no file uploads";

async fn multipart(headers: &HeaderMap, body: Bytes) -> Result<Payload, BadRequest> {
    let bad = |error: multer::Error| {
        BadRequest::bad(&format!("the body is not valid multipart/form-data: {error}"))
    };
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = multer::parse_boundary(content_type.unwrap_or_default()).map_err(bad)?;
    let whole = futures::stream::once(async move { Ok::<_, Infallible>(body) });
    let mut parts = multer::Multipart::new(whole, boundary);
    let mut fields = Vec::new();
    while let Some(part) = parts.next_field().await.map_err(bad)? {
        if part.file_name().is_some_and(str::is_empty) {
            // An input for a file that nobody has chosen. Browsers send it, without a byte.
            if part.bytes().await.map_err(bad)?.is_empty() {
                continue;
            }
            return Err(BadRequest::unsupported(NO_FILES));
        }
        if let Some(name) = part.file_name() {
            let shown: String = name.chars().take(80).collect();
            return Err(BadRequest::unsupported(&format!(
                "the file {shown:?} cannot be accepted: {NO_FILES}"
            )));
        }
        let name = part
            .name()
            .ok_or_else(|| BadRequest::bad("a part of the multipart body has no name"))?
            .to_owned();
        let value = part.bytes().await.map_err(bad)?;
        let value = String::from_utf8(value.into()).map_err(|_| {
            let shown: String = name.chars().take(80).collect();
            BadRequest::bad(&format!("the part {shown:?} is not valid UTF-8"))
        })?;
        if name.contains('\0') || value.contains('\0') {
            return Err(BadRequest::bad("a part of the multipart body holds a NUL byte"));
        }
        if fields.len() == FIELDS_MAX {
            return Err(BadRequest::bad("the multipart body has more than 1,000 parts"));
        }
        fields.push((name, value));
    }
    Ok(Payload::of_fields(fields))
}
