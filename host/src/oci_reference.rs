//! References to artefacts in OCI registries: `host[:port]/repository[:tag][@digest]`. The grammar is that of the OCI
//! distribution specification (section "Pulling manifests"), so that no part of a reference can escape its place in a
//! URL.

use std::fmt;
use std::str::FromStr;

use crate::ids::PluginDigest;

/// Maximum length of host and repository together, as registries limit it (OCI distribution specification).
const NAME_BYTES_MAX: usize = 255;

/// Maximum length of a tag (OCI distribution specification).
const TAG_BYTES_MAX: usize = 128;

/// Why a text is not a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a reference of the form host/repository[:tag][@sha256:digest]: {0}")]
pub struct ParseReferenceError(&'static str);

/// A reference to an artefact in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OciReference {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<PluginDigest>,
}

impl OciReference {
    /// The registry's host, with the port if the reference has one.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository within the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag. `latest` if the reference has neither tag nor digest, as in all clients.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match (&self.tag, self.digest) {
            (None, None) => Some("latest"),
            (tag, _) => tag.as_deref(),
        }
    }

    /// The digest of the artefact's manifest, if the reference has one.
    #[must_use]
    pub fn digest(&self) -> Option<PluginDigest> {
        self.digest
    }

    /// The same reference, pinned to the digest of a manifest.
    #[must_use]
    pub fn pinned(&self, digest: PluginDigest) -> Self {
        let tag = self.tag().map(str::to_owned);
        Self { tag, digest: Some(digest), ..self.clone() }
    }
}

impl fmt::Display for OciReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        match self.digest {
            Some(digest) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl FromStr for OciReference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (text, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let wrong = |_| ParseReferenceError("the digest is not sha256: and 64 hex digits");
                (rest, Some(digest.parse().map_err(wrong)?))
            }
            None => (text, None),
        };
        let Some((host, path)) = text.split_once('/') else {
            return Err(ParseReferenceError("the repository is missing"));
        };
        let (repository, tag) = match path.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (path, None),
        };
        if !is_host(host) {
            return Err(ParseReferenceError("it does not begin with a registry's host"));
        }
        if !repository.split('/').all(is_component) {
            return Err(ParseReferenceError(
                "the repository is not of lower-case letters, digits and single separators",
            ));
        }
        if host.len() + 1 + repository.len() > NAME_BYTES_MAX {
            return Err(ParseReferenceError("it is longer than 255 characters"));
        }
        if !tag.is_none_or(is_tag) {
            return Err(ParseReferenceError("the tag is not of letters, digits, `_`, `.` and `-`"));
        }
        let (host, repository) = (host.to_owned(), repository.to_owned());
        Ok(Self { host, repository, tag: tag.map(str::to_owned), digest })
    }
}

/// Whether the text is a name or an address, with an optional port. A single label without a port is not a host,
/// except `localhost`: otherwise, `library/thing` would be on a registry named `library`.
fn is_host(host: &str) -> bool {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_address = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'))
        .is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    let is_label = |label: &str| {
        let within = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        !label.is_empty()
            && label.bytes().all(within)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_name = name.split('.').all(is_label)
        && (name.contains('.') || name == "localhost" || port.is_some());
    port.is_none_or(is_port) && (is_address || is_name)
}

/// Whether the text matches `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut separator = String::new();
    let ends = |text: &str| text.bytes().next().is_some_and(is_word);
    if !ends(text) || !text.bytes().last().is_some_and(is_word) {
        return false;
    }
    for c in text.chars() {
        if c.is_ascii() && is_word(c as u8) {
            let fits = matches!(separator.as_str(), "" | "." | "_" | "__")
                || separator.bytes().all(|b| b == b'-');
            if !fits {
                return false;
            }
            separator.clear();
        } else {
            separator.push(c);
        }
    }
    true
}

/// Whether the text matches `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.bytes().next().is_some_and(is_word)
        && text.len() <= TAG_BYTES_MAX
        && text.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn what_is_written_is_what_is_printed() {
        for (text, tag) in [
            ("ghcr.io/acme/mapper", Some("latest")),
            ("ghcr.io/acme/mapper:1.2.0", Some("1.2.0")),
            ("localhost:5000/a", Some("latest")),
            ("localhost/a/b/c__d.e---f", Some("latest")),
            ("registry:5000/a", Some("latest")),
            ("[::1]:5000/a:x", Some("x")),
            (&format!("127.0.0.1:5000/a@{DIGEST}"), None),
            (&format!("ghcr.io/a:1@{DIGEST}"), Some("1")),
        ] {
            let reference: OciReference = text.parse().unwrap();
            assert_eq!((reference.to_string().as_str(), reference.tag()), (text, tag));
        }
    }

    #[test]
    fn what_could_leave_its_place_is_refused() {
        let long = format!("ghcr.io/{}", "a".repeat(250));
        for text in [
            "",
            "ghcr.io",
            "ghcr.io/",
            "/a",
            "library/thing",
            "ghcr.io/../admin",
            "ghcr.io/a/..",
            "ghcr.io/a//b",
            "ghcr.io/a/./b",
            "ghcr.io/A",
            "ghcr.io/a%2f..",
            "ghcr.io/a?x=1",
            "ghcr.io/a#b",
            "ghcr.io/a b",
            "ghcr.io/a:",
            "ghcr.io/a:-x",
            "ghcr.io/a:..",
            "ghcr.io/a:x/y",
            "ghcr.io/a@sha256:12",
            "ghcr.io/a@sha512:12",
            "user@ghcr.io/a",
            "user:pass@ghcr.io/a",
            "https://ghcr.io/a",
            "ghcr.io:0/a",
            "ghcr.io:99999/a",
            "ghcr.io:/a",
            "[::1/a",
            "-a.io/a",
            "a_b.io/a",
            "ghcr.io/é",
            "ghcr.io/a._b",
            "ghcr.io/a\n",
            long.as_str(),
        ] {
            assert!(text.parse::<OciReference>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_pinned_reference_names_what_it_was_resolved_from() {
        let latest: OciReference = "ghcr.io/a".parse().unwrap();
        let pinned = latest.pinned(DIGEST.parse().unwrap());
        assert_eq!(pinned.to_string(), format!("ghcr.io/a:latest@{DIGEST}"));
    }
}
