//! What may be sent: the rules and credentials of whoever sends.

use std::collections::BTreeMap;

use serde::Deserialize;
use url::Url;

use super::rule::EgressRule;
use crate::ids::SecretName;
use crate::secrets::SecretVersions;

/// What becomes of egress that no rule allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EgressMode {
    /// It is refused.
    #[default]
    Enforce,
    /// It is sent and counted: for finding out which rules a plugin needs.
    Count,
}

/// A credential ready to be attached.
#[derive(Debug, Clone)]
pub(crate) struct Credential {
    pub(crate) place: CredentialPlace,
    pub(crate) prefix: String,
    /// None where the tenant has no such secret.
    pub(crate) value: Option<SecretVersions>,
    /// Whether the secret may be used as a credential.
    pub(crate) may_be_sent: bool,
    pub(crate) secret: SecretName,
}

/// Where in a request a credential goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CredentialPlace {
    /// As the value of this header.
    Header(http::HeaderName),
    /// As the value of this query parameter.
    Query(String),
    /// In the place of this text in the path.
    Path(String),
}

/// What somebody may send.
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

    /// The rule that allows a request which servers may take for one of any of these methods, if one does.
    pub(crate) fn rule(&self, methods: &[&str], url: &Url) -> Option<&EgressRule> {
        self.rules.iter().find(|rule| rule.allows(methods, url))
    }

    /// Whether there is a request that may be sent.
    pub(crate) fn may_send(&self) -> bool {
        !self.rules.is_empty() || self.mode == EgressMode::Count
    }

    /// What becomes of a request that no rule allows.
    pub(crate) fn mode(&self) -> EgressMode {
        self.mode
    }

    /// The credential of this name.
    pub(crate) fn credential(&self, name: &str) -> Option<&Credential> {
        self.credentials.get(name)
    }
}
