//! Verifies Twilio's signature. It covers the URL with its query, followed by the fields of a form, sorted by
//! name and joined without separators. A body that is not a form is covered by its SHA-256 in the query.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use sha2::{Digest, Sha256};
use wardgate_sdk::host::Host;
use wardgate_sdk::settings::misconfigured;
use wardgate_sdk::signature::{self, Encoding};
use wardgate_sdk::{Failure, json};

/// The content type of a form.
const FORM_CONTENT_TYPE: &str = "application/x-www-form-urlencoded";

pub(crate) fn verify<H: Host>(host: &H) -> Result<(), Failure> {
    let header = signature::required_header(host, "x-twilio-signature")?;
    let key = host.open_secret("secret")?;
    let url = host
        .attribute("channel-url")
        .and_then(|url| json::decode_string(&url))
        .ok_or_else(|| misconfigured("the gateway does not know the channel's URL"))?;
    let query = host.query();
    let body = host.body();
    let digest = claimed_body_sha256(&query);
    if let Some(expected) = &digest {
        let actual = Sha256::digest(&body);
        if Encoding::Hex.decode(expected).as_deref() != Some(actual.as_slice()) {
            return Err(Failure::unauthorized("the body is not the one that `bodySHA256` says"));
        }
    }
    let is_form = host.header("content-type").is_some_and(|content_type| {
        content_type
            .split(';')
            .next()
            .is_some_and(|content_type| content_type.trim().eq_ignore_ascii_case(FORM_CONTENT_TYPE))
    });
    if !is_form && !body.is_empty() && digest.is_none() {
        return Err(Failure::unauthorized("nothing in the URL covers this body"));
    }
    let fields = if is_form { sorted_fields(&body)? } else { String::new() };
    let mut result = Err(Failure::unauthorized("the signature does not match"));
    for url in [Some(url.clone()), with_port_toggled(&url)].into_iter().flatten() {
        let separator = if query.is_empty() { "" } else { "?" };
        let message = format!("{url}{separator}{query}{fields}");
        let signatures = core::iter::once(header.as_str());
        result = signature::verify_message(
            host,
            &key,
            "sha1",
            message.as_bytes(),
            Encoding::Base64,
            signatures,
        );
        if result.is_ok() {
            break;
        }
    }
    result
}

/// The SHA-256 of the body that the query claims.
fn claimed_body_sha256(query: &str) -> Option<String> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "bodySHA256")
        .map(|(_, value)| value.into_owned())
}

/// The fields sorted by name, then by value, as in Twilio's libraries. Duplicate fields count once.
fn sorted_fields(body: &[u8]) -> Result<String, Failure> {
    // If invalid UTF-8 were replaced instead, different bodies would have the same signature.
    if percent_encoding::percent_decode(body).decode_utf8().is_err() {
        return Err(Failure::unauthorized("the form is not UTF-8"));
    }
    let mut fields: Vec<_> = form_urlencoded::parse(body).collect();
    fields.sort_unstable();
    fields.dedup();
    Ok(fields.into_iter().flat_map(|(name, value)| [name, value]).collect())
}

/// The URL with the default port added if it has no port, or with its port removed. For calls, Twilio does
/// not always sign the URL as it was configured.
fn with_port_toggled(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (authority, path) = match rest.find('/') {
        Some(index) => rest.split_at_checked(index)?,
        None => (rest, ""),
    };
    // The colons of an IPv6 address are in brackets.
    let port_separator = authority.rfind(':').filter(|index| authority.rfind(']') < Some(*index));
    Some(match port_separator {
        Some(index) => format!("{scheme}://{}{path}", authority.get(..index)?),
        None => {
            let port = if scheme == "https" { "443" } else { "80" };
            format!("{scheme}://{authority}:{port}{path}")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_put_in_or_left_out() {
        for (url, other) in [
            ("https://a.b/c", "https://a.b:443/c"),
            ("http://a.b", "http://a.b:80"),
            ("https://a.b:8443/c:d", "https://a.b/c:d"),
            ("https://[::1]/c", "https://[::1]:443/c"),
            ("https://[::1]:1/c", "https://[::1]/c"),
        ] {
            assert_eq!(with_port_toggled(url).as_deref(), Some(other), "{url}");
        }
        assert_eq!(with_port_toggled("a.b"), None);
    }
}
