//! What a tenant owns: keys, agents, webhooks, plugins. Facts only.

mod channel;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use channel::{Channel, ChannelAnswer, ChannelDefinition, ChannelThreads, Verification};

use crate::clock::Timestamp;
use crate::ids::{AgentId, KeyId, Name, PluginDigest, PluginName, TenantId};
use crate::oci_reference::{OciReference, ParseReferenceError};
use crate::secrets::SecretHash;

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id; `organization_id` on the wire.
    pub id: TenantId,
    /// What people call it; unique.
    pub name: Name,
    /// When it was first stored.
    pub created_at: Timestamp,
}

/// What a key lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyHolder {
    /// Call the agents of one tenant and read its tasks.
    Tenant(TenantId),
    /// The same, and manage what the tenant owns: agents, keys, webhooks, plugins.
    Admin(TenantId),
    /// Operate the gateway.
    Operator,
}

impl KeyHolder {
    /// The tenant, where it is one's.
    #[must_use]
    pub fn tenant(self) -> Option<TenantId> {
        match self {
            Self::Tenant(tenant) | Self::Admin(tenant) => Some(tenant),
            Self::Operator => None,
        }
    }
}

/// A key that is neither revoked nor, when it was looked up, expired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidKey {
    /// What it lets its holder do.
    pub holder: KeyHolder,
    /// From when on it is no key any more.
    pub expires_at: Option<Timestamp>,
}

/// A key about to be stored.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// What it is listed and revoked by.
    pub id: KeyId,
    /// What is stored of the key itself.
    pub hash: SecretHash,
    /// What it lets its holder do.
    pub holder: KeyHolder,
    /// What it is for.
    pub name: String,
    /// When it ends by itself.
    pub expires_at: Option<Timestamp>,
}

/// A key as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// See [`NewKey`].
    pub id: KeyId,
    /// See [`NewKey`].
    pub holder: KeyHolder,
    /// See [`NewKey`].
    pub name: String,
    /// When it was stored.
    pub created_at: Timestamp,
    /// See [`NewKey`].
    pub expires_at: Option<Timestamp>,
    /// When it was ended by hand.
    pub revoked_at: Option<Timestamp>,
}

/// An agent's own webhook. Its token is derived from the generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Webhook {
    /// Grows with each new token.
    pub generation: u32,
    /// Whether its token is no longer found.
    pub revoked: bool,
}

/// An agent as its owner describes it: what an agent file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentDefinition {
    /// What people call it; unique within its tenant.
    pub name: Name,
    /// What it is for, in a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The system prompt.
    #[serde(default)]
    pub instructions: String,
    /// A model of the settings; `offline` needs no key.
    #[serde(default = "offline")]
    pub model: String,
    /// Plugins whose tools it may call.
    #[serde(default)]
    pub tools: Vec<PluginName>,
    /// The plugin that maps its payloads. None: `dot-mapper`, where a caller sends `params_mapping`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapper: Option<PluginName>,
    /// The plugin that answers `getter`. None: `dot-getter`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub getter: Option<PluginName>,
    /// Whether its webhook runs may call tools that change things (annotation `destructiveHint`, which
    /// a tool without annotations counts as having). Off: a payload from outside cannot make them.
    #[serde(default)]
    pub allow_destructive_tools: bool,
    /// Most model turns of one run. None: the settings' limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns_max: Option<u32>,
}

fn offline() -> String {
    "offline".to_owned()
}

/// An agent as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Whose it is.
    pub tenant: TenantId,
    /// How it is described.
    pub definition: AgentDefinition,
    /// Grows with each change of the description; 1 at first.
    pub version: u32,
    /// Whether it takes new tasks.
    pub enabled: bool,
    /// When it was first stored.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// What has to be so for an agent to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// Nothing: the description of now is replaced, whatever it is.
    None,
    /// There is no agent of this id yet.
    Absent,
    /// The agent of now has this version: nobody else has changed it since.
    Version(u32),
}

/// Where a component came from, as whoever installed it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    /// A file of his.
    File,
    /// A registry; the reference names the manifest's digest.
    Registry(OciReference),
}

/// Why a text is no [`Provenance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseProvenanceError {
    /// It is neither `file` nor a reference.
    #[error(transparent)]
    Reference(#[from] ParseReferenceError),
    /// A tag alone may mean something else tomorrow.
    #[error("a reference without @sha256:… says not what was installed")]
    NotPinned,
}

impl fmt::Display for Provenance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File => f.write_str("file"),
            Self::Registry(reference) => reference.fmt(f),
        }
    }
}

impl FromStr for Provenance {
    type Err = ParseProvenanceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "file" {
            return Ok(Self::File);
        }
        let reference: OciReference = text.parse()?;
        match reference.digest() {
            Some(_) => Ok(Self::Registry(reference)),
            None => Err(ParseProvenanceError::NotPinned),
        }
    }
}

/// The kind of key with which something was installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installer {
    /// An operator's.
    Operator,
    /// A tenant's admin's.
    Admin,
}

impl Installer {
    /// As it is stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// A signature that was found good when the component was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    /// What the settings called the key.
    pub signer: String,
    /// The public key, as the settings had it.
    pub key: String,
    /// What was signed together with the component.
    pub trusted_comment: String,
}

/// A version of a plugin that a tenant has installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledPlugin {
    /// Its name within the tenant.
    pub name: PluginName,
    /// Which component it is.
    pub digest: PluginDigest,
    /// When it was installed last.
    pub installed_at: Timestamp,
    /// By whom. None: by a gateway that did not write it down yet.
    pub installed_by: Option<Installer>,
    /// Where it came from.
    pub provenance: Provenance,
    /// What its maker calls this version.
    pub version: Option<String>,
    /// Who signed it.
    pub signed: Option<Signed>,
}

/// A version among the others of its plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginVersion {
    /// The version itself.
    pub plugin: InstalledPlugin,
    /// Whether it is the one that is called.
    pub is_current: bool,
    /// Whether rolling back passes over it: it was rolled back from, and another one installed since.
    pub is_skipped: bool,
}
