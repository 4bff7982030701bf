//! Replays what plugins did for a task (the mapping, each tool call, and the getter) with what the host returned to
//! them then. Nothing is sent, no secret is needed, and the task is not changed.
//!
//! Recordings are gathered where the store is ([`gather`]) and played wherever a component is ([`play`]): the
//! installed one, or one in development.

mod gather;
mod play;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::ids::{AgentId, ChannelId, Name, PluginName, TaskId, TenantId};
use crate::request::stored::StoredHead;
use crate::secrets::SecretBinding;
use crate::tasks::Status;
pub use gather::gather;
pub use play::{ReplayError, ReplayResult, play};

/// What plugins did for a task, and everything they received for it, without secrets.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = TaskRecording)]
pub struct Recorded {
    /// The task.
    pub task: TaskId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// The agent that ran it.
    pub agent: AgentId,
    /// Its status.
    pub status: Status,
    /// When it was accepted.
    #[schema(format = DateTime)]
    pub accepted_at: String,
    /// The request that the task came from. Null if it was not stored.
    pub request: Option<RecordedRequest>,
    /// The channel that the request came in by, as it is now. Null if there was none, or if it was deleted.
    pub channel: Option<RecordedChannel>,
    /// The calls, in order. Those of the getter come last.
    pub calls: Vec<RecordedCall>,
    /// The grants that each of the plugins has now: the text of its grants file, for operators. Empty for all others,
    /// whose replay runs without the plugins' settings and limits.
    pub grants: BTreeMap<PluginName, String>,
    /// Whether calls were left out because all of them together are too long.
    pub truncated: bool,
}

/// A request as plugins saw it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RecordedRequest {
    /// Everything but the body.
    pub head: StoredHead,
    /// Whether it came in by a channel, where plugins see bodies as they were received.
    pub by_channel: bool,
    /// The bytes of the body.
    pub body_base64: String,
}

/// A channel as its plugins see it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RecordedChannel {
    /// Its id.
    pub id: ChannelId,
    /// Its name.
    pub name: Name,
    /// Its URL.
    pub url: String,
    /// Its settings.
    pub settings: BTreeMap<String, String>,
    /// The secrets by the names that its plugins use, each with its binding.
    #[schema(value_type = BTreeMap<String, crate::secrets::WrittenBinding>)]
    pub secrets: BTreeMap<String, SecretBinding>,
}

/// One call of a plugin.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RecordedCall {
    /// The plugin.
    pub plugin: PluginName,
    /// What it was called with.
    pub with: CalledWith,
    /// The outcome. Null if it was not stored, as for a getter of an earlier version.
    pub came: Option<RecordedOutcome>,
    /// The component that ran: `sha256:…`. Null if it was not called, or if that was not stored.
    pub digest: Option<String>,
    /// A digest of the settings and grants in force then.
    pub settings_digest: Option<String>,
    /// What the host returned that cannot be reproduced. Null if the plugin requested nothing of that kind.
    #[schema(value_type = Option<Object>)]
    pub recording: Option<Value>,
}

/// The outcome of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecordedOutcome {
    /// A value, as JSON text, since it may be nested as deeply as JSON allows.
    Ok(String),
    /// A getter found nothing.
    Nothing,
    /// The error, in one sentence.
    Error(String),
}

/// The function of a plugin that was called, and its input.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub enum CalledWith {
    /// The mapping of the request.
    MapPayload {
        /// `params_mapping`, verbatim.
        spec: Option<String>,
    },
    /// A tool call.
    CallTool {
        /// The name of the tool.
        tool: String,
        /// The arguments as JSON text.
        arguments: String,
    },
    /// One value of the task's answer.
    GetValue {
        /// The path of the value.
        path: String,
        /// The task as its caller saw it, as JSON text.
        task: String,
    },
}
