//! Outgoing HTTP of plugins.
//!
//! For each hop: the grant is looked up by scheme, host, port, method and path; the name is resolved
//! once; every address must be public or in a network that the rule names; the connection goes to the
//! vetted addresses and to no others. There is no proxy from the environment, no shared connection
//! pool (a connection vetted for one tenant must not serve another), no cookie, and one deadline over
//! all of it.

use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, StatusCode};
use url::{Host, Url};

use super::bindings::v0_1::wardgate::plugin::egress::{Answer, Outgoing};
use super::bindings::v0_1::wardgate::plugin::types::Failure;
use super::grants::{EgressRule, Granted};

/// How many redirects are followed; each is a request of its own and needs its own grant.
const REDIRECTS_MAX: usize = 3;

/// Most headers of a plugin's request.
const HEADERS_MAX: usize = 64;

/// Headers that belong to the connection or would change where it goes.
const FORBIDDEN_HEADERS: [&str; 11] = [
    "host",
    "connection",
    "content-length",
    "expect",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Everything that is not the public internet (IANA special-purpose registries), and the ranges that
/// carry an IPv4 address inside an IPv6 one.
static NOT_PUBLIC: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    [
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
        "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16",
        "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23",
        "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10",
        "fec0::/10", "ff00::/8",
    ]
    .iter()
    .filter_map(|network| network.parse().ok())
    .collect()
});

/// What bounds one call of `egress.send`.
pub(super) struct Bounds {
    /// When the plugin's call ends.
    pub(super) deadline: Instant,
    /// Bytes of the answer's body that are read.
    pub(super) body_bytes_max: usize,
    /// Where the plugin's grants are, for the message of a denial.
    pub(super) grants_hint: String,
}

/// Sends one request of a plugin.
pub(super) async fn send(
    granted: &Granted,
    outgoing: Outgoing,
    bounds: &Bounds,
) -> Result<Answer, Failure> {
    let asked = outgoing.timeout_ms.map(|ms| Instant::now() + Duration::from_millis(ms.into()));
    let deadline = asked.map_or(bounds.deadline, |asked| asked.min(bounds.deadline));
    let left = deadline.saturating_duration_since(Instant::now());
    match tokio::time::timeout(left, follow(granted, outgoing, deadline, bounds)).await {
        Ok(answer) => answer,
        Err(_) => Err(failure("timeout", "the request did not end in the time it had")),
    }
}

async fn follow(
    granted: &Granted,
    outgoing: Outgoing,
    deadline: Instant,
    bounds: &Bounds,
) -> Result<Answer, Failure> {
    let mut method = Method::from_bytes(outgoing.method.as_bytes())
        .map_err(|_| failure("invalid-input", "the method is not a method"))?;
    let mut url = parse(&outgoing.url)?;
    let mut headers = parse_headers(&outgoing.headers)?;
    let mut body = outgoing.body;
    for _ in 0..=REDIRECTS_MAX {
        let rule = granted
            .egress_rule(method.as_str(), &url)
            .ok_or_else(|| not_granted(&method, &url, &bounds.grants_hint))?;
        let addresses = resolve(&url, rule).await?;
        let request = Hop { method: &method, url: &url, headers, body: body.as_deref() };
        let response = request.send(&addresses, deadline).await?;
        let Some(next) = redirect(&response, &url) else {
            return read(response, bounds.body_bytes_max).await;
        };
        // A redirect may lead anywhere, so it is vetted like a new request and takes nothing along: a
        // list of headers to drop always misses one.
        headers = HeaderMap::new();
        if matches!(response.status().as_u16(), 301..=303) && method != Method::HEAD {
            method = Method::GET;
            body = None;
        }
        url = parse(&next)?;
    }
    Err(failure("upstream", "the answer redirects more than three times"))
}

fn parse(url: &str) -> Result<Url, Failure> {
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

fn parse_headers(headers: &[(String, String)]) -> Result<HeaderMap, Failure> {
    if headers.len() > HEADERS_MAX {
        return Err(failure("invalid-input", "the request has more than 64 headers"));
    }
    let mut parsed = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| failure("invalid-input", "a header name is not valid"))?;
        if FORBIDDEN_HEADERS.contains(&name.as_str()) {
            let message = format!("the header {name} is the gateway's to set");
            return Err(failure("invalid-input", &message));
        }
        let value = HeaderValue::from_str(value)
            .map_err(|_| failure("invalid-input", &format!("the value of {name} is not valid")))?;
        parsed.append(name, value);
    }
    Ok(parsed)
}

/// Resolves the host once and vets every address: one bad address refuses the whole name, since which
/// of them a connection would use is not ours to predict.
async fn resolve(url: &Url, rule: &EgressRule) -> Result<Vec<SocketAddr>, Failure> {
    let port = url.port_or_known_default().unwrap_or(443);
    let addresses: Vec<SocketAddr> = match url.host() {
        Some(Host::Ipv4(address)) => vec![(address, port).into()],
        Some(Host::Ipv6(address)) => vec![(address, port).into()],
        Some(Host::Domain(name)) => tokio::net::lookup_host((name, port))
            .await
            .map_err(|_| failure("upstream", &format!("the name {name} does not resolve")))?
            .collect(),
        None => Vec::new(),
    };
    if addresses.is_empty() {
        return Err(failure("upstream", "the host has no address"));
    }
    match addresses.iter().find(|address| !is_allowed(address.ip(), rule)) {
        Some(refused) => {
            let message = format!(
                "{} is at {}, which is not a public address; the grant would have to name its \
                 network (networks = [\"{}\"])",
                url.host_str().unwrap_or_default(),
                refused.ip(),
                IpNet::from(refused.ip().to_canonical()),
            );
            Err(failure("forbidden", &message))
        }
        None => Ok(addresses),
    }
}

fn is_allowed(address: IpAddr, rule: &EgressRule) -> bool {
    // `::ffff:127.0.0.1` connects to 127.0.0.1, so it is judged as that.
    let address = address.to_canonical();
    is_public(address) || rule.names_network_of(address)
}

fn is_public(address: IpAddr) -> bool {
    !NOT_PUBLIC.iter().any(|network| network.contains(&address))
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
    ) -> Result<reqwest::Response, Failure> {
        let host = self.url.host_str().unwrap_or_default();
        // A client of its own: it holds the vetted addresses, and no connection outlives the call.
        let client = reqwest::Client::builder()
            .resolve_to_addrs(host, addresses)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .pool_max_idle_per_host(0)
            .timeout(deadline.saturating_duration_since(Instant::now()))
            .user_agent(concat!("wardgate/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|_| failure("upstream", "no HTTP client could be made"))?;
        let mut request =
            client.request(self.method.clone(), self.url.clone()).headers(self.headers);
        if let Some(body) = self.body {
            request = request.body(body.to_owned());
        }
        request.send().await.map_err(|error| describe(&error, host))
    }
}

/// Says what went wrong without the URL: its path and query may hold secrets.
fn describe(error: &reqwest::Error, host: &str) -> Failure {
    if error.is_timeout() {
        failure("timeout", &format!("{host} did not answer in time"))
    } else if error.is_connect() {
        failure("upstream", &format!("{host} cannot be connected to"))
    } else {
        failure("upstream", &format!("{host} gave no valid answer"))
    }
}

fn redirect(response: &reqwest::Response, from: &Url) -> Option<String> {
    let follows = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    let location = response.headers().get(LOCATION).filter(|_| follows)?.to_str().ok()?;
    from.join(location).ok().map(String::from)
}

async fn read(mut response: reqwest::Response, bytes_max: usize) -> Result<Answer, Failure> {
    let status = response.status().as_u16();
    let headers = response
        .headers()
        .iter()
        .map(|(name, value)| {
            (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect();
    let (mut body, mut truncated) = (Vec::new(), false);
    loop {
        let chunk = response.chunk().await.map_err(|error| describe(&error, "the host"))?;
        let Some(chunk) = chunk else { break };
        let room = bytes_max.saturating_sub(body.len());
        body.extend_from_slice(chunk.get(..room.min(chunk.len())).unwrap_or_default());
        if chunk.len() > room {
            truncated = true;
            break;
        }
    }
    Ok(Answer { status, headers, body, truncated, extra: None })
}

fn not_granted(method: &Method, url: &Url, grants_hint: &str) -> Failure {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    let message = format!(
        "no grant allows {method} {}://{host}:{port}{}; the operator can allow it with an [[egress]] \
         rule (host = \"{host}\") in {grants_hint}",
        url.scheme(),
        // The path may be long and is the plugin's own.
        url.path().chars().take(80).collect::<String>(),
    );
    failure("forbidden", &message)
}

pub(super) fn failure(code: &str, message: &str) -> Failure {
    Failure {
        code: code.to_owned(),
        message: message.to_owned(),
        retry_after_ms: None,
        extra: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_special_network_is_read() {
        assert_eq!(NOT_PUBLIC.len(), 29);
    }

    #[test]
    fn only_the_public_internet_is_public() {
        for address in ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "172.32.0.1", "100.128.0.1"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
        for address in [
            "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254",
            "172.16.0.1", "172.31.255.255", "192.168.1.1", "198.18.0.1", "224.0.0.1",
            "255.255.255.255", "::", "::1", "::7f00:1", "64:ff9b::7f00:1", "fe80::1", "fc00::1",
            "fd00:ec2::254", "2002:7f00:1::", "ff02::1", "fec0::1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        assert!(!is_public(mapped) && !is_public(mapped.to_canonical()));
    }
}
