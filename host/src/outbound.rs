//! Outbound HTTP requests of plugins.
//!
//! For each hop, the grant is looked up by scheme, host, port, method and path. The name is resolved once, every
//! address must be public or in a network that the rule names, and the connection goes only to the vetted addresses.
//! There is no proxy from the environment, no shared connection pool (a connection vetted for one tenant must not
//! serve another), no cookie, and one deadline for the whole chain. A credential is attached only on the first hop,
//! at the place that the operator configured, and redacted wherever the response repeats it. A redirect that repeats
//! it is followed only to where the credential may be sent as well.

mod credential;
mod forms;
pub(crate) mod headers;
mod plain_path;
mod policy;
mod public_only;
pub(crate) mod rule;
mod tls;
mod vetting;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reqwest::header::{CONTENT_ENCODING, HeaderMap, HeaderName, LOCATION};
use reqwest::{Method, StatusCode};
use url::Url;

use credential::CredentialMask;
pub(crate) use policy::{Credential, CredentialPlace, EgressMode, EgressPolicy};
pub(crate) use public_only::{
    NotPublic, admins_server_client, check_admins_address, is_public_host, server_client,
};
use rule::EgressRule;
pub(crate) use tls::Tls;
pub(crate) use vetting::is_public;

/// Maximum number of redirects that are followed. Each is a separate request and needs its own grant.
const REDIRECTS_MAX: usize = 3;

/// The longest URL and the longest host name in it, in bytes. Parsing a host name that is not ASCII takes quadratic
/// time. A URL of this length with the longest secret percent-encoded in its query still fits what can be sent
/// (65,534 bytes), so whether a request can be sent reveals nothing about the secret.
const URL_BYTES_MAX: usize = 8 << 10;
const HOST_BYTES_MAX: usize = 1 << 10;

/// How much of a response is read when it is searched for a credential, beyond twice what is shown. Redaction
/// shortens the text, so more of it is read to fill the gap: otherwise the place of the cut would reveal the
/// credential's length. The rest is the longest form of the longest secret, which may begin where reading ends.
const SCAN_EXTRA_BYTES: usize = (64 << 10) + forms::LONGEST_BYTES_MAX;

/// A request to send.
#[derive(Debug, Clone)]
pub(crate) struct OutboundRequest {
    pub(crate) method: String,
    pub(crate) url: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Option<Vec<u8>>,
    /// The time limit, including redirects.
    pub(crate) timeout: Option<Duration>,
}

/// The response of a server.
#[derive(Debug, Clone)]
pub(crate) struct OutboundResponse {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body was cut.
    pub(crate) truncated: bool,
}

/// Why there is no response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutboundError {
    /// `forbidden`, `invalid-input`, `rate-limited`, `timeout` or `upstream`.
    pub(crate) code: String,
    /// One sentence.
    pub(crate) message: String,
}

/// The limits of one request and its redirects.
pub(crate) struct Bounds {
    /// When the caller stops waiting.
    pub(crate) deadline: Instant,
    /// Maximum bytes of the response body that are returned.
    pub(crate) body_bytes_max: usize,
    /// The location of the plugin's grants, for the message of a denial.
    pub(crate) grants_hint: String,
    pub(crate) tls: Tls,
}

/// The outcome of a request.
pub(crate) struct SendOutcome {
    pub(crate) answer: Result<OutboundResponse, OutboundError>,
    /// The requests that no rule allows and that were only counted.
    pub(crate) counted: Vec<String>,
}

/// Sends a plugin's request, with the credential that the request names.
pub(crate) async fn send(
    policy: &EgressPolicy,
    outgoing: OutboundRequest,
    credential: Option<&str>,
    bounds: &Bounds,
) -> SendOutcome {
    let requested_deadline = outgoing.timeout.map(|timeout| Instant::now() + timeout);
    let deadline = requested_deadline
        .map_or(bounds.deadline, |requested_deadline| requested_deadline.min(bounds.deadline));
    let left = deadline.saturating_duration_since(Instant::now());
    let mut counted = Vec::new();
    let attached = credential.and_then(|name| policy.credential(name));
    let mask = attached.map(CredentialMask::new).unwrap_or_default();
    let (mask, counted_ref) = (&mask, &mut counted);
    let chain = RedirectChain {
        policy,
        bounds,
        deadline,
        mask,
        counted: counted_ref,
        is_redirected: false,
    };
    let answer = match tokio::time::timeout(left, chain.follow(outgoing, credential)).await {
        Ok(answer) => answer,
        Err(_) => Err(failure("timeout", "the request did not end in the time it had")),
    };
    SendOutcome { answer, counted }
}

/// One request and its chain of redirects.
struct RedirectChain<'a> {
    policy: &'a EgressPolicy,
    bounds: &'a Bounds,
    deadline: Instant,
    mask: &'a CredentialMask,
    counted: &'a mut Vec<String>,
    /// Whether the current URL comes from a server. A URL that the plugin wrote is shown unchanged: redacting it
    /// would confirm the plugin's guesses at the credential.
    is_redirected: bool,
}

impl<'a> RedirectChain<'a> {
    async fn follow(
        mut self,
        outgoing: OutboundRequest,
        credential: Option<&str>,
    ) -> Result<OutboundResponse, OutboundError> {
        let answer = self.follow_to_the_end(outgoing, credential).await;
        answer.map_err(|failure| OutboundError {
            message: self.mask_message(failure.message),
            ..failure
        })
    }

    /// The error message that the plugin may see.
    fn mask_message(&self, message: String) -> String {
        if self.is_redirected { self.mask.redact_message(message) } else { message }
    }

    async fn follow_to_the_end(
        &mut self,
        outgoing: OutboundRequest,
        credential: Option<&str>,
    ) -> Result<OutboundResponse, OutboundError> {
        let mut method = Method::from_bytes(outgoing.method.as_bytes())
            .map_err(|_| failure("invalid-input", "the method is not a method"))?;
        let mut url = parse(&outgoing.url)?;
        let mut headers = headers::parse(&outgoing.headers)?;
        let mut body = outgoing.body;
        let hint = &self.bounds.grants_hint;
        let found = credential.map(|name| credential::find(self.policy, name, hint)).transpose()?;
        let attached = credential;
        let mut credential = credential.zip(found);
        // The name of the credential, if the redirect's URL contains it.
        let mut carries = None;
        for _ in 0..=REDIRECTS_MAX {
            let rule = self.rule(&method, &headers::overriding_methods(&headers), &url)?;
            if let Some(name) = carries {
                credential::check_redirect(name, rule, hint)?;
            }
            // The URL as sent may contain a secret; the one that the plugin wrote does not.
            let mut sent_url = url.clone();
            if let Some(named) = credential.take() {
                self.mask.strip_headers(&method, &mut headers);
                credential::attach(named, rule, &mut sent_url, &mut headers, hint)?;
            }
            let addresses = vetting::resolve(&url, rule).await?;
            let hop = Hop { method: &method, url: &sent_url, headers, body: body.as_deref() };
            let response = hop.send(&addresses, self.deadline, &self.bounds.tls).await?;
            let Some((location, next)) = redirect(&response, &url)? else {
                return read_response(response, self.bounds.body_bytes_max, self.mask).await;
            };
            self.is_redirected = true;
            // Both as written and as parsed: parsing removes tabs and dots and converts backslashes.
            let texts = [location.as_str(), next.as_str()];
            carries = attached.filter(|_| texts.iter().any(|text| self.mask.is_in_url(text)));
            // A redirect may lead anywhere, so it is vetted like a new request and sent without any headers: a list
            // of headers to drop would always miss one.
            headers = HeaderMap::new();
            if matches!(response.status().as_u16(), 301..=303) && method != Method::HEAD {
                method = Method::GET;
                body = None;
            }
            url = parse(&next)?;
        }
        Err(failure("upstream", "the answer redirects more than three times"))
    }

    /// The rule that allows a request. `None` if no rule does and the operator only counts such requests.
    fn rule(
        &mut self,
        method: &Method,
        overriding: &[String],
        url: &Url,
    ) -> Result<Option<&'a EgressRule>, OutboundError> {
        let mut methods = vec![method.as_str()];
        methods.extend(overriding.iter().map(String::as_str));
        if let Some(rule) = self.policy.rule(&methods, url) {
            return Ok(Some(rule));
        }
        // The path is truncated for the message, and the rest of a credential would not be recognized then.
        let is_covered = self.is_redirected && self.mask.is_in_url(url.as_str());
        let path = if is_covered { "/[redacted]" } else { url.path() };
        let refused = not_granted(&methods.join(" meant as "), url, path, &self.bounds.grants_hint);
        match self.policy.mode() {
            EgressMode::Enforce => Err(refused),
            EgressMode::Count => {
                let refused = self.mask_message(refused.message);
                self.counted.push(refused);
                Ok(None)
            }
        }
    }
}

fn parse(url: &str) -> Result<Url, OutboundError> {
    check_length(url)?;
    let url = Url::parse(url)
        .map_err(|error| failure("invalid-input", &format!("the URL cannot be read: {error}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(failure("invalid-input", "the URL is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(failure("invalid-input", "the URL holds a user name or password"));
    }
    Ok(url)
}

/// Rejects a URL that would take long to parse. Called before parsing.
fn check_length(url: &str) -> Result<(), OutboundError> {
    if url.len() > URL_BYTES_MAX {
        let message = format!("the URL has more than {URL_BYTES_MAX} bytes");
        return Err(failure("invalid-input", &message));
    }
    let rest = url.split_once(':').map_or(url, |(_, rest)| rest);
    let rest = rest.trim_start_matches(['/', '\\']);
    let host = rest.split(['/', '\\', '?', '#']).next().unwrap_or_default();
    if host.len() > HOST_BYTES_MAX {
        let message = format!("the host in the URL has more than {HOST_BYTES_MAX} bytes");
        return Err(failure("invalid-input", &message));
    }
    Ok(())
}

struct Hop<'a> {
    method: &'a Method,
    url: &'a Url,
    headers: HeaderMap,
    body: Option<&'a [u8]>,
}

impl Hop<'_> {
    async fn send(
        self,
        addresses: &[SocketAddr],
        deadline: Instant,
        tls: &Tls,
    ) -> Result<reqwest::Response, OutboundError> {
        let host = self.url.host_str().unwrap_or_default();
        let no_client = || failure("upstream", "no HTTP client could be made");
        let tls = tls.config().ok_or_else(no_client)?;
        // A client for this request only: it is bound to the vetted addresses, and no connection outlives the call.
        let client = crate::tls::http_client()
            .tls_backend_preconfigured(tls)
            .resolve_to_addrs(host, addresses)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .timeout(deadline.saturating_duration_since(Instant::now()))
            .user_agent(concat!("wardgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| no_client())?;
        let mut request =
            client.request(self.method.clone(), self.url.clone()).headers(self.headers);
        if let Some(body) = self.body {
            request = request.body(body.to_owned());
        }
        request.send().await.map_err(|error| describe(&error, host))
    }
}

/// Describes an error without the URL, whose path and query may contain secrets.
fn describe(error: &reqwest::Error, host: &str) -> OutboundError {
    if error.is_timeout() {
        failure("timeout", &format!("{host} did not answer in time"))
    } else if error.is_connect() {
        failure("upstream", &format!("{host} cannot be connected to"))
    } else {
        failure("upstream", &format!("{host} gave no valid answer"))
    }
}

/// The redirect target of a response, as written and as parsed.
fn redirect(
    response: &reqwest::Response,
    from: &Url,
) -> Result<Option<(String, String)>, OutboundError> {
    let follows = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let location = response.headers().get(LOCATION).filter(|_| follows);
    let Some(location) = location.and_then(|location| location.to_str().ok()) else {
        return Ok(None);
    };
    check_length(location)
        .map_err(|_| failure("upstream", "the answer redirects to a URL that is too long"))?;
    let read = from.join(location).ok();
    Ok(read.map(|read| (location.to_owned(), read.into())))
}

/// How many bytes of a response body to read so that `shown_max` of them can be shown.
pub(crate) fn read_max(shown_max: usize, is_looked_through: bool) -> usize {
    if is_looked_through {
        shown_max.saturating_mul(2).saturating_add(SCAN_EXTRA_BYTES)
    } else {
        shown_max.saturating_add(1)
    }
}

async fn read_response(
    mut response: reqwest::Response,
    bytes_max: usize,
    mask: &CredentialMask,
) -> Result<OutboundResponse, OutboundError> {
    let status = response.status().as_u16();
    if !mask.is_empty() && response.headers().contains_key(CONTENT_ENCODING) {
        // A compressed response cannot be searched for the credential.
        let message = "the answer to a request with a credential is compressed, unasked for";
        return Err(failure("upstream", message));
    }
    let headers = shown_headers(response.headers(), mask);
    let read_max = read_max(bytes_max, !mask.is_empty());
    let mut body = Vec::new();
    while body.len() < read_max {
        let chunk = response.chunk().await.map_err(|error| describe(&error, "the host"))?;
        let Some(chunk) = chunk else { break };
        let remaining = read_max.saturating_sub(body.len());
        body.extend_from_slice(chunk.get(..remaining.min(chunk.len())).unwrap_or_default());
    }
    // If more follows, the end of what was read may hold the start of a form, so it is not shown.
    let has_more = body.len() >= read_max;
    let scanned_max =
        if has_more { read_max.saturating_sub(mask.longest() + 1) } else { usize::MAX };
    let mut body = mask.redact_bytes(&body, scanned_max);
    let truncated = has_more || body.len() > bytes_max;
    body.truncate(bytes_max);
    Ok(OutboundResponse { status, headers, body, truncated })
}

/// The headers of a response that the plugin may see.
fn shown_headers(headers: &HeaderMap, mask: &CredentialMask) -> Vec<(String, String)> {
    let is_shown = |name: &HeaderName| {
        let tells = headers::measures_the_body(name) || mask.is_in_answer(name.as_str());
        mask.is_empty() || !tells
    };
    let shown = headers.iter().filter(|(name, _)| is_shown(name));
    let shown = shown.map(|(name, value)| {
        let value = mask.redact_bytes(value.as_bytes(), usize::MAX);
        (name.as_str().to_owned(), String::from_utf8_lossy(&value).into_owned())
    });
    shown.collect()
}

fn not_granted(method: &str, url: &Url, path: &str, grants_hint: &str) -> OutboundError {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    let message = format!(
        "no grant allows {method} {}://{host}:{port}{}; the operator can allow it with an [[egress]] \
         rule (host = \"{host}\") in {grants_hint}",
        url.scheme(),
        // The path may be long, and the plugin knows it.
        path.chars().take(80).collect::<String>(),
    );
    failure("forbidden", &message)
}

fn failure(code: &str, message: &str) -> OutboundError {
    OutboundError { code: code.to_owned(), message: message.to_owned() }
}
