//! How a provider finds out that a URL is its owner's: it sends a challenge, signed like everything else,
//! and wants to see it in the answer, or signed in turn.

use crate::{ALGORITHM, CHALLENGE_ANSWER, CHALLENGE_PATH, ENCODING};
use alloc::string::String;
use wardgate_sdk::host::Host;
use wardgate_sdk::signature::Encoding;
use wardgate_sdk::{DotPath, Failure, HttpReply, json};

/// What stands for the challenge in the answer.
pub(crate) const CHALLENGE: &str = "{challenge}";

/// What stands for its HMAC.
pub(crate) const SIGNATURE: &str = "{signature}";

/// The longest challenge that is signed. Zoom's have 22 characters.
const SIGNED_MAX: usize = 256;

/// The answer to a request that holds a challenge. None where it holds none, as events do.
pub(crate) fn reply(host: &impl Host) -> Result<Option<HttpReply>, Failure> {
    let path = CHALLENGE_PATH.read(host)?;
    if path.is_empty() {
        return Ok(None);
    }
    let path = DotPath::parse(&path)?;
    let Some(challenge) = host.scalar(path.pointer()).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let mut answer = CHALLENGE_ANSWER.read(host)?;
    if answer.contains(SIGNATURE) {
        answer = answer.replace(SIGNATURE, &signed(host, &challenge)?);
    }
    let is_json =
        answer.trim_ascii_start().starts_with(['{', '[']) && !answer.starts_with(CHALLENGE);
    let (challenge, media) = match is_json {
        true => (within_quotes(&challenge), "application/json"),
        false => (challenge, "text/plain"),
    };
    let reply = HttpReply::new(200, answer.replace(CHALLENGE, &challenge))
        .with_header("content-type", media)
        .with_header("x-content-type-options", "nosniff");
    Ok(Some(reply))
}

/// A text as it stands between the quotes of JSON.
fn within_quotes(text: &str) -> String {
    let quoted = json::string(text);
    quoted.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or_default().into()
}

/// The HMAC of the challenge. What is signed here must never be what signs an event, which has a body: so
/// it is a word and nothing else.
fn signed(host: &impl Host, challenge: &str) -> Result<String, Failure> {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if challenge.len() > SIGNED_MAX || !challenge.bytes().all(is_word) {
        return Err(Failure::invalid_input("the challenge is not a word that can be signed"));
    }
    let key = host.open("challenge")?;
    let signature = host.hmac_sign(&key, &ALGORITHM.read(host)?, challenge.as_bytes())?;
    Ok(Encoding::named(&ENCODING.read(host)?).unwrap_or(Encoding::Hex).encode(&signature))
}
