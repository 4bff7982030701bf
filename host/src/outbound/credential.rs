//! Credentials of outbound requests: attached by the host, so that plugins never see them.

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

/// Finds the credential with this name.
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

/// Attaches a credential at the place that the operator configured.
pub(super) fn attach(
    (name, credential): (&str, &Credential),
    rule: Option<&EgressRule>,
    url: &mut Url,
    headers: &mut HeaderMap,
    hint: &str,
) -> Result<(), OutboundError> {
    let denied = |why: &str| failure("forbidden", &format!("the credential {name:?} {why}"));
    if !rule.is_some_and(|rule| rule.allows_credential(name)) {
        return Err(denied(&format!(
            "may not go to {}: the [[egress]] rule that allows the request would have to name it in {hint}",
            url.host_str().unwrap_or_default()
        )));
    }
    // Only the operator learns what is wrong with the secret's bytes. The plugin gets one message for all causes.
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
            // A value with a slash in it would lead to another path than the rule allows.
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

/// Checks whether a redirect with a credential in its URL may be followed: only to where the credential may be sent.
pub(super) fn check_redirect(
    name: &str,
    rule: Option<&EgressRule>,
    hint: &str,
) -> Result<(), OutboundError> {
    if rule.is_some_and(|rule| rule.allows_credential(name)) {
        return Ok(());
    }
    // The message omits the target, because its host name may contain the credential.
    let message = format!(
        "the answer redirects with the credential {name:?} in its URL to where the credential may not go: \
         the [[egress]] rule that allows the request there would have to name it in {hint}"
    );
    Err(failure("forbidden", &message))
}

/// What a plugin sees in place of a credential.
const REPLACEMENT: &[u8] = b"[redacted]";

/// Secrets that are shorter than this are not searched for: they would match everywhere.
const SEARCHED_BYTES_MIN: usize = 6;

/// Headers with which a plugin could request a response in a form, or in pieces, in which a credential is not
/// recognized.
const DISGUISING_HEADERS: [&str; 5] =
    ["accept-encoding", "accept-charset", "a-im", "range", "if-range"];

/// Headers with which a plugin could request the digest of a response that it does not see (RFC 9530).
const DIGESTING_HEADERS: [&str; 3] = ["want-content-digest", "want-repr-digest", "want-digest"];

/// Headers with which a plugin could test a guess at the content of such a response. Safe requests work without them
/// as well; for a request that changes something, they may be what prevents harm.
const GUESSING_HEADERS: [&str; 2] = ["if-match", "if-none-match"];

/// Keeps a credential out of what a plugin sees: responses that repeat it, and error messages that name the target of
/// a redirect. It searches for the forms that servers commonly write. A server that deliberately sends a credential
/// in a form of its own cannot be stopped, which is why a rule must name the credentials that may be sent there.
#[derive(Default)]
pub(super) struct CredentialMask {
    /// What is redacted in responses.
    in_answers: Forms,
    /// What is searched for in redirect URLs. Rejecting a redirect by mistake does less harm than following one, so
    /// short secrets are included.
    in_urls: Forms,
}

impl CredentialMask {
    pub(super) fn new(credential: &Credential) -> Self {
        let secrets = || {
            let versions = credential.value.iter().flat_map(SecretVersions::all);
            versions.map(<[u8]>::trim_ascii)
        };
        let long = secrets().filter(|secret| secret.len() >= SEARCHED_BYTES_MIN);
        Self { in_answers: Forms::new(long), in_urls: Forms::new(secrets()) }
    }

    /// Whether a URL contains the credential in any of its forms.
    pub(super) fn is_in_url(&self, url: &str) -> bool {
        self.in_urls.are_in(url.as_bytes())
    }

    /// Whether a text of a response contains the credential.
    pub(super) fn is_in_answer(&self, text: &str) -> bool {
        !self.in_answers.find_all(text.as_bytes()).is_empty()
    }

    /// Whether there is nothing to redact.
    pub(super) fn is_empty(&self) -> bool {
        self.in_answers.is_empty()
    }

    /// The longest form, fully escaped, in bytes. This much must be read beyond what is shown.
    pub(super) fn longest(&self) -> usize {
        self.in_answers.longest()
    }

    /// Removes the request headers that would disguise the response or reveal something about it.
    pub(super) fn strip_headers(&self, method: &Method, headers: &mut HeaderMap) {
        let guessing = GUESSING_HEADERS.iter().filter(|_| method.is_safe());
        let taken: Vec<_> =
            DISGUISING_HEADERS.iter().chain(&DIGESTING_HEADERS).chain(guessing).collect();
        let named = headers.keys().filter(|name| taken.iter().any(|taken| is_read_as(name, taken)));
        for name in named.cloned().collect::<Vec<_>>() {
            headers.remove(name);
        }
    }

    /// The first `shown_max` bytes, redacted. If the text is longer, `bytes` must extend [`CredentialMask::longest`]
    /// beyond them, so that a form across the edge is found as well.
    pub(super) fn redact_bytes(&self, bytes: &[u8], shown_max: usize) -> Vec<u8> {
        let ranges = self.in_answers.find_all(bytes).into_iter();
        let ranges = ranges.filter(|(from, _)| *from < shown_max);
        let (mut shown, mut done) = (Vec::with_capacity(bytes.len().min(shown_max)), 0);
        for (from, to) in ranges {
            if from >= done {
                shown.extend_from_slice(bytes.get(done..from).unwrap_or_default());
                shown.extend_from_slice(REPLACEMENT);
            }
            done = done.max(to);
        }
        shown.extend_from_slice(bytes.get(done..bytes.len().min(shown_max)).unwrap_or_default());
        shown.truncate(shown_max);
        shown
    }

    /// Redacts an error message. It may name URLs, in which short secrets are searched for too.
    pub(super) fn redact_message(&self, message: String) -> String {
        let message = self.redact_text(message);
        if self.is_in_url(&message) {
            return "it failed, and the reason repeats the credential, so it is withheld"
                .to_owned();
        }
        message
    }

    fn redact_text(&self, text: String) -> String {
        if self.is_empty() {
            return text;
        }
        String::from_utf8_lossy(&self.redact_bytes(text.as_bytes(), usize::MAX)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(secret: &str) -> CredentialMask {
        let value = SecretVersions::new([secret.as_bytes().to_vec().into()]);
        let place = CredentialPlace::Query("key".to_owned());
        let secret = "example-api-key".parse().unwrap();
        CredentialMask::new(&Credential {
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
            mask("s3cret/With+more=").strip_headers(&method, &mut headers);
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
        assert_eq!(mask.redact_bytes(text, usize::MAX), b"a [redacted] b [redacted]");
        assert_eq!(mask.redact_bytes(text, 20), b"a [redacted] b [reda");
        assert_eq!(mask.redact_bytes(text, 5), b"a [re");
    }

    #[test]
    fn a_short_credential_is_found_too() {
        assert!(mask("pin4").is_in_url("https://q.example/?p=PIN4"));
        assert!(!mask("pin4").is_in_url("https://q.example/?p=pin5"));
    }
}
