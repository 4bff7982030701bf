//! An egress rule: scheme, host, port, methods and path of allowed requests, and the credentials they may carry.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde::Deserialize;
use url::{Host, Url};

use super::plain_path;

/// Why a rule is not valid.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct RuleError(String);

/// A rule as written in a file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EgressRuleFile {
    host: String,
    #[serde(default = "https")]
    scheme: String,
    port: Option<u16>,
    #[serde(default = "get")]
    methods: BTreeSet<String>,
    #[serde(default = "slash")]
    path: String,
    #[serde(default)]
    networks: Vec<IpNet>,
    #[serde(default)]
    credentials: BTreeSet<String>,
}

fn https() -> String {
    "https".to_owned()
}

fn get() -> BTreeSet<String> {
    BTreeSet::from(["GET".to_owned()])
}

fn slash() -> String {
    "/".to_owned()
}

/// A validated egress rule.
#[derive(Debug, Clone)]
pub(crate) struct EgressRule {
    scheme: String,
    host: HostRule,
    port: u16,
    methods: BTreeSet<String>,
    path: String,
    networks: Vec<IpNet>,
    credentials: BTreeSet<String>,
}

#[derive(Debug, Clone)]
enum HostRule {
    Exact(Host<String>),
    /// Exactly one label in front of this name.
    OneLabelUnder(String),
}

impl HostRule {
    /// Parses a host in the normalized form of parsed URLs; any other form would never match.
    fn parse(text: &str) -> Result<Self, RuleError> {
        let wrong = |what: &str| RuleError(format!("egress host {text:?} {what}"));
        if text.contains("://") || text.contains('/') {
            return Err(wrong(
                "is to be the host alone: `scheme` and `path` are keys of their own",
            ));
        }
        let parent = text.strip_prefix("*.");
        let named = parent.unwrap_or(text);
        if named.contains('*') || parent.is_some_and(|parent| !parent.contains('.')) {
            // A bare `*` or `*.com` would allow everyone; the parent needs a dot of its own.
            return Err(wrong("allows too much"));
        }
        if named.contains(':') && !named.starts_with('[') {
            return Err(wrong(
                "is to be the host alone: `port` is a key of its own, and IPv6 addresses stand in [ ]",
            ));
        }
        let host = Host::parse(named)
            .map_err(|error| wrong(&format!("is not a host name or address: {error}")))?;
        match (parent, host) {
            (None, host) => Ok(Self::Exact(host)),
            (Some(_), Host::Domain(parent)) => Ok(Self::OneLabelUnder(parent)),
            (Some(_), _) => Err(wrong("is an address, which has no names under it")),
        }
    }
}

impl EgressRule {
    pub(crate) fn parse(file: EgressRuleFile) -> Result<Self, RuleError> {
        let wrong = |what: String| RuleError(what);
        let default_port = match file.scheme.as_str() {
            "https" => 443,
            "http" => 80,
            other => return Err(wrong(format!("egress scheme {other:?} is not http or https"))),
        };
        let host = HostRule::parse(&file.host)?;
        if file.port == Some(0) {
            return Err(wrong("egress port 0 is not a port".to_owned()));
        }
        if file.methods.is_empty() {
            return Err(wrong(format!("egress to {} allows no method", file.host)));
        }
        if !file.path.starts_with('/') {
            return Err(wrong(format!("egress path {:?} does not begin with /", file.path)));
        }
        // It is compared with the paths of parsed URLs; in any other form it would never match.
        let parsed = Url::parse(&format!("https://host.example{}", file.path)).ok();
        if parsed.is_none_or(|url| url.path() != file.path || !plain_path::is_plain(url.path())) {
            return Err(wrong(format!(
                "egress path {:?} is not as URLs have it: no dot segments, no query, odd characters \
                 percent-encoded, and none that servers read in different ways",
                file.path
            )));
        }
        // Compared with request methods, which are tokens (RFC 9110 section 9.1).
        let is_none = |m: &&String| http::Method::from_bytes(m.as_bytes()).is_err();
        if let Some(method) = file.methods.iter().find(is_none) {
            return Err(wrong(format!("egress method {method:?} is not a method")));
        }
        if let Some(method) = file.methods.iter().find(|m| m.to_ascii_uppercase() != **m) {
            return Err(wrong(format!("egress method {method:?} is not in upper case")));
        }
        Ok(Self {
            scheme: file.scheme,
            host,
            port: file.port.unwrap_or(default_port),
            methods: file.methods,
            path: file.path,
            networks: file.networks,
            credentials: file.credentials,
        })
    }

    pub(crate) fn allows(&self, methods: &[&str], url: &Url) -> bool {
        url.scheme() == self.scheme
            && url.port_or_known_default() == Some(self.port)
            && methods.iter().all(|method| self.methods.contains(*method))
            && self.allows_host(url)
            && self.allows_path(url.path())
    }

    fn allows_host(&self, url: &Url) -> bool {
        match (&self.host, url.host()) {
            (HostRule::Exact(allowed), Some(host)) => *allowed == host.to_owned(),
            (HostRule::OneLabelUnder(parent), Some(Host::Domain(host))) => host
                .strip_suffix(parent.as_str())
                .and_then(|front| front.strip_suffix('.'))
                .is_some_and(|label| !label.is_empty() && !label.contains('.')),
            _ => false,
        }
    }

    fn allows_path(&self, path: &str) -> bool {
        // A rule for all paths needs no check: there is no prefix that a path could escape from.
        if self.path == "/" {
            return true;
        }
        if !plain_path::is_plain(path) {
            return false;
        }
        match path.strip_prefix(self.path.as_str()) {
            Some(rest) => rest.is_empty() || self.path.ends_with('/') || rest.starts_with('/'),
            None => false,
        }
    }

    /// Whether this credential may be sent with the requests that the rule allows.
    #[must_use]
    pub(crate) fn allows_credential(&self, credential: &str) -> bool {
        self.credentials.contains(credential)
    }

    /// The credentials that may be sent.
    pub(crate) fn credentials(&self) -> impl Iterator<Item = &str> {
        self.credentials.iter().map(String::as_str)
    }

    /// Whether the rule names a network that contains this address.
    #[must_use]
    pub(crate) fn networks_contain(&self, address: std::net::IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}
