//! What a plugin may send: its egress rules and credentials.

use std::collections::BTreeMap;

use serde::Deserialize;
use url::Url;

use super::rule::EgressRule;
use crate::ids::SecretName;
use crate::secrets::SecretVersions;

/// How egress is handled that no rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EgressMode {
    /// It is denied.
    #[default]
    Enforce,
    /// It is sent and counted, to find out which rules a plugin needs.
    Count,
}

/// A credential ready to be attached.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    pub(crate) place: CredentialPlace,
    pub(crate) prefix: String,
    /// `None` if the tenant has no such secret.
    pub(crate) value: Option<SecretVersions>,
    /// Whether the secret may be used as a credential.
    pub(crate) may_be_sent: bool,
    pub(crate) secret: SecretName,
}

/// Where a credential goes in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CredentialPlace {
    /// The value of this header.
    Header(http::HeaderName),
    /// The value of this query parameter.
    Query(String),
    /// The path, in place of this text.
    Path(String),
}

/// The rules and credentials of one plugin.
#[derive(Debug, Clone, Default)]
pub(crate) struct EgressPolicy {
    rules: Vec<EgressRule>,
    mode: EgressMode,
    credentials: BTreeMap<String, Credential>,
}

impl EgressPolicy {
    pub(crate) fn new(
        rules: Vec<EgressRule>,
        mode: EgressMode,
        credentials: BTreeMap<String, Credential>,
    ) -> Self {
        Self { rules, mode, credentials }
    }

    /// The rule that allows a request under all of these methods, because a server may use any of them.
    pub(crate) fn rule(&self, methods: &[&str], url: &Url) -> Option<&EgressRule> {
        self.rules.iter().find(|rule| rule.allows(methods, url))
    }

    /// Whether any request could be sent.
    pub(crate) fn may_send(&self) -> bool {
        !self.rules.is_empty() || self.mode == EgressMode::Count
    }

    /// How a request is handled that no rule allows.
    pub(crate) fn mode(&self) -> EgressMode {
        self.mode
    }

    /// The credential with this name.
    pub(crate) fn credential(&self, name: &str) -> Option<&Credential> {
        self.credentials.get(name)
    }
}
