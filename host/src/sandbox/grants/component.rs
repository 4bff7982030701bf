//! Which component a grants file is for, and what is left of the file for any other.
//!
//! A file is found by a plugin's name, and a tenant's admin may put any component under a name. So what it
//! gives depends on the component; what it takes away (clocks, randomness, lower limits) holds for each.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::super::limits::Limits;
use super::{Grants, GrantsError};
use crate::ids::PluginDigest;
use crate::outbound::EgressMode;

/// The component that a grants file says it is for. The default: it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pin {
    /// Its line `component`.
    pub components: Option<Components>,
    /// Its line `signer`: a name of the settings, whose holder has to have signed the component.
    pub signer: Option<String>,
}

/// What the line `component` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Components {
    /// `"any"`: whatever stands under the plugin's name, whoever installed it.
    Any,
    /// Those of these digests.
    Only(BTreeSet<PluginDigest>),
}

/// The line `component` as it is written.
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

    /// Whether the file says nothing of the component that it is for.
    #[must_use]
    pub fn is_silent(&self) -> bool {
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
    /// The component that the file says it is for.
    #[must_use]
    pub fn pin(&self) -> &Pin {
        &self.pin
    }

    /// What the file gives beyond what a plugin without one has: its tables, with the names that the plugin
    /// knows. Empty where it gives nothing.
    #[must_use]
    pub fn given(&self) -> Vec<String> {
        let named = |table: &str, names: Vec<&str>| {
            (!names.is_empty()).then(|| format!("{table} {}", names.join(", ")))
        };
        let default = Limits::default();
        let rules = self.egress.len();
        [
            (rules > 0).then(|| format!("[[egress]] ({rules})")),
            (self.egress_mode == EgressMode::Count).then(|| "egress-mode".to_owned()),
            named("[credentials]", self.credentials.keys().map(String::as_str).collect()),
            named("[secrets]", self.secrets.keys().map(String::as_str).collect()),
            named("[settings]", self.settings.keys().map(String::as_str).collect()),
            self.values_bytes.map(|_| "[key-value]".to_owned()),
            self.folder.as_ref().map(|_| "[folder]".to_owned()),
            (self.limits.at_most(&default) != self.limits).then(|| "[limits]".to_owned()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// What is left for a component that the file is not for, and why it is no more: a sentence.
    #[must_use]
    pub fn withheld(self, why: String) -> Self {
        Self {
            clocks: self.clocks,
            random: self.random,
            limits: self.limits.at_most(&Limits::default()),
            pin: self.pin,
            withheld: Some(why),
            ..Self::default()
        }
    }

    /// Why what the file gives is not in force. None: it is.
    #[must_use]
    pub fn withheld_because(&self) -> Option<&str> {
        self.withheld.as_deref()
    }
}
