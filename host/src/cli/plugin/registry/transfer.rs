//! Sends requests to a registry and to the hosts that it names. The user chooses the registry, which may have any
//! address. The registry chooses redirect targets and token servers: these need TLS and public addresses, unless the
//! user has named the host. The connection goes to the address that was checked.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use reqwest::Response;
use url::{Host, Url};

use crate::outbound::is_public;

/// Time limit for all requests together.
const TIME_MAX: Duration = Duration::from_secs(300);

/// Timeout for connecting.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// Timeout for the next bytes of a response.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Maximum number of redirects of a request. Registries redirect once, to their storage.
const REDIRECTS_MAX: usize = 5;

/// Sends requests for one registry.
pub(super) struct Transfer {
    /// The registry's host and port.
    registry: HostPort,
    /// Whether the registry is reached without TLS.
    is_plain: bool,
    /// Hosts that the registry may name whatever their addresses.
    allowed_hosts: HashSet<HostPort>,
    deadline: Instant,
}

/// A host and a port.
type HostPort = (String, u16);

fn host_port(url: &Url) -> anyhow::Result<HostPort> {
    let host = url.host_str().context("an address without a host")?;
    Ok((host.to_ascii_lowercase(), url.port_or_known_default().unwrap_or(443)))
}

/// Whether a host, with or without a port, names the loopback interface.
pub(super) fn is_loopback(host: &str) -> bool {
    let Ok(url) = Url::parse(&format!("http://{host}/")) else { return false };
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

impl Transfer {
    /// Creates a client for the registry at this base URL.
    pub(super) fn new(base: &Url, allowed_hosts: &[String]) -> anyhow::Result<Self> {
        let allowed_hosts = allowed_hosts.iter().map(|host| {
            let url = Url::parse(&format!("{}://{host}/", base.scheme()));
            url.map_err(anyhow::Error::from)
                .and_then(|url| host_port(&url))
                .with_context(|| format!("{host:?} is not a host name"))
        });
        Ok(Self {
            registry: host_port(base)?,
            is_plain: base.scheme() == "http",
            allowed_hosts: allowed_hosts.collect::<Result<_, _>>()?,
            deadline: Instant::now() + TIME_MAX,
        })
    }

    /// Sends a request and follows redirects. `authorization` is sent to the registry only.
    pub(super) async fn send(
        &self,
        method: &Method,
        url: &Url,
        headers: &HeaderMap,
        body: &Bytes,
        authorization: Option<&HeaderValue>,
    ) -> anyhow::Result<Response> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut headers = headers.clone();
            if host_port(&url)? == self.registry
                && let Some(authorization) = authorization
            {
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            let answer = self.send_once(method, &url, headers, body.clone()).await?;
            let is_redirect = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            // A registry's redirect is not followed for requests that have effects.
            if !is_redirect || !matches!(*method, Method::GET | Method::HEAD) {
                return Ok(answer);
            }
            let location = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok());
            url = url.join(location.context("a redirect to nowhere")?)?;
        }
        bail!("the registry redirects more than {REDIRECTS_MAX} times")
    }

    /// Sends one request without following redirects.
    pub(super) async fn send_once(
        &self,
        method: &Method,
        url: &Url,
        headers: HeaderMap,
        body: Bytes,
    ) -> anyhow::Result<Response> {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let addresses = self.vet(url).await?;
        let left = self.deadline.saturating_duration_since(Instant::now());
        let http = crate::tls::http_client()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .resolve_to_addrs(&host, &addresses)
            .connect_timeout(CONNECT_TIME_MAX)
            .read_timeout(SILENCE_MAX)
            .timeout(left)
            .user_agent(concat!("wardgate/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let request = http.request(method.clone(), url.clone()).headers(headers).body(body);
        // The library's errors contain the whole URL, whose query may be a signed credential.
        let sent = request.send().await.map_err(reqwest::Error::without_url);
        sent.with_context(|| format!("{host} cannot be reached"))
    }

    /// Resolves a URL's host and checks scheme and addresses.
    async fn vet(&self, url: &Url) -> anyhow::Result<Vec<SocketAddr>> {
        let (to, host) = (host_port(url)?, url.host_str().unwrap_or_default());
        let is_named = to == self.registry || self.allowed_hosts.contains(&to);
        match url.scheme() {
            "https" => {}
            "http" if is_named && self.is_plain => {}
            scheme => bail!("the registry sends to {scheme}://{host}, which is not TLS"),
        }
        let port = to.1;
        let addresses: Vec<SocketAddr> = match url.host() {
            Some(Host::Ipv4(address)) => vec![(address, port).into()],
            Some(Host::Ipv6(address)) => vec![(address, port).into()],
            Some(Host::Domain(name)) => {
                let found = tokio::net::lookup_host((name, port)).await;
                found.with_context(|| format!("the name {name} does not resolve"))?.collect()
            }
            None => Vec::new(),
        };
        let is_refused = |address: &IpAddr| !is_named && !is_public(address.to_canonical());
        if let Some(refused) = addresses.iter().map(SocketAddr::ip).find(is_refused) {
            bail!(
                "the registry sends to {host}, which is at {refused} and not a public address; \
                 --registry-also {host}:{port} allows it"
            );
        }
        if addresses.is_empty() {
            bail!("{host} has no address");
        }
        Ok(addresses)
    }
}

/// Reads a response body of at most `bytes_max` bytes.
pub(super) async fn read_answer(
    mut answer: Response,
    bytes_max: usize,
    what: &str,
) -> anyhow::Result<Bytes> {
    let too_long = || anyhow::anyhow!("{what} is longer than the {bytes_max} bytes it may have");
    if answer.content_length().is_some_and(|length| length > bytes_max as u64) {
        return Err(too_long());
    }
    let mut body = BytesMut::new();
    let broken = || format!("{what} broke off");
    while let Some(part) =
        answer.chunk().await.map_err(reqwest::Error::without_url).with_context(broken)?
    {
        if body.len() + part.len() > bytes_max {
            return Err(too_long());
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

/// Whether a response has status 200.
pub(super) fn is_ok(answer: &Response) -> bool {
    answer.status() == StatusCode::OK
}
