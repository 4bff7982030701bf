//! Credentials of outgoing requests: attached by the host, so that no plugin ever sees one.

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

/// What a plugin sees in the place of a credential.
const INSTEAD: &[u8] = b"[redacted]";

/// Shorter secrets are not looked for: they would be found in everything.
const LOOKED_FOR_BYTES_MIN: usize = 6;

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
}

impl Veil {
    pub(super) fn over(credential: &Credential) -> Self {
        let versions = credential.value.iter().flat_map(SecretVersions::all);
        let secrets = versions.map(<[u8]>::trim_ascii);
        let secrets = secrets.filter(|secret| secret.len() >= LOOKED_FOR_BYTES_MIN);
        let mut forms: Vec<_> = secrets.flat_map(written).collect();
        forms.sort_unstable_by(|one, other| one.as_slice().cmp(other.as_slice()));
        forms.dedup();
        Self { forms }
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

    pub(super) fn over_text(&self, text: String) -> String {
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
