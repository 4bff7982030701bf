//! The resources of a tenant: keys, agents, webhooks and plugins. Data types only.

mod channel;
mod mcp_server;
mod model;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use channel::{Channel, ChannelAnswer, ChannelDefinition, ChannelThreads, Verification};
pub use mcp_server::{AgentMcpServer, McpAuth, McpServerDefinition, OauthClient, TenantMcpServer};
pub use model::{ModelDefinition, TenantModel};

use crate::clock::Timestamp;
use crate::ids::{AgentId, KeyId, Name, PluginDigest, PluginName, TenantId};
use crate::oci_reference::{OciReference, ParseReferenceError};
use crate::secrets::SecretHash;

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The id; `organization_id` on the wire.
    pub id: TenantId,
    /// The display name; unique.
    pub name: Name,
    /// When it was created.
    pub created_at: Timestamp,
}

/// What a key allows its holder to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyHolder {
    /// Call the agents of one tenant and read its tasks.
    Tenant(TenantId),
    /// The same, and manage the tenant's resources: agents, keys, webhooks, plugins.
    Admin(TenantId),
    /// Operate the gateway.
    Operator,
}

impl KeyHolder {
    /// The tenant, if the key belongs to one.
    #[must_use]
    pub fn tenant(self) -> Option<TenantId> {
        match self {
            Self::Tenant(tenant) | Self::Admin(tenant) => Some(tenant),
            Self::Operator => None,
        }
    }
}

/// A key that was neither revoked nor expired when it was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidKey {
    /// What it allows its holder to do.
    pub holder: KeyHolder,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
}

/// A key about to be stored.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The id by which it is listed and revoked.
    pub id: KeyId,
    /// The hash that is stored in place of the key.
    pub hash: SecretHash,
    /// What it allows its holder to do.
    pub holder: KeyHolder,
    /// What it is for.
    pub name: String,
    /// When it expires, if it does.
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
    /// When it was created.
    pub created_at: Timestamp,
    /// See [`NewKey`].
    pub expires_at: Option<Timestamp>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<Timestamp>,
}

/// An agent's own webhook. Its token is derived from the generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Webhook {
    /// Increases with each new token.
    pub generation: u32,
    /// Whether its token has been revoked.
    pub revoked: bool,
}

/// An agent as its owner defines it: the content of an agent file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentDefinition {
    /// The display name; unique within the tenant.
    pub name: Name,
    /// What it is for, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The system prompt.
    #[serde(default)]
    pub instructions: String,
    /// A model of the gateway's settings; `offline` needs no key.
    #[serde(default = "offline")]
    pub model: String,
    /// The plugins whose tools it may call.
    #[serde(default)]
    pub tools: Vec<PluginName>,
    /// The tenant's MCP servers whose tools it may call.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mcp_servers: Vec<AgentMcpServer>,
    /// The plugin that maps its payloads. Without one, `dot-mapper` is used if a caller sends `params_mapping`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapper: Option<PluginName>,
    /// The plugin that evaluates `getter`. `dot-getter` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub getter: Option<PluginName>,
    /// Whether its webhook runs may call tools that change data (annotation `destructiveHint`; a tool without
    /// annotations counts as having it). If false, a payload from outside cannot trigger such calls.
    #[serde(default)]
    pub allow_destructive_tools: bool,
    /// The maximum number of model turns of one run. By default, the limit of the gateway's settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turns_max: Option<u32>,
    /// What happens if the gateway stops while a tool runs that may change things, so that nobody knows whether it has.
    #[serde(default, skip_serializing_if = "OnUnknown::is_default")]
    pub on_unknown: OnUnknown,
    /// Which of its tools it may call in runs, by the name that the model sees. For all others, `allow_destructive_tools`
    /// decides: those of MCP servers count as changing data, whatever their servers say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tool_policies: BTreeMap<String, ToolPolicy>,
    /// How long a run waits for a person's decision, and what happens then.
    #[serde(default, skip_serializing_if = "ApprovalRules::is_default")]
    pub approvals: ApprovalRules,
    /// Arguments of tools that get the idempotency key of the call, by the tool's name. The model does not see them, and a
    /// call whose outcome is unknown is made again, with the same key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub idempotency_arguments: BTreeMap<String, String>,
    /// Whether the model is shown the images of a payload (`data:` URLs of PNG, JPEG, GIF or WebP) as images. If false,
    /// they are part of the payload's text. For models that take images.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub show_images: bool,
    /// The form of its answers: a JSON Schema (2020-12). Answers are then JSON that fits it, or the run fails.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub output_schema: Option<serde_json::Value>,
    /// What its runs may spend.
    #[serde(default, skip_serializing_if = "Budget::is_unlimited")]
    pub budget: Budget,
}

/// What the runs of an agent may spend. The gateway's settings limit it further. A run that reaches a limit fails, and
/// its steps until then are recorded.
///
/// Tokens are input tokens that no cache of the provider held, and output tokens. Money is in millionths of the
/// currency that the operator's prices are in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// The tool calls of one run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls_max: Option<u32>,
    /// The time of one run in seconds, without the time between its attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds_max: Option<u64>,
    /// The tokens of one run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_max: Option<u64>,
    /// The money of one run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_micros_max: Option<u64>,
    /// The tokens of all runs of one day (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_day_max: Option<u64>,
    /// The money of all runs of one day (UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_micros_per_day_max: Option<u64>,
}

impl Budget {
    fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// The name of a limit that is 0, with which no run could do anything.
    #[must_use]
    pub fn zero(&self) -> Option<&'static str> {
        let limits = [
            ("seconds_max", self.seconds_max),
            ("tokens_max", self.tokens_max),
            ("cost_micros_max", self.cost_micros_max),
            ("tokens_per_day_max", self.tokens_per_day_max),
            ("cost_micros_per_day_max", self.cost_micros_per_day_max),
        ];
        limits.into_iter().find(|(_, limit)| *limit == Some(0)).map(|(name, _)| name)
    }
}

/// What a run does about a tool call whose outcome is unknown. The call is made again only if a person says so.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// The model is told, and decides what to do.
    #[default]
    TellModel,
    /// The run fails.
    Fail,
    /// The task is paused until a person decides whether the call is made again.
    Pause,
}

impl OnUnknown {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Whether a run may call a tool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolPolicy {
    /// Whether it is called.
    pub policy: Policy,
    /// The digest that the tool had when this was decided, as the agent's tools are listed with it. If the tool has
    /// another one, it has changed since and is denied. Required for a tool of an MCP server, which can change at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Whether the tool only reads, and sends nothing to where it should not be known. Overrides its annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_reads: Option<bool>,
    /// Whether a second call with the same arguments changes nothing more. Overrides its annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotent: Option<bool>,
}

impl From<Policy> for ToolPolicy {
    /// The policy for a tool as its annotations describe it.
    fn from(policy: Policy) -> Self {
        Self { policy, digest: None, only_reads: None, idempotent: None }
    }
}

/// Whether a run calls a tool when the model wants it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// It does.
    Allow,
    /// The task is paused until a person approves the call or denies it.
    Ask,
    /// It does not, and the model is told.
    Deny,
}

/// How long a run waits for a person's decision, and what happens then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRules {
    /// The time to decide in seconds, up to 30 days. A day by default.
    #[serde(default = "ApprovalRules::seconds_max")]
    #[schema(minimum = 1, maximum = 2_592_000)]
    pub seconds_max: u32,
    /// What happens without a decision by then.
    #[serde(default)]
    pub on_timeout: OnTimeout,
}

impl ApprovalRules {
    /// The longest time to decide, in seconds.
    pub const SECONDS_MAX: u32 = 30 * 24 * 60 * 60;

    fn seconds_max() -> u32 {
        24 * 60 * 60
    }

    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for ApprovalRules {
    fn default() -> Self {
        Self { seconds_max: Self::seconds_max(), on_timeout: OnTimeout::default() }
    }
}

/// What a run does if a call is not decided in time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnTimeout {
    /// The call is denied, and the model is told.
    #[default]
    Deny,
    /// The run fails.
    Fail,
}

fn offline() -> String {
    "offline".to_owned()
}

/// An agent as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// Its definition.
    pub definition: AgentDefinition,
    /// Increases with each change of the definition, from 1.
    pub version: u32,
    /// Whether it accepts new tasks.
    pub enabled: bool,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// The condition under which an agent is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    /// None: any existing definition is replaced.
    None,
    /// There is no agent with this id yet.
    Absent,
    /// The current agent has this version, so it has not been changed since.
    Version(u32),
}

/// The origin of a component, as stated at its installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Provenance {
    /// A local file of the installer.
    File,
    /// A registry; the reference includes the manifest's digest.
    Registry(OciReference),
}

/// Why a text is not a [`Provenance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseProvenanceError {
    /// It is neither `file` nor a valid reference.
    #[error(transparent)]
    Reference(#[from] ParseReferenceError),
    /// It has no digest, and a tag alone can be moved.
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

/// The kind of key that a plugin was installed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installer {
    /// An operator's key.
    Operator,
    /// The key of a tenant's admin.
    Admin,
}

impl Installer {
    /// The stored and displayed form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// What a tenant's admin or an operator has defined for the tenant under a name, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defined<N, D> {
    /// Its name within the tenant.
    pub name: N,
    /// Its definition.
    pub definition: D,
    /// Who has set it.
    pub set_by: Installer,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// A signature that was verified when the component was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedSignature {
    /// The name of the key in the settings.
    pub signer: String,
    /// The public key, as in the settings.
    pub key: String,
    /// The trusted comment, which is signed together with the component.
    pub trusted_comment: String,
}

/// A version of a plugin that a tenant has installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledPlugin {
    /// Its name within the tenant.
    pub name: PluginName,
    /// The digest of the component.
    pub digest: PluginDigest,
    /// When it was last installed.
    pub installed_at: Timestamp,
    /// Who installed it. `None` if the gateway of that time did not record it.
    pub installed_by: Option<Installer>,
    /// Where it came from.
    pub provenance: Provenance,
    /// The version as its author calls it.
    pub version: Option<String>,
    /// Its signature, if it has one.
    pub signed: Option<VerifiedSignature>,
}

/// An installed version of a plugin, in the context of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginVersion {
    /// The version.
    pub plugin: InstalledPlugin,
    /// Whether it is the version in use.
    pub is_current: bool,
    /// Whether a rollback skips it: it was rolled back from, and another version has been installed since.
    pub is_skipped: bool,
}
