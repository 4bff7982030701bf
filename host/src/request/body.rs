//! Parses a body into a payload, by its content type (CONTRACT X2, X13, X16).
//!
//! A body declared as JSON must be JSON. A body declared as a form, as text or not at all is also JSON if it looks
//! and parses like JSON, because `curl -d '{…}'` declares a form. Other text, such as XML, becomes a payload of one
//! string; JSON lines become an array.

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

/// A text may hold one control character in this many bytes.
const CONTROL_CHARS_RATIO: usize = 10;

/// The content type that a body declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContentKind {
    Json,
    Form,
    Multipart,
    /// One JSON value per line.
    JsonLines,
    /// Plain text, and untyped bytes.
    Text,
    /// Text of another type, such as XML.
    Markup,
    Nothing,
    /// An unsupported type.
    Other(String),
}

/// Parses the payload of a `POST`, in any supported content type.
///
/// # Errors
/// 400 if the body does not match its declared type; 415 if that type is not supported.
pub(crate) async fn payload(headers: &HeaderMap, body: Bytes) -> Result<Payload, BadRequest> {
    let declared = content_kind(headers)?;
    let body = match declared {
        ContentKind::Multipart | ContentKind::Other(_) => body,
        _ => utf8(headers, body)?,
    };
    if body.iter().all(u8::is_ascii_whitespace) {
        // An empty body is an empty payload, whatever its declared type; a multipart body is never empty.
        return match declared {
            ContentKind::Multipart => Err(BadRequest::bad("the multipart body is empty")),
            ContentKind::Other(declared) => Err(unknown(&declared)),
            _ => Ok(Payload::empty()),
        };
    }
    match declared {
        ContentKind::Json => parse(body),
        ContentKind::Form if looks_like_json(&body) => match Payload::parse(body.clone()) {
            Err(_) if has_a_name_without_quotes(&body) => form(&body),
            parsed => parsed.map_err(|error| BadRequest::bad(&error.to_string())),
        },
        ContentKind::Form => form(&body),
        ContentKind::Multipart => multipart(headers, body).await,
        ContentKind::JsonLines => lines(&body),
        ContentKind::Text | ContentKind::Nothing if !looks_like_json(&body) => text(&body),
        ContentKind::Markup => text(&body),
        ContentKind::Text | ContentKind::Nothing => parse(body),
        ContentKind::Other(declared) => Err(unknown(&declared)),
    }
}

/// Parses the payload of a surface that accepts only JSON (CONTRACT D3): any JSON value except null.
///
/// # Errors
/// 400 if the body is declared as JSON and is not JSON, or if it is null; 415 if it is neither declared as JSON nor
/// JSON.
pub(crate) fn json_only(headers: &HeaderMap, body: Bytes) -> Result<Payload, BadRequest> {
    let is_json = content_kind(headers)? == ContentKind::Json;
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
    // Each of these takes six bytes in JSON. Text has few of them, such as terminal color codes.
    let is_long = |byte: &&u8| byte.is_ascii_control() && !b"\x08\t\n\x0c\r\x7f".contains(byte);
    if body.iter().filter(is_long).count() > body.len() / CONTROL_CHARS_RATIO {
        return Err(BadRequest::bad("the body is not text: it holds too many control characters"));
    }
    parse(Value::from(text).to_string().into())
}

/// Joins JSON lines into an array.
fn lines(body: &[u8]) -> Result<Payload, BadRequest> {
    let text = std::str::from_utf8(body).map_err(not_utf8)?;
    let mut array = String::with_capacity(text.len() + 2);
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        // Each line is parsed on its own: an invalid line could become valid when joined with its neighbors.
        serde_json::from_str::<IgnoredAny>(line).map_err(|error| {
            BadRequest::bad(&format!("line {} of the body is not valid JSON: {error}", number + 1))
        })?;
        array.push(if array.is_empty() { '[' } else { ',' });
        array.push_str(line);
    }
    array.push(']');
    parse(array.into())
}

/// Converts the body to UTF-8 if it declares another encoding: by a byte order mark, which is stripped, or else by
/// the charset of its content type. A body that is valid UTF-8 stays as it is, whatever charset is declared, because
/// JSON is UTF-8 (RFC 8259 section 8.1); a declared UTF-16 is the exception.
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
    // In UTF-16, every second byte of ASCII text is NUL, which is valid UTF-8 too.
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

/// The charset parameter of the content type.
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

/// Whether a body that looks like JSON but does not parse may be a form that begins with a brace. Broken or very deep
/// JSON, which `curl -d` also declares as a form, has a quote before its first `=`, or no `=` at all.
fn has_a_name_without_quotes(body: &[u8]) -> bool {
    body.iter().find(|byte| matches!(byte, b'=' | b'"')) == Some(&b'=')
}

pub(crate) fn content_kind(headers: &HeaderMap) -> Result<ContentKind, BadRequest> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let Some(first) = types.next() else {
        return Ok(ContentKind::Nothing);
    };
    if types.any(|other| other != first) {
        return Err(BadRequest::bad("the header content-type was sent more than once"));
    }
    let text = first.to_str().map_err(|_| BadRequest::bad("the content type is not readable"))?;
    let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "" => Ok(ContentKind::Nothing),
        "application/x-www-form-urlencoded" => Ok(ContentKind::Form),
        "multipart/form-data" => Ok(ContentKind::Multipart),
        "application/json" | "text/json" => Ok(ContentKind::Json),
        "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/x-jsonlines"
        | "application/jsonlines" => Ok(ContentKind::JsonLines),
        "text/plain" | "application/octet-stream" => Ok(ContentKind::Text),
        json if json.ends_with("+json") => Ok(ContentKind::Json),
        "application/xml" => Ok(ContentKind::Markup),
        text if text.starts_with("text/") || text.ends_with("+xml") => Ok(ContentKind::Markup),
        _ => Ok(ContentKind::Other(essence)),
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
            // A file input without a selected file: browsers send an empty part for it.
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
