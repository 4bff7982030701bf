//! What a tenant owns: keys, agents, webhooks, plugins. Facts only.

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{AgentId, PluginDigest, PluginName, TenantId};

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// Its id; `organization_id` on the wire.
    pub id: TenantId,
    /// What people call it; unique.
    pub name: String,
}

/// What a key lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyHolder {
    /// Call the agents of one tenant and read its tasks.
    Tenant(TenantId),
    /// Operate the gateway.
    Operator,
}

/// An agent as its owner describes it: what an agent file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentDefinition {
    /// What people call it.
    pub name: String,
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
    /// When it was first stored.
    pub created_at: Timestamp,
}

/// A plugin that a tenant has installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledPlugin {
    /// Its name within the tenant.
    pub name: PluginName,
    /// Which component it is.
    pub digest: PluginDigest,
    /// When it was installed, or last replaced.
    pub installed_at: Timestamp,
}
