//! A channel: where a provider's webhook is sent, and the plugins that speak the provider's language.
//! Facts only.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{AgentId, ChannelId, Name, ParseIdError, PluginName, TenantId};
use crate::secrets::{SecretBinding, WrittenBinding};

/// The word that switches verification off.
const OFF: &str = "none";

/// A channel as its owner describes it: what a channel file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChannelDefinition {
    /// What people call it; unique within its tenant.
    pub name: Name,
    /// The agent that runs, by name or id.
    pub agent: String,
    /// The plugin that says whether a request is to be trusted. `none` switches that off: then whoever
    /// knows the URL can trigger the agent. It has no default, so that nobody forgets it.
    #[schema(value_type = String)]
    pub verifier: Verification,
    /// The plugin that maps requests. None: that of the agent; where it has none either, the payload is
    /// the text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapper: Option<PluginName>,
    /// The plugin that writes answers. None: they are JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replier: Option<PluginName>,
    /// When and how the caller is answered.
    #[serde(default)]
    pub answer: ChannelAnswer,
    /// Whose conversations its requests continue.
    #[serde(default, skip_serializing_if = "ChannelThreads::is_default")]
    pub threads: ChannelThreads,
    /// Whether it takes requests.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// What its plugins read as settings; they come before those of the plugins' grants.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// What its plugins call a secret, and which secret of the tenant it is: its name, or a table with its
    /// form (`prefix`, `encoding`) and what the plugins may do with it (`use`: `verify` and `compare` where
    /// nothing is said, `sign`). Credentials for outgoing requests are an operator's to grant.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, WrittenBinding>)]
    pub secrets: BTreeMap<String, SecretBinding>,
}

fn yes() -> bool {
    true
}

/// Who says whether a request is to be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// This plugin.
    By(PluginName),
    /// Nobody.
    Off,
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::By(plugin) => plugin.fmt(f),
            Self::Off => f.write_str(OFF),
        }
    }
}

impl FromStr for Verification {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == OFF { Ok(Self::Off) } else { text.parse().map(Self::By) }
    }
}

impl Serialize for Verification {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Verification {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// When and how a caller is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChannelAnswer {
    /// At once; the answer of the run is for whoever looks the task up.
    #[default]
    Acknowledge,
    /// When the run has ended, with its answer.
    Wait,
    /// At once; the replier delivers the answer of the run when that has ended.
    Deliver,
}

/// Whose conversations the requests of a channel continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChannelThreads {
    /// The channel's own. The same name elsewhere is another conversation.
    #[default]
    Own,
    /// Those of the tenant's API with this agent, by name: whoever sends through the channel can join them,
    /// and has the agent tell what was said there.
    Shared,
}

impl ChannelThreads {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A channel as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Channel {
    /// Its id; stands in its URL.
    pub id: ChannelId,
    /// Whose it is.
    pub tenant: TenantId,
    /// The agent that runs.
    pub agent: AgentId,
    /// How it is described.
    pub definition: ChannelDefinition,
    /// Grows with each change of the description; 1 at first.
    pub version: u32,
    /// When it was first stored.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verification_cannot_be_forgotten() {
        let file = |line: &str| format!("name = \"a\"\nagent = \"b\"\n{line}\n");
        let read = |line: &str| toml::from_str::<ChannelDefinition>(&file(line));
        assert_eq!(read("verifier = \"none\"").unwrap().verifier, Verification::Off);
        let by = Verification::By("github".parse().unwrap());
        let channel = read("verifier = \"github\"").unwrap();
        assert_eq!((&channel.verifier, channel.answer), (&by, ChannelAnswer::Acknowledge));
        for wrong in ["", "verifier = \"\"", "verifier = \"None\"", "verifier = false"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(read("verifier = \"none\"\nverify = true").is_err(), "unknown fields are mistakes");
    }

    #[test]
    fn a_channel_shares_conversations_only_where_its_file_says_so() {
        let read = |line: &str| {
            let file = format!("name = \"a\"\nagent = \"b\"\nverifier = \"none\"\n{line}\n");
            toml::from_str::<ChannelDefinition>(&file).map(|channel| channel.threads)
        };
        assert_eq!(read("").unwrap(), ChannelThreads::Own);
        assert_eq!(read("threads = \"own\"").unwrap(), ChannelThreads::Own);
        assert_eq!(read("threads = \"shared\"").unwrap(), ChannelThreads::Shared);
        for wrong in ["threads = \"all\"", "threads = true", "threads = \"\""] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
