//! Credentials of outgoing requests: attached by the host, so that no plugin ever sees one.

use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderValue};
use url::Url;
use zeroize::Zeroizing;

use super::forms::Forms;
use super::headers::is_read_as;
use super::policy::{Credential, CredentialPlace, EgressPolicy};
use super::rule::EgressRule;
use super::{OutboundError, failure};
use crate::secrets::SecretVersions;

/// The credential of this name.
pub(super) fn find<'a>(
    policy: &'a EgressPolicy,
    name: &str,
    hint: &str,
) -> Result<&'a Credential, OutboundError> {
    policy.credential(name).ok_or_else(|| {
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
) -> Result<(), OutboundError> {
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
    if !credential.may_be_sent {
        return Err(unusable("its uses do not include sending"));
    }
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
) -> Result<(), OutboundError> {
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

/// Headers with which a plugin could have an answer come back in a form, or in pieces, in which a
/// credential is not recognised.
const DISGUISING_HEADERS: [&str; 5] =
    ["accept-encoding", "accept-charset", "a-im", "range", "if-range"];

/// Headers with which a plugin could ask for the digest of an answer that it does not get to see (RFC 9530).
const DIGESTING_HEADERS: [&str; 3] = ["want-content-digest", "want-repr-digest", "want-digest"];

/// Headers with which a plugin could ask of such an answer whether it is the one that it
/// guesses. A request that only reads is answered without them as well; of one that changes something they
/// may be what keeps it from harm.
const GUESSING_HEADERS: [&str; 2] = ["if-match", "if-none-match"];

/// Keeps a credential out of what a plugin gets to see: answers that repeat it, and refusals that name
/// where a server wanted to redirect to. It is looked for in the forms that servers write things in. A
/// server that is bent on telling a plugin a credential in a form of its own cannot be stopped, which is
/// why a rule has to name the credentials that may go there.
#[derive(Default)]
pub(super) struct CredentialMask {
    /// What is taken out of answers.
    in_answers: Forms,
    /// What is looked for in URLs that redirect. A redirect that is refused by chance does less harm than one that
    /// is followed, so short secrets are among it as well.
    in_urls: Forms,
}

impl CredentialMask {
    pub(super) fn over(credential: &Credential) -> Self {
        let secrets = || {
            let versions = credential.value.iter().flat_map(SecretVersions::all);
            versions.map(<[u8]>::trim_ascii)
        };
        let long = secrets().filter(|secret| secret.len() >= LOOKED_FOR_BYTES_MIN);
        Self { in_answers: Forms::of(long), in_urls: Forms::of(secrets()) }
    }

    /// Whether a URL holds the credential, in whatever form.
    pub(super) fn is_in_url(&self, url: &str) -> bool {
        self.in_urls.are_in(url.as_bytes())
    }

    /// Whether a text of an answer holds the credential.
    pub(super) fn is_in_answer(&self, text: &str) -> bool {
        !self.in_answers.places(text.as_bytes()).is_empty()
    }

    /// Whether there is nothing to keep out.
    pub(super) fn is_empty(&self) -> bool {
        self.in_answers.is_empty()
    }

    /// The length of the longest form as it may be written, in bytes. So much has to be read beyond what is shown.
    pub(super) fn longest(&self) -> usize {
        self.in_answers.longest()
    }

    /// Takes away the headers of a request that would disguise its answer, or find out about it.
    pub(super) fn undisguise(&self, method: &Method, headers: &mut HeaderMap) {
        let guessing = GUESSING_HEADERS.iter().filter(|_| method.is_safe());
        let taken: Vec<_> =
            DISGUISING_HEADERS.iter().chain(&DIGESTING_HEADERS).chain(guessing).collect();
        let named = headers.keys().filter(|name| taken.iter().any(|taken| is_read_as(name, taken)));
        for name in named.cloned().collect::<Vec<_>>() {
            headers.remove(name);
        }
    }

    /// What of the first bytes may be shown. `bytes` go on for [`CredentialMask::longest`] beyond those where there
    /// are more, so that a form that lies across the edge is found as well.
    pub(super) fn over_bytes(&self, bytes: &[u8], shown_max: usize) -> Vec<u8> {
        let places = self.in_answers.places(bytes).into_iter();
        let places = places.filter(|(from, _)| *from < shown_max);
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

    /// What of a refusal may be told. It names URLs, where short secrets are looked for too.
    pub(super) fn over_message(&self, message: String) -> String {
        let message = self.over_text(message);
        if self.is_in_url(&message) {
            return "it failed, and the reason repeats the credential, so it is withheld"
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

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(secret: &str) -> CredentialMask {
        let value = SecretVersions::new([secret.as_bytes().to_vec().into()]);
        let place = CredentialPlace::Query("key".to_owned());
        let secret = "example-api-key".parse().unwrap();
        CredentialMask::over(&Credential {
            place,
            prefix: String::new(),
            value: Some(value),
            may_be_sent: true,
            secret,
        })
    }

    #[test]
    fn headers_that_would_disguise_an_answer_or_guess_it_go_however_servers_read_their_names() {
        let left = |method: Method| {
            let mut headers = HeaderMap::new();
            for name in [
                "accept-charset", "accept_charset", "Accept-Encoding", "range", "if_range", "a-im",
                "want-repr-digest", "want_digest", "if-match", "if_none_match", "accept", "x-own",
            ] {
                let name = reqwest::header::HeaderName::from_bytes(name.as_bytes()).unwrap();
                headers.insert(name, HeaderValue::from_static("x"));
            }
            mask("s3cret/With+more=").undisguise(&method, &mut headers);
            let mut left: Vec<_> = headers.keys().map(|name| name.to_string()).collect();
            left.sort();
            left
        };
        assert_eq!(left(Method::GET), ["accept", "x-own"]);
        assert_eq!(left(Method::PUT), ["accept", "if-match", "if_none_match", "x-own"]);
    }

    #[test]
    fn a_credential_is_found_everywhere_in_a_url() {
        let mask = mask("s3cret/With+more=");
        for carried in
            ["s3cret/With+more=", "s3cret%252fwith%252Bmore%253D", "czNjcmV0L1dpdGgrbW9yZT0"]
        {
            for url in [
                format!("https://q.example/x?a=1&leak={carried}"),
                format!("https://q.example/{carried}/x"),
                format!("https://q.example/x#{carried}"),
                format!("https://{carried}.q.example/"),
            ] {
                assert!(mask.is_in_url(&url), "{url}");
            }
        }
        for other in
            ["https://q.example/x?a=s3cret", "https://q.example/?k=czNjcmV0", "https://q/%25"]
        {
            assert!(!mask.is_in_url(other), "{other}");
        }
    }

    #[test]
    fn an_answer_is_cleaned_where_it_is_cut_too() {
        let mask = mask("s3cret/more");
        let text = b"a s3cret\\/more b s3cret&#x2f;more";
        assert_eq!(mask.over_bytes(text, usize::MAX), b"a [redacted] b [redacted]");
        assert_eq!(mask.over_bytes(text, 20), b"a [redacted] b [reda");
        assert_eq!(mask.over_bytes(text, 5), b"a [re");
    }

    #[test]
    fn a_short_credential_is_found_too() {
        assert!(mask("pin4").is_in_url("https://q.example/?p=PIN4"));
        assert!(!mask("pin4").is_in_url("https://q.example/?p=pin5"));
    }
}
