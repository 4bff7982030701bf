//! Which component a grants file is for, and what applies to any other component.
//!
//! A file is found by the plugin's name, and a tenant's admin may install any component under a name. So what the
//! file grants depends on the component, while its restrictions (clocks, randomness, lower limits) apply to every
//! component.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::super::limits::Limits;
use super::{Grants, GrantsError};
use crate::ids::PluginDigest;
use crate::outbound::EgressMode;

/// The component that a grants file is for. By default the file does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pin {
    /// The line `component`.
    pub components: Option<Components>,
    /// The line `signer`: the name of a signer in the gateway's settings, who must have signed the component.
    pub signer: Option<String>,
}

/// The components that the line `component` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Components {
    /// `"any"`: every component under the plugin's name, whoever installed it.
    Any,
    /// The components with these digests.
    Only(BTreeSet<PluginDigest>),
}

/// The line `component` as it is written in the file.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum ComponentLine {
    One(String),
    Several(Vec<String>),
}

impl Pin {
    pub(super) fn parse(
        component: Option<ComponentLine>,
        signer: Option<String>,
    ) -> Result<Self, GrantsError> {
        if signer.as_deref() == Some("") {
            return Err(GrantsError("signer is empty".to_owned()));
        }
        let components = match component {
            None => None,
            Some(ComponentLine::One(any)) if any == "any" => Some(Components::Any),
            Some(ComponentLine::One(digest)) => Some(only(&[digest])?),
            Some(ComponentLine::Several(digests)) => Some(only(&digests)?),
        };
        Ok(Self { components, signer })
    }

    /// Whether the file does not say which component it is for.
    #[must_use]
    pub fn is_unset(&self) -> bool {
        self.components.is_none() && self.signer.is_none()
    }
}

fn only(digests: &[String]) -> Result<Components, GrantsError> {
    if digests.is_empty() {
        return Err(GrantsError("component names no component".to_owned()));
    }
    let parsed = digests.iter().map(|digest| {
        digest.parse().map_err(|_| {
            let what = "is neither \"any\" nor a digest as `plugin versions` prints it, sha256:…";
            GrantsError(format!("component {digest:?} {what}"))
        })
    });
    Ok(Components::Only(parsed.collect::<Result<_, _>>()?))
}

impl Grants {
    /// The component that the file is for.
    #[must_use]
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// What the file grants beyond what a plugin without a file has: its tables, with the names that the plugin uses.
    /// Empty if it grants nothing.
    #[must_use]
    pub fn granted_tables(&self) -> Vec<String> {
        let named = |table: &str, names: Vec<&str>| {
            (!names.is_empty()).then(|| format!("{table} {}", names.join(", ")))
        };
        let default = Limits::default();
        let rules = self.egress.len();
        [
            (rules > 0).then(|| format!("[[egress]] ({rules})")),
            (self.egress_mode == EgressMode::Count).then(|| "egress-mode".to_owned()),
            self.publish_tools.then(|| "publish-tools".to_owned()),
            named("[credentials]", self.credentials.keys().map(String::as_str).collect()),
            named("[secrets]", self.secrets.keys().map(String::as_str).collect()),
            named("[settings]", self.settings.keys().map(String::as_str).collect()),
            self.values_bytes.map(|_| "[key-value]".to_owned()),
            self.folder.as_ref().map(|_| "[folder]".to_owned()),
            (self.limits.min(&default) != self.limits).then(|| "[limits]".to_owned()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What is left of the file for a component that it is not for. `why` is the reason, as a sentence.
    #[must_use]
    pub fn deactivated(self, why: String) -> Self {
        Self {
            clocks: self.clocks,
            random: self.random,
            limits: self.limits.min(&Limits::default()),
            pin: self.pin,
            inactive_reason: Some(why),
            ..Self::default()
        }
    }

    /// Why the file's grants are not in force. `None` if they are.
    #[must_use]
    pub fn inactive_reason(&self) -> Option<&str> {
        self.inactive_reason.as_deref()
    }
}
