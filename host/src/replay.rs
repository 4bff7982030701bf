//! Playing again what plugins did for a task: the mapping, each call of a tool, and the getter, with what
//! the host answered them then. Nothing is sent, no secret is needed, and nothing of the task changes.
//!
//! What was kept is gathered where the store is ([`gather`]); it is played wherever a component is
//! ([`play`]), with the one that is installed or with one that somebody is writing.

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

/// What plugins did for a task, and all that they were told, without secrets.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = TaskRecording)]
pub struct Recorded {
    /// The task.
    pub task: TaskId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Which agent ran it.
    pub agent: AgentId,
    /// How far it is.
    pub status: Status,
    /// When it was accepted.
    #[schema(format = DateTime)]
    pub accepted_at: String,
    /// The request that it came from. Null: it was not kept.
    pub request: Option<RecordedRequest>,
    /// The channel that the request came in by, as it is now. Null: none, or it is gone.
    pub channel: Option<RecordedChannel>,
    /// The calls, in their order. The getter's come last.
    pub calls: Vec<RecordedCall>,
    /// What each of the plugins is granted now: the grants files, for an operator. For anybody else they are
    /// not there, and a replay goes without their settings and limits.
    pub grants: BTreeMap<PluginName, String>,
    /// Whether there were more calls, which are left out since all of them together are too long.
    pub truncated: bool,
}

/// A request as plugins saw it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RecordedRequest {
    /// All but the body.
    pub head: StoredHead,
    /// Whether it came in by a channel, where plugins see bodies as they came.
    pub by_channel: bool,
    /// The body's bytes.
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
    /// What its plugins call a secret, and how it is bound.
    #[schema(value_type = BTreeMap<String, crate::secrets::WrittenBinding>)]
    pub secrets: BTreeMap<String, SecretBinding>,
}

/// One call of a plugin.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RecordedCall {
    /// Which.
    pub plugin: PluginName,
    /// What it was called with.
    pub with: CalledWith,
    /// What came of it. Null: that was not kept, as of a getter of an earlier version.
    pub came: Option<RecordedOutcome>,
    /// The component that ran: `sha256:…`. Null: it was not called, or that was not kept.
    pub digest: Option<String>,
    /// A digest of the settings and grants that it had.
    pub settings_digest: Option<String>,
    /// What the host answered it that could not be had again. Null: it asked for nothing of that kind.
    #[schema(value_type = Option<Object>)]
    pub recording: Option<Value>,
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RecordedOutcome {
    /// A value, as JSON text: it may be as deep as JSON may be at all.
    Ok(String),
    /// A getter found nothing.
    Nothing,
    /// One sentence.
    Error(String),
}

/// Which function of a plugin was called, with what.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub enum CalledWith {
    /// The mapping of the request.
    MapPayload {
        /// `params_mapping`, verbatim.
        spec: Option<String>,
    },
    /// A tool.
    CallTool {
        /// Its name.
        tool: String,
        /// JSON text.
        arguments: String,
    },
    /// One value of the task's answer.
    GetValue {
        /// Where it is.
        path: String,
        /// The task as its caller saw it, as JSON text.
        task: String,
    },
}
