//! The URL verification of a provider: it sends a challenge, signed like every request, and expects the
//! challenge, or a signature of it, in the response.

use crate::{ALGORITHM, CHALLENGE_ANSWER, CHALLENGE_PATH, ENCODING};
use alloc::string::String;
use wardgate_sdk::host::Host;
use wardgate_sdk::signature::Encoding;
use wardgate_sdk::{DotPath, Failure, HttpReply, json};

/// The placeholder of the challenge in the response.
pub(crate) const CHALLENGE_PLACEHOLDER: &str = "{challenge}";

/// The placeholder of the challenge's HMAC.
pub(crate) const SIGNATURE_PLACEHOLDER: &str = "{signature}";

/// The longest challenge that is signed, in bytes. Zoom's have 22.
const SIGNED_CHALLENGE_BYTES_MAX: usize = 256;

/// The response to a request that holds a challenge. `None` if it holds none, as for events.
pub(crate) fn reply(host: &impl Host) -> Result<Option<HttpReply>, Failure> {
    let path = CHALLENGE_PATH.value(host)?;
    if path.is_empty() {
        return Ok(None);
    }
    let path = DotPath::parse(&path)?;
    let Some(challenge) = host.scalar(path.pointer()).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let mut answer = CHALLENGE_ANSWER.value(host)?;
    if answer.contains(SIGNATURE_PLACEHOLDER) {
        answer = answer.replace(SIGNATURE_PLACEHOLDER, &sign_challenge(host, &challenge)?);
    }
    let start = answer.trim_ascii_start();
    let is_json = start.starts_with(['{', '[']) && !start.starts_with(CHALLENGE_PLACEHOLDER);
    let (challenge, content_type) = match is_json {
        true => (escape_json_string(&challenge), "application/json"),
        false => (challenge, "text/plain"),
    };
    let reply = HttpReply::new(200, answer.replace(CHALLENGE_PLACEHOLDER, &challenge))
        .with_header("content-type", content_type)
        .with_header("x-content-type-options", "nosniff");
    Ok(Some(reply))
}

/// A text escaped for use between the quotes of a JSON string.
fn escape_json_string(text: &str) -> String {
    let quoted = json::encode_string(text);
    quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default().into()
}

/// The HMAC of the challenge. A signature made here must never be valid for an event, whose body is signed
/// with the same scheme. So only a single word is signed, which no event's body is.
fn sign_challenge(host: &impl Host, challenge: &str) -> Result<String, Failure> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if challenge.len() > SIGNED_CHALLENGE_BYTES_MAX || !challenge.bytes().all(is_word) {
        return Err(Failure::invalid_input("the challenge is not a word that can be signed"));
    }
    let key = host.open_secret("challenge")?;
    let signature = host.hmac_sign(&key, &ALGORITHM.value(host)?, challenge.as_bytes())?;
    Ok(Encoding::from_name(&ENCODING.value(host)?).unwrap_or(Encoding::Hex).encode(&signature))
}
