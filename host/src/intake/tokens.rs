//! Tokens of users (CONTRACT X8): taken out of a request before anybody else sees it, also where the sender
//! has repeated them elsewhere. Plugins, the agent and the store are given what is left.

use bytes::Bytes;
use http::HeaderValue;

use super::{AgentCall, IntakeError, RequestParts, cloud_event, query};
use crate::call::Payload;
use crate::call::credentials::{USER_TOKENS, is_user_tokens};
use crate::call::payload::scalar_text;
use crate::secrets::UserTokens;
use crate::trace::redact::{REDACTED, Redactor};

/// Takes `user_tokens` out. Those of the query count before those of the body (CONTRACT X1).
///
/// # Errors
/// 400 where they are no tokens, or were sent twice in one place. Nothing of them is repeated.
pub(super) fn take_out(
    parts: &mut RequestParts,
    payload: Payload,
) -> Result<(Payload, UserTokens), IntakeError> {
    let in_query = parts.pairs.iter().filter(|(name, _)| is_user_tokens(name));
    let in_query = only(in_query.map(|(_, text)| text.clone()))?;
    let fields = payload.fields().into_iter().flatten();
    let in_body =
        only(fields.filter(|(name, _)| is_user_tokens(name)).map(|(_, json)| match json {
            "null" => String::new(),
            json => scalar_text(json).unwrap_or_else(|| json.to_owned()),
        }))?;
    if in_query.is_none() && in_body.is_none() {
        return Ok((payload, UserTokens::default()));
    }
    let rest = if in_body.is_some() { payload.without(is_user_tokens) } else { payload };
    let mut sent = [in_query, in_body].into_iter().flatten().filter(|text| !text.is_empty());
    let tokens = match sent.next() {
        Some(text) => UserTokens::parse(&text)
            .map_err(|why| IntakeError::bad(&format!("{USER_TOKENS} {why}")))?,
        None => UserTokens::default(),
    };
    let mut redactor = Redactor::default();
    tokens.secrets().for_each(|secret| redactor.add(secret));
    // Those that do not count are no less secret.
    if let Some(Ok(other)) = sent.next().map(|text| UserTokens::parse(&text)) {
        other.secrets().for_each(|secret| redactor.add(secret));
    }
    parts.pairs.retain(|(name, _)| !is_user_tokens(name));
    parts.query = query::without(&parts.query, is_user_tokens);
    Ok((redact(parts, rest, &redactor), tokens))
}

/// The one value of a parameter in one place. As with a key, two would be a guess which one is meant.
fn only(mut values: impl Iterator<Item = String>) -> Result<Option<String>, IntakeError> {
    let value = values.next();
    match values.next() {
        Some(_) => Err(IntakeError::bad(&format!("{USER_TOKENS} was sent more than once"))),
        None => Ok(value),
    }
}

/// Takes every repetition out of the rest of the request, and gives its payload without them.
fn redact(parts: &mut RequestParts, payload: Payload, redactor: &Redactor) -> Payload {
    let payload = payload.with_texts(|text| redactor.find(text));
    parts.query = query::with_texts(&parts.query, |text| redactor.find(text));
    for text in parts.pairs.iter_mut().flat_map(|(name, value)| [name, value]) {
        if let Some(redacted) = redactor.find(text) {
            *text = redacted;
        }
    }
    for value in parts.headers.values_mut() {
        // The attributes of an event are percent-encoded there.
        let decoded: Vec<u8> = percent_encoding::percent_decode(value.as_bytes()).collect();
        let found = redactor.find_bytes(value.as_bytes()).or_else(|| redactor.find_bytes(&decoded));
        if let Some(redacted) = found {
            let redacted = HeaderValue::from_bytes(&redacted);
            *value = redacted.unwrap_or(HeaderValue::from_static(REDACTED));
        }
    }
    let body = if parts.headers.contains_key(cloud_event::MARK) {
        // The data of an event whose attributes are headers.
        match Payload::parse(parts.body.clone()) {
            Ok(data) => data.with_texts(|text| redactor.find(text)).to_bytes(),
            Err(_) => {
                redactor.find_bytes(&parts.body).map_or_else(|| parts.body.clone(), Bytes::from)
            }
        }
    } else {
        // A form is kept as the JSON that it was read as: what it repeats may be encoded in many ways.
        payload.to_bytes()
    };
    parts.replace_body(body);
    payload
}

/// Refuses what would make one name of two: a conversation, or a key, that is named by a token. It could not
/// be kept, and without the token it would be that of whoever else does so.
///
/// # Errors
/// 400 naming the parameter.
pub(super) fn check_names(call: AgentCall) -> Result<AgentCall, IntakeError> {
    let is_named = |name: &str| !call.user_tokens.is_empty() && name.contains(REDACTED);
    if call.thread.as_ref().is_some_and(|thread| is_named(thread.as_str())) {
        return Err(IntakeError::bad("the conversation's name holds one of the user_tokens"));
    }
    if call.idempotency.as_ref().is_some_and(|claim| is_named(claim.key.as_str())) {
        return Err(IntakeError::bad("Idempotency-Key holds one of the user_tokens"));
    }
    Ok(call)
}
