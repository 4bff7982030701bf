//! What a plugin may do: asked for by the component's imports **and** allowed by the operator's file.
//!
//! ```toml
//! # grants/<tenant>/<plugin>.toml
//! [[egress]]                  # without a rule nothing is sent; each rule allows what matches all of it
//! host = "api.example.com"    # exact, or "*.example.com" for exactly one more label
//! scheme = "https"            # the default
//! port = 443                  # the scheme's own by default
//! methods = ["GET"]           # the default
//! path = "/v1/"               # this path and what lies below it; "/" by default
//! networks = ["10.1.0.0/16"]  # addresses that are not public need to be named; none by default
//!
//! [settings]                  # what the plugin reads through wasi:config
//! greeting = "hello"
//!
//! [limits]                    # only what differs from the default
//! memory_mib = 16
//! ```

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::Deserialize;
use url::{Host, Url};

use super::limits::{Limits, LimitsFile};

/// Why a grants file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the grants file is not valid: {0}")]
pub struct GrantsError(String);

/// What an operator allows one plugin of one tenant.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    egress: Vec<EgressRule>,
    settings: BTreeMap<String, String>,
    limits: Limits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantsFile {
    #[serde(default)]
    egress: Vec<EgressRuleFile>,
    #[serde(default)]
    settings: BTreeMap<String, String>,
    #[serde(default)]
    limits: LimitsFile,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EgressRuleFile {
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

impl Grants {
    /// Reads a grants file.
    ///
    /// # Errors
    /// [`GrantsError`] naming what is wrong; an unknown key is wrong too, since a misspelt limit would
    /// otherwise be no limit.
    pub fn parse(toml: &str) -> Result<Self, GrantsError> {
        let file: GrantsFile =
            toml::from_str(toml).map_err(|error| GrantsError(error.to_string()))?;
        let egress = file.egress.into_iter().map(EgressRule::parse).collect::<Result<_, _>>()?;
        Ok(Self { egress, settings: file.settings, limits: file.limits.resolve() })
    }
}

/// What a component asks for, read from its imports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Asked {
    /// It imports `wardgate:plugin/egress`.
    pub egress: bool,
    /// It imports `wasi:config/store`.
    pub settings: bool,
}

/// What a plugin may do. Made here only, so that nothing reaches an instance that was not both asked
/// for and allowed.
#[derive(Debug, Clone, Default)]
pub(super) struct Granted {
    egress: Vec<EgressRule>,
    settings: BTreeMap<String, String>,
    limits: Limits,
}

impl Granted {
    /// The common part of both.
    #[must_use]
    pub(super) fn resolve(asked: Asked, allowed: Grants) -> Self {
        Self {
            egress: if asked.egress { allowed.egress } else { Vec::new() },
            settings: if asked.settings { allowed.settings } else { BTreeMap::new() },
            limits: allowed.limits,
        }
    }

    /// The rule that allows this request, if one does.
    #[must_use]
    pub(super) fn egress_rule(&self, method: &str, url: &Url) -> Option<&EgressRule> {
        self.egress.iter().find(|rule| rule.allows(method, url))
    }

    /// The plugin's settings.
    #[must_use]
    pub(super) fn settings(&self) -> &BTreeMap<String, String> {
        &self.settings
    }

    /// The plugin's limits.
    #[must_use]
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// One allowed direction of egress.
#[derive(Debug, Clone)]
pub(super) struct EgressRule {
    scheme: String,
    host: HostRule,
    port: u16,
    methods: BTreeSet<String>,
    path: String,
    networks: Vec<IpNet>,
}

#[derive(Debug, Clone)]
enum HostRule {
    Exact(Host<String>),
    /// Exactly one more label in front of this.
    OneLabelUnder(String),
}

impl EgressRule {
    fn parse(file: EgressRuleFile) -> Result<Self, GrantsError> {
        let wrong = |what: String| GrantsError(what);
        let default_port = match file.scheme.as_str() {
            "https" => 443,
            "http" => 80,
            other => return Err(wrong(format!("egress scheme {other:?} is not http or https"))),
        };
        let host = match file.host.strip_prefix("*.") {
            // A bare `*` or `*.com` would allow everybody; the parent needs a dot of its own.
            Some(parent) if parent.contains('.') && !parent.contains('*') => {
                HostRule::OneLabelUnder(parent.to_ascii_lowercase())
            }
            None if !file.host.contains('*') => {
                HostRule::Exact(Host::parse(&file.host).map_err(|error| {
                    let host = &file.host;
                    wrong(format!("egress host {host:?} is no host name or address: {error}"))
                })?)
            }
            _ => return Err(wrong(format!("egress host {:?} allows too much", file.host))),
        };
        if !file.path.starts_with('/') {
            return Err(wrong(format!("egress path {:?} does not begin with /", file.path)));
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
        })
    }

    fn allows(&self, method: &str, url: &Url) -> bool {
        url.scheme() == self.scheme
            && url.port_or_known_default() == Some(self.port)
            && self.methods.contains(method)
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
        if self.path == "/" {
            return true;
        }
        // The URL parser has resolved plain dot segments. Encoded slashes, backslashes and dots are
        // resolved by some servers only after our check, so below a path they are refused.
        let lower = path.to_ascii_lowercase();
        if ["%2f", "%5c", "%2e", "\\"].iter().any(|trick| lower.contains(trick)) {
            return false;
        }
        match path.strip_prefix(self.path.as_str()) {
            Some(rest) => rest.is_empty() || self.path.ends_with('/') || rest.starts_with('/'),
            None => false,
        }
    }

    /// Whether the operator named a network that holds this address.
    #[must_use]
    pub(super) fn names_network_of(&self, address: std::net::IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(rule: &str, method: &str, url: &str) -> bool {
        let grants = Grants::parse(&format!("[[egress]]\n{rule}")).unwrap();
        let asked = Asked { egress: true, settings: false };
        let url = Url::parse(url).unwrap();
        Granted::resolve(asked, grants).egress_rule(method, &url).is_some()
    }

    #[test]
    fn a_rule_allows_what_matches_all_of_it() {
        let rule = r#"host = "api.example.com"
            path = "/v1""#;
        for url in ["https://api.example.com/v1", "https://API.example.com:443/v1/x?y=z"] {
            assert!(allows(rule, "GET", url), "{url}");
        }
        for url in [
            "http://api.example.com/v1",
            "https://api.example.com:8443/v1",
            "https://api.example.com.evil.net/v1",
            "https://evil.net/api.example.com/v1",
            "https://api.example.com/v10",
            "https://api.example.com/v1/../admin",
            "https://api.example.com/v1/%2e%2e/admin",
            "https://api.example.com/v1/..%2fadmin",
            "https://api.example.com@evil.net/v1",
        ] {
            assert!(!allows(rule, "GET", url), "{url}");
        }
        assert!(!allows(rule, "POST", "https://api.example.com/v1"));
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        let rule = r#"host = "*.example.com""#;
        assert!(allows(rule, "GET", "https://a.example.com/"));
        for host in ["example.com", "a.b.example.com", "aexample.com", "a.example.com.net"] {
            assert!(!allows(rule, "GET", &format!("https://{host}/")), "{host}");
        }
    }

    #[test]
    fn a_file_that_allows_too_much_or_says_nonsense_is_refused() {
        for file in [
            "[[egress]]\nhost = \"*\"",
            "[[egress]]\nhost = \"*.com\"",
            "[[egress]]\nhost = \"a.com\"\nscheme = \"ftp\"",
            "[[egress]]\nhost = \"a.com\"\npath = \"v1\"",
            "[[egress]]\nhost = \"a.com\"\nmethods = [\"get\"]",
            "[[egress]]\nhost = \"a.com\"\nnetworks = [\"everywhere\"]",
            "[limits]\nmemory_mb = 5",
            "egres = 1",
        ] {
            assert!(Grants::parse(file).is_err(), "{file}");
        }
    }

    #[test]
    fn what_was_not_asked_for_is_not_granted() {
        let file = "[[egress]]\nhost = \"a.com\"\n[settings]\nk = \"v\"";
        let granted = Granted::resolve(Asked::default(), Grants::parse(file).unwrap());
        assert!(granted.settings().is_empty());
        assert!(granted.egress_rule("GET", &Url::parse("https://a.com/").unwrap()).is_none());
    }
}
