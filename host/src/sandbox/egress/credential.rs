//! Credentials of outgoing requests: attached by the host, so that no plugin ever sees one.

use reqwest::header::{HeaderMap, HeaderValue};
use url::Url;
use zeroize::Zeroizing;

use super::failure;
use crate::sandbox::bindings::v0_1::wardgate::plugin::egress::Answer;
use crate::sandbox::bindings::v0_1::wardgate::plugin::types::Failure;
use crate::sandbox::grants::{Credential, CredentialPlace, EgressRule, Granted};
use crate::secrets::SecretVersions;

/// The credential of this name.
pub(super) fn find<'a>(
    granted: &'a Granted,
    name: &str,
    hint: &str,
) -> Result<&'a Credential, Failure> {
    granted.credential(name).ok_or_else(|| {
        let shown: String = name.chars().take(64).collect();
        let message = format!(
            "the credential {shown:?} is not granted to the plugin; the operator can do so with \
             [credentials] in {hint}"
        );
        failure("forbidden", &message)
    })
}

/// Puts a credential where the operator says it goes.
pub(super) fn attach(
    (name, credential): (&str, &Credential),
    rule: Option<&EgressRule>,
    url: &mut Url,
    headers: &mut HeaderMap,
    hint: &str,
) -> Result<(), Failure> {
    let denied = |why: &str| failure("forbidden", &format!("the credential {name:?} {why}"));
    if !rule.is_some_and(|rule| rule.lets_along(name)) {
        return Err(denied(&format!(
            "may not go to {}: the [[egress]] rule that allows the request would have to name it in {hint}",
            url.host_str().unwrap_or_default()
        )));
    }
    let value = credential.value.as_ref().and_then(SecretVersions::newest).ok_or_else(|| {
        denied(&format!("is the secret {}, which the tenant does not have", credential.secret))
    })?;
    let text = std::str::from_utf8(value).map_err(|_| denied("is not text"))?.trim();
    let text = Zeroizing::new(format!("{}{text}", credential.prefix));
    match &credential.place {
        CredentialPlace::Header(header) => {
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| denied("cannot be the value of a header"))?;
            value.set_sensitive(true);
            headers.insert(header.clone(), value);
        }
        CredentialPlace::Query(parameter) => {
            url.query_pairs_mut().append_pair(parameter, &text);
        }
        CredentialPlace::Path(placeholder) => {
            if !url.path().contains(placeholder.as_str()) {
                return Err(denied(&format!("has no place in the path: it lacks {placeholder}")));
            }
            // A value with a slash in it would lead somewhere else than the rule allows.
            let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
            if !text.bytes().all(harmless) || text.contains("..") {
                return Err(denied("cannot stand in a path"));
            }
            let path = Zeroizing::new(url.path().replacen(placeholder.as_str(), &text, 1));
            url.set_path(&path);
        }
    }
    Ok(())
}

/// Takes a credential out of an answer that repeats it: the plugin is never to see it.
pub(super) fn take_out(answer: &mut Answer, credential: &Credential) {
    const INSTEAD: &[u8] = b"[redacted]";
    let versions = credential.value.iter().flat_map(SecretVersions::all);
    for secret in versions.map(<[u8]>::trim_ascii).filter(|secret| secret.len() >= 6) {
        let finder = memchr::memmem::Finder::new(secret);
        let clean = |bytes: &[u8]| -> Option<Vec<u8>> {
            finder.find(bytes)?;
            let (mut cleaned, mut rest) = (Vec::with_capacity(bytes.len()), bytes);
            while let Some(place) = finder.find(rest) {
                let (before, from) = rest.split_at(place);
                cleaned.extend_from_slice(before);
                cleaned.extend_from_slice(INSTEAD);
                rest = from.get(secret.len()..).unwrap_or_default();
            }
            cleaned.extend_from_slice(rest);
            Some(cleaned)
        };
        if let Some(body) = clean(&answer.body) {
            answer.body = body;
        }
        for (_, value) in &mut answer.headers {
            if let Some(cleaned) = clean(value.as_bytes()) {
                *value = String::from_utf8_lossy(&cleaned).into_owned();
            }
        }
    }
}
