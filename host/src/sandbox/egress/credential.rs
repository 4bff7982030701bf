//! Credentials of outgoing requests: attached by the host, so that no plugin ever sees one.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use reqwest::header::{HeaderMap, HeaderValue};
use url::Url;
use zeroize::Zeroizing;

use super::failure;
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
    // What is wrong with its bytes is for the operator to know. To the plugin it is one and the same.
    let unusable = |why: &str| {
        let secret = &credential.secret;
        tracing::warn!(%secret, credential = name, why, "a credential cannot be attached");
        denied("cannot be attached as it is granted; the gateway's log says why")
    };
    let value = credential.value.as_ref().and_then(SecretVersions::newest);
    let value = value.ok_or_else(|| unusable("the tenant has no such secret"))?;
    let text = std::str::from_utf8(value).map_err(|_| unusable("it is not text"))?.trim();
    let text = Zeroizing::new(format!("{}{text}", credential.prefix));
    match &credential.place {
        CredentialPlace::Header(header) => {
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| unusable("it cannot be the value of a header"))?;
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
                return Err(unusable("it cannot stand in a path"));
            }
            let path = Zeroizing::new(url.path().replacen(placeholder.as_str(), &text, 1));
            url.set_path(&path);
        }
    }
    Ok(())
}

/// Whether a redirect may be followed that holds a credential in its URL: where the credential may go itself.
pub(super) fn may_be_redirected(
    name: &str,
    rule: Option<&EgressRule>,
    hint: &str,
) -> Result<(), Failure> {
    if rule.is_some_and(|rule| rule.lets_along(name)) {
        return Ok(());
    }
    // Where it leads is not said: the credential may stand in the host's name.
    let message = format!(
        "the answer redirects with the credential {name:?} in its URL to where the credential may not go: \
         the [[egress]] rule that allows the request there would have to name it in {hint}"
    );
    Err(failure("forbidden", &message))
}

/// What a plugin sees in the place of a credential.
const INSTEAD: &[u8] = b"[redacted]";

/// Shorter secrets are not looked for: they would be found in everything.
const LOOKED_FOR_BYTES_MIN: usize = 6;

/// How often percent-encodings of a URL are undone.
const DECODINGS_MAX: usize = 8;

/// Headers with which a plugin could have an answer come back in a form, or in pieces, in which a
/// credential is not recognised.
const DISGUISING_HEADERS: [&str; 3] = ["accept-encoding", "range", "if-range"];

/// Keeps a credential out of what a plugin gets to see: answers that repeat it, and refusals that name
/// where a server wanted to redirect to. It is looked for in the forms that servers write things in. A
/// server that is bent on telling a plugin a credential in a form of its own cannot be stopped, which is
/// why a rule has to name the credentials that may go there.
#[derive(Default)]
pub(super) struct Veil {
    forms: Vec<Zeroizing<Vec<u8>>>,
    /// What is looked for in URLs that redirect, as [`as_compared`] has it.
    in_urls: Vec<Zeroizing<Vec<u8>>>,
}

impl Veil {
    pub(super) fn over(credential: &Credential) -> Self {
        let versions = credential.value.iter().flat_map(SecretVersions::all);
        let secrets = versions.map(<[u8]>::trim_ascii);
        let secrets = secrets.filter(|secret| secret.len() >= LOOKED_FOR_BYTES_MIN);
        let mut forms: Vec<_> = secrets.flat_map(written).collect();
        forms.sort_unstable_by(|one, other| one.as_slice().cmp(other.as_slice()));
        forms.dedup();
        let versions = credential.value.iter().flat_map(SecretVersions::all);
        let secrets = versions.map(<[u8]>::trim_ascii).filter(|secret| !secret.is_empty());
        let in_urls = secrets.flat_map(encoded).collect();
        Self { forms, in_urls }
    }

    /// Whether a URL holds the credential, as it is or encoded, in whatever case: a host's name is in lower
    /// case always. Percent-encodings are undone until none is left.
    pub(super) fn is_in_url(&self, url: &str) -> bool {
        if self.in_urls.is_empty() {
            return false;
        }
        let mut text = Zeroizing::new(url.as_bytes().to_vec());
        for _ in 0..DECODINGS_MAX {
            let seen = as_compared(&text);
            if self.in_urls.iter().any(|form| memchr::memmem::find(&seen, form).is_some()) {
                return true;
            }
            let decoded: Vec<u8> = percent_encoding::percent_decode(&text).collect();
            if decoded == *text {
                return false;
            }
            text = Zeroizing::new(decoded);
        }
        // Nobody encodes that often who has nothing to hide.
        true
    }

    /// Whether there is nothing to keep out.
    pub(super) fn is_empty(&self) -> bool {
        self.forms.is_empty()
    }

    /// The length of the longest form, in bytes. So much has to be read beyond what is shown.
    pub(super) fn longest(&self) -> usize {
        self.forms.iter().map(|form| form.len()).max().unwrap_or_default()
    }

    /// Takes away the headers of a request that would disguise its answer.
    pub(super) fn undisguise(&self, headers: &mut HeaderMap) {
        for name in DISGUISING_HEADERS {
            headers.remove(name);
        }
    }

    /// What of the first bytes may be shown. `bytes` go on for [`Veil::longest`] beyond those where there
    /// are more, so that a form that lies across the edge is found as well.
    pub(super) fn over_bytes(&self, bytes: &[u8], shown_max: usize) -> Vec<u8> {
        let places = self.forms.iter().flat_map(|form| {
            let length = form.len();
            memchr::memmem::find_iter(bytes, form.as_slice()).map(move |from| (from, from + length))
        });
        let mut places: Vec<_> = places.filter(|(from, _)| *from < shown_max).collect();
        places.sort_unstable();
        let (mut shown, mut done) = (Vec::with_capacity(bytes.len().min(shown_max)), 0);
        for (from, to) in places {
            if from >= done {
                shown.extend_from_slice(bytes.get(done..from).unwrap_or_default());
                shown.extend_from_slice(INSTEAD);
            }
            done = done.max(to);
        }
        shown.extend_from_slice(bytes.get(done..bytes.len().min(shown_max)).unwrap_or_default());
        shown.truncate(shown_max);
        shown
    }

    /// What of a refusal may be told. It names URLs, which hold the credential in more forms than an answer is
    /// looked through for.
    pub(super) fn over_message(&self, message: String) -> String {
        let message = self.over_text(message);
        if self.is_in_url(&message) {
            return "it failed, and the reason repeats the credential, so it is not told"
                .to_owned();
        }
        message
    }

    fn over_text(&self, text: String) -> String {
        if self.is_empty() {
            return text;
        }
        String::from_utf8_lossy(&self.over_bytes(text.as_bytes(), usize::MAX)).into_owned()
    }
}

/// A secret as it is, in a query, in a path and in JSON.
fn written(secret: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let percent = |upper: bool| {
        let mut text = Zeroizing::new(Vec::with_capacity(secret.len() * 3));
        for byte in secret {
            match byte {
                byte if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) => text.push(*byte),
                byte if upper => text.extend_from_slice(format!("%{byte:02X}").as_bytes()),
                byte => text.extend_from_slice(format!("%{byte:02x}").as_bytes()),
            }
        }
        text
    };
    let form: String = url::form_urlencoded::byte_serialize(secret).collect();
    let mut forms = vec![
        Zeroizing::new(secret.to_vec()),
        Zeroizing::new(form.into_bytes()),
        percent(true),
        percent(false),
    ];
    if let Ok(text) = std::str::from_utf8(secret) {
        let json = Zeroizing::new(serde_json::Value::from(text).to_string());
        let json = Zeroizing::new(json.trim_matches('"').to_owned());
        forms.push(Zeroizing::new(json.replace('/', "\\/").into_bytes()));
        forms.push(Zeroizing::new(json.as_bytes().to_vec()));
    }
    forms
}

/// A secret in the forms that are looked for in a URL whose percent-encodings are undone: as it is, as JSON
/// has it, in hexadecimal, and in base64 wherever in a longer text it begins. A redirect that is refused by
/// chance does less harm than one that is followed, so short secrets are looked for as well.
fn encoded(secret: &[u8]) -> Vec<Zeroizing<Vec<u8>>> {
    let mut forms = vec![as_compared(secret)];
    let mut add = |form: &[u8]| {
        if form.len() >= LOOKED_FOR_BYTES_MIN {
            forms.push(as_compared(form));
        }
    };
    if let Ok(text) = std::str::from_utf8(secret) {
        let json = Zeroizing::new(serde_json::Value::from(text).to_string());
        let json = Zeroizing::new(json.trim_matches('"').to_owned());
        add(json.as_bytes());
        add(Zeroizing::new(json.replace('/', "\\/")).as_bytes());
    }
    add(Zeroizing::new(hex::encode(secret)).as_bytes());
    // Three bytes make four characters: what stands before the secret shifts it by none, one or two bytes, and
    // shares the characters at its edges.
    for (before, shared) in [(0, 0), (1, 2), (2, 3)] {
        let shifted = Zeroizing::new(["\0".repeat(before).as_bytes(), secret].concat());
        for alphabet in [STANDARD_NO_PAD, URL_SAFE_NO_PAD] {
            let text = Zeroizing::new(alphabet.encode(&shifted));
            let end = text.len().saturating_sub(usize::from(shifted.len() % 3 != 0));
            add(text.as_bytes().get(shared..end).unwrap_or_default());
        }
    }
    forms
}

/// What is compared of a URL and of a secret: in lower case, and `+` as the space that it may stand for.
fn as_compared(bytes: &[u8]) -> Zeroizing<Vec<u8>> {
    let compared = bytes.iter().map(|byte| match byte {
        b'+' => b' ',
        byte => byte.to_ascii_lowercase(),
    });
    Zeroizing::new(compared.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn veil(secret: &str) -> Veil {
        let value = SecretVersions::new([secret.as_bytes().to_vec().into()]);
        let place = CredentialPlace::Query("key".to_owned());
        let secret = "example-api-key".parse().unwrap();
        Veil::over(&Credential { place, prefix: String::new(), value: Some(value), secret })
    }

    #[test]
    fn a_credential_is_found_in_a_url_in_every_form_that_is_known() {
        let secret = "s3cret/With+more=";
        let veil = veil(secret);
        let basic = STANDARD_NO_PAD.encode(format!("user:{secret}"));
        let longer = URL_SAFE_NO_PAD.encode(format!("{{\"k\":\"{secret}\"}}"));
        for carried in [
            "s3cret/With+more=",
            "s3cret%2FWith%2Bmore%3D",
            "s3cret%2fwith%2bmore%3d",
            "s3cret%252FWith%252Bmore%253D",
            "%73%33%63%72%65%74%2F%57%69%74%68%2B%6D%6F%72%65%3D",
            "s3cret\\/with+more=",
            &hex::encode(secret),
            &hex::encode(secret).to_uppercase(),
            &basic,
            &longer,
            &basic.replace('/', "%2F"),
        ] {
            for url in [
                format!("https://q.example/x?a=1&leak={carried}"),
                format!("https://q.example/{carried}/x"),
                format!("https://q.example/x#{carried}"),
                format!("https://{carried}.q.example/"),
            ] {
                assert!(veil.is_in_url(&url), "{url}");
            }
        }
        for other in
            ["https://q.example/x?a=s3cret", "https://q.example/?k=czNjcmV0", "https://q/%25"]
        {
            assert!(!veil.is_in_url(other), "{other}");
        }
        assert!(veil.is_in_url(&format!("https://q.example/?{}", "%2525252525252525252541")));
        assert!(!Veil::default().is_in_url("https://q.example/?%2525252525252525252541"));
    }

    #[test]
    fn a_short_credential_is_found_too() {
        assert!(veil("pin4").is_in_url("https://q.example/?p=PIN4"));
        assert!(!veil("pin4").is_in_url("https://q.example/?p=pin5"));
    }
}
