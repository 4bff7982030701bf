//! Removes the user's tokens (CONTRACT X8) and repeated credentials from a request before plugins, the agent or the
//! store see it, even if the sender repeated them elsewhere in the request.

use std::sync::LazyLock;

use bytes::Bytes;
use http::header::COOKIE;
use http::{HeaderName, HeaderValue};
use memchr::memmem::Finder;
use zeroize::Zeroizing;

use super::{AgentCall, Arrival, IntakeError, RequestParts};
use crate::request::Payload;
use crate::request::credentials::{HEADERS, USER_TOKENS, is_api_key, is_user_tokens};
use crate::request::payload::scalar_text;
use crate::request::{cloud_event, query};
use crate::secrets::UserTokens;
use crate::trace::redact::{REDACTED, Redactor};

/// What was removed from a request.
#[derive(Default)]
pub(super) struct ExtractedTokens {
    /// `user_tokens`.
    pub(super) user_tokens: UserTokens,
    /// Whether the rest of the request may contain redactions.
    pub(super) is_redacted: bool,
}

/// Removes `user_tokens` and redacts every repetition of them and of the API key. Tokens in the query take precedence
/// over those in the body (CONTRACT X1).
///
/// # Errors
/// 400 if they are not valid tokens, or were sent twice in one place. The error does not repeat them.
pub(super) fn extract(
    parts: &mut RequestParts,
    payload: Payload,
) -> Result<(Payload, ExtractedTokens), IntakeError> {
    let in_query = parts.pairs.iter().filter(|(name, _)| is_user_tokens(name));
    let in_query = single(in_query.map(|(_, text)| text.clone()))?;
    let fields = payload.fields().into_iter().flatten();
    let in_body =
        single(fields.filter(|(name, _)| is_user_tokens(name)).map(|(_, json)| match json {
            "null" => String::new(),
            json => scalar_text(json).unwrap_or_else(|| json.to_owned()),
        }))?;
    let repeated = repeated_credentials(parts, &payload);
    if in_query.is_none() && in_body.is_none() && repeated.is_empty() {
        return Ok((payload, ExtractedTokens::default()));
    }
    let rest = if in_body.is_some() { payload.without(is_user_tokens) } else { payload };
    let mut sent = [in_query, in_body].into_iter().flatten().filter(|text| !text.is_empty());
    let tokens = match sent.next() {
        Some(text) => UserTokens::parse(&text)
            .map_err(|why| IntakeError::bad(&format!("{USER_TOKENS} {why}")))?,
        None => UserTokens::default(),
    };
    let mut redactor = Redactor::default();
    repeated.iter().for_each(|credential| redactor.add(credential));
    tokens.secrets().for_each(|secret| redactor.add(secret));
    // Tokens that lose the precedence are secret as well.
    if let Some(Ok(other)) = sent.next().map(|text| UserTokens::parse(&text)) {
        other.secrets().for_each(|secret| redactor.add(secret));
    }
    parts.pairs.retain(|(name, _)| !is_user_tokens(name));
    parts.query = query::without_fields(&parts.query, is_user_tokens);
    let rest = redact(parts, rest, &redactor);
    Ok((rest, ExtractedTokens { user_tokens: tokens, is_redacted: true }))
}

/// The named credentials of a request, keys and `Bearer` values, that also occur elsewhere in it. Requests seldom
/// repeat one, so a fast search comes before the slow redaction.
fn repeated_credentials(parts: &RequestParts, payload: &Payload) -> Vec<Zeroizing<String>> {
    let is_named = |name: &HeaderName| HEADERS.contains(&name.as_str()) && name != COOKIE;
    let in_headers = parts.headers.iter().filter(|(name, _)| is_named(name));
    let in_headers = in_headers.filter_map(|(_, value)| value.to_str().ok());
    let in_headers = in_headers.map(|value| match value.split_once(' ') {
        Some((_scheme, credential)) => credential.trim(),
        None => value,
    });
    let in_query = parts.pairs.iter().filter(|(name, _)| is_api_key(name));
    let in_query = in_query.map(|(_, key)| key.as_str());
    let is_elsewhere = |credential: &&str| {
        let finder = Finder::new(credential.as_bytes());
        let is_in = |text: &[u8]| finder.find(text).is_some();
        // For forms and similar types, the payload and the body are different texts.
        let of_payload = payload.text().as_bytes();
        let is_the_body = of_payload.as_ptr() == parts.body.as_ptr();
        let mut headers = parts.headers.iter().filter(|(name, _)| !is_named(name));
        let mut pairs = parts.pairs.iter().filter(|(name, _)| !is_api_key(name));
        !credential.is_empty()
            && (is_in(&parts.body)
                || escapes_letters(&parts.body)
                || (!is_the_body && is_in(of_payload))
                || headers.any(|(_, value)| is_in(value.as_bytes()))
                || pairs.any(|(name, value)| is_in(name.as_bytes()) || is_in(value.as_bytes())))
    };
    let repeated = in_headers.chain(in_query).filter(is_elsewhere).map(str::to_owned);
    // A key in the body must be redacted in any case.
    let in_body = payload.fields().into_iter().flatten().filter(|(name, _)| is_api_key(name));
    let in_body = in_body.filter_map(|(_, json)| scalar_text(json));
    repeated.chain(in_body).map(Zeroizing::new).collect()
}

/// Whether JSON text escapes ASCII characters that need no escape, such as `\\u0041`: a credential could be hidden
/// that way. Encoders usually escape what is not ASCII and some signs, but no letters.
fn escapes_letters(json: &[u8]) -> bool {
    static ESCAPE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(br"\u00"));
    ESCAPE
        .find_iter(json)
        .any(|at| json.get(at + 4).is_some_and(|digit| matches!(digit, b'2'..=b'7')))
}

/// The single value of a parameter in one place. With two values, as with two keys, it is ambiguous which one is
/// meant.
fn single(mut values: impl Iterator<Item = String>) -> Result<Option<String>, IntakeError> {
    let value = values.next();
    match values.next() {
        Some(_) => Err(IntakeError::bad(&format!("{USER_TOKENS} was sent more than once"))),
        None => Ok(value),
    }
}

/// Redacts every repetition in the rest of the request and returns the redacted payload.
fn redact(parts: &mut RequestParts, payload: Payload, redactor: &Redactor) -> Payload {
    let payload = payload.map_strings(|text| redactor.find(text));
    parts.query = query::map_strings(&parts.query, |text| redactor.find(text));
    for text in parts.pairs.iter_mut().flat_map(|(name, value)| [name, value]) {
        if let Some(redacted) = redactor.find(text) {
            *text = redacted;
        }
    }
    for value in parts.headers.values_mut() {
        // Attributes of a CloudEvent are percent-encoded in headers.
        let decoded: Vec<u8> = percent_encoding::percent_decode(value.as_bytes()).collect();
        let found = redactor.find_bytes(value.as_bytes()).or_else(|| redactor.find_bytes(&decoded));
        if let Some(redacted) = found {
            let redacted = HeaderValue::from_bytes(&redacted);
            *value = redacted.unwrap_or(HeaderValue::from_static(REDACTED));
        }
    }
    let body = if parts.headers.contains_key(cloud_event::SPECVERSION_HEADER) {
        // The body is the data of a CloudEvent whose attributes are in headers.
        match Payload::parse(parts.body.clone()) {
            Ok(data) => data.map_strings(|text| redactor.find(text)).to_bytes(),
            Err(_) => {
                redactor.find_bytes(&parts.body).map_or_else(|| parts.body.clone(), Bytes::from)
            }
        }
    } else {
        // A form is stored as the JSON it was parsed into, because the form may encode a repetition in many ways.
        payload.to_bytes()
    };
    parts.replace_body(body);
    payload
}

/// Rejects a conversation name or an idempotency key that contains a token or the API key. Redaction would make
/// different names equal, so different callers would share one conversation or key.
///
/// # Errors
/// 400, with a message that names the parameter.
pub(super) fn reject_redacted_names(
    arrival: &Arrival,
    call: AgentCall,
) -> Result<AgentCall, IntakeError> {
    let is_named = |name: &str| arrival.is_redacted && name.contains(REDACTED);
    if call.thread.as_ref().is_some_and(|thread| is_named(thread.as_str())) {
        return Err(IntakeError::bad(
            "the conversation's name holds one of the user_tokens, or the API key",
        ));
    }
    if call.idempotency.as_ref().is_some_and(|claim| is_named(claim.key.as_str())) {
        return Err(IntakeError::bad(
            "Idempotency-Key holds one of the user_tokens, or the API key",
        ));
    }
    Ok(call)
}
