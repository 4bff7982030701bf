//! A channel: the endpoint of a provider's webhook, and the plugins that implement the provider's protocol. Data
//! types only.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{AgentId, ChannelId, Name, ParseIdError, PluginName, TenantId};
use crate::secrets::{SecretBinding, WrittenBinding};

/// The value that turns verification off.
const OFF: &str = "none";

/// A channel as its owner defines it: the content of a channel file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChannelDefinition {
    /// The display name; unique within the tenant.
    pub name: Name,
    /// The agent to run, by name or id.
    pub agent: String,
    /// The plugin that verifies requests. `none` turns verification off: then anyone who knows the URL can trigger
    /// the agent. There is no default, so that it is a deliberate choice.
    #[schema(value_type = String)]
    pub verifier: Verification,
    /// The plugin that maps requests. By default, the agent's mapper; if there is none either, the payload is the
    /// text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapper: Option<PluginName>,
    /// The plugin that writes responses. Without one, they are JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replier: Option<PluginName>,
    /// When and how the caller gets the answer.
    #[serde(default)]
    pub answer: ChannelAnswer,
    /// Which conversations its requests continue.
    #[serde(default, skip_serializing_if = "ChannelThreads::is_default")]
    pub threads: ChannelThreads,
    /// Whether it accepts requests.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The settings of its plugins. They take precedence over those in the plugins' grants.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// The secrets of its plugins: the plugin's name for a secret, and the tenant's secret to use. Either a name, or
    /// a table with the secret's form (`prefix`, `encoding`) and what the plugins may do with it (`use`: `verify`,
    /// `compare` and `sign`; by default `verify` and `compare`). Only an operator can grant credentials for outgoing
    /// requests.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, WrittenBinding>)]
    pub secrets: BTreeMap<String, SecretBinding>,
}

fn yes() -> bool {
    true
}

/// How a channel's requests are verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verification {
    /// By this plugin.
    By(PluginName),
    /// Not at all.
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

/// When and how a caller gets the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChannelAnswer {
    /// Respond immediately; the answer of the run can be read from the task.
    #[default]
    Acknowledge,
    /// Respond with the answer when the run has ended.
    Wait,
    /// Respond immediately; the replier delivers the answer when the run has ended.
    Deliver,
}

/// Which conversations the requests of a channel continue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChannelThreads {
    /// The channel's own. The same name elsewhere is another conversation.
    #[default]
    Own,
    /// Those of the tenant's API with this agent, by name. Anyone who sends through the channel can join them and
    /// have the agent repeat what was said there.
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
    /// The id, which is part of its URL.
    pub id: ChannelId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// The agent to run.
    pub agent: AgentId,
    /// Its definition.
    pub definition: ChannelDefinition,
    /// Increases with each change of the definition, from 1.
    pub version: u32,
    /// When it was created.
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
