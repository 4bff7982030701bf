//! Tasks: one run of an agent each, from the moment it is accepted. Data types and the changes they allow; nothing
//! here does any I/O.

mod delivery;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{AgentId, ChannelId, IdempotencyKey, TaskId, TenantId, ThreadId};
pub use delivery::{Delivery, DeliveryEnd, DeliveryStatus, StoredRequest};

// CONTRACT X23.
/// The status of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Accepted and synced; no worker has claimed it yet.
    Pending,
    /// A worker holds its lease.
    Executing,
    /// Waiting for an outside party.
    Paused,
    /// The gateway could not run it; the fault is the gateway's.
    Error,
    /// The run itself failed: for example, the model refused, or a limit was reached.
    Failed,
    /// Done, with a result.
    Completed,
    /// Ended on request.
    Stopped,
}

impl Status {
    /// Every status, in the contract's order.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Executing,
        Self::Paused,
        Self::Error,
        Self::Failed,
        Self::Completed,
        Self::Stopped,
    ];

    /// The name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Executing => "executing",
            Self::Paused => "paused",
            Self::Error => "error",
            Self::Failed => "failed",
            Self::Completed => "completed",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the status is final.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Error | Self::Failed | Self::Completed | Self::Stopped)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not a status.
#[derive(Debug, thiserror::Error)]
#[error("no task status has this name")]
pub struct UnknownStatus;

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(UnknownStatus)
    }
}

/// The maximum bytes of a user's id, which every task in a list shows and an index holds.
const USER_ID_BYTES_MAX: usize = 512;

/// The user that a run is for, as far as the caller has given it (CONTRACT X5).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The caller's own id for the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Email address, not verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// First name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_name: Option<String>,
    /// Last name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_name: Option<String>,
}

impl User {
    /// Checks that the id is short enough for lists, which show it and filter by it.
    ///
    /// # Errors
    /// If the id is too long, as one sentence.
    pub fn check(self) -> Result<Self, String> {
        match &self.id {
            Some(id) if id.len() > USER_ID_BYTES_MAX => {
                Err(format!("user_id is longer than {USER_ID_BYTES_MAX} bytes"))
            }
            _ => Ok(self),
        }
    }

    /// Whether the caller has given nothing about the user.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// The agent's input, exactly as stored. It holds no credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// The caller's prompt. None: the payload itself is the text (CONTRACT X6).
    pub prompt: Option<String>,
    /// The fields that are not parameters, as JSON text with their original bytes and key order. `{}` if there are
    /// none.
    pub payload: String,
    /// The user that the run is for.
    pub user: User,
}

/// The way by which a request comes in. A name that one surface knows (an idempotency key, a conversation, the id of
/// an earlier task) means nothing on another one, so that guessing a name gives no caller access to what belongs to
/// another (CONTRACT D6, X7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Surface {
    /// The tenant's API, with any of its keys.
    Api,
    /// One token of the agent's own webhook. The token that replaces it is another surface, since it may be issued to
    /// a different party.
    Webhook {
        /// See [`crate::tenants::Webhook`].
        generation: u32,
    },
    /// One channel.
    Channel(ChannelId),
}

/// A claim on an idempotency key (CONTRACT D6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyClaim {
    /// The surface that the key was sent to.
    pub surface: Surface,
    /// The key that the caller sent.
    pub key: IdempotencyKey,
    /// A hash of the whole request, which distinguishes a retry from a different request with the same key.
    pub fingerprint: [u8; 32],
}

/// A task to be accepted. It exists once the store has confirmed it.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Chosen by the gateway at random.
    pub id: TaskId,
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// The agent that runs it.
    pub agent: AgentId,
    /// The conversation that it continues. None: it starts one of its own.
    pub thread: Option<ThreadId>,
    /// The surface whose conversations it may continue, and whose later tasks may continue it.
    pub thread_surface: Surface,
    /// The kind of surface that it came in by: `webhook`, `api`, `sdk` or `mcp`.
    pub source: &'static str,
    /// The agent's input.
    pub input: Input,
    /// What the mapping plugin did, as JSON, for the trace. None if no mapping plugin was called.
    pub mapping: Option<String>,
    /// The caller's claim on an idempotency key.
    pub idempotency: Option<IdempotencyClaim>,
    /// The request that it came from.
    pub request: StoredRequest,
    /// Whether its answer is delivered through the channel that the request came in by.
    pub deliver: bool,
    /// The tokens of the user that the request came with, sealed. They are deleted with the end of the task.
    pub sealed_tokens: Option<Vec<u8>>,
}

/// The outcome of accepting a [`NewTask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is stored and synced, and will run.
    New,
    /// The idempotency key was taken: nothing was stored, and `original` is the task that holds it.
    Replayed {
        /// The task that was accepted under this key first.
        original: TaskId,
        /// Whether that request was the same as this one.
        same_request: bool,
    },
}

/// A task as stored.
#[derive(Debug, Clone)]
pub struct Task {
    /// Its place in the order of acceptance in this store.
    pub sequence: i64,
    /// See [`NewTask`].
    pub id: TaskId,
    /// See [`NewTask`].
    pub tenant: TenantId,
    /// See [`NewTask`].
    pub agent: AgentId,
    /// See [`NewTask`].
    pub thread: Option<ThreadId>,
    /// See [`NewTask`].
    pub thread_surface: Surface,
    /// See [`NewTask`].
    pub source: String,
    /// See [`NewTask`].
    pub input: Input,
    /// See [`NewTask`].
    pub mapping: Option<String>,
    /// Its status.
    pub status: Status,
    /// The answer, or what went wrong. None until the status is final.
    pub result: Option<String>,
    /// How many attempts workers have started.
    pub attempts: u32,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When a worker first started it.
    pub started_at: Option<Timestamp>,
    /// When its status became final.
    pub finished_at: Option<Timestamp>,
}

impl Task {
    /// The task as it was when it was accepted, however far its run is by now.
    #[must_use]
    pub fn into_accepted(self) -> Self {
        Self {
            status: Status::Pending,
            result: None,
            attempts: 0,
            started_at: None,
            finished_at: None,
            ..self
        }
    }
}

/// A filter of a tenant's tasks. A field that is None matches all of them.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Tasks of this agent.
    pub agent: Option<AgentId>,
    /// Tasks for this user, by the caller's own id for the user.
    pub user: Option<String>,
    /// Tasks with this status.
    pub status: Option<Status>,
}

/// A part of a list: at most `limit` entries, from `offset` on.
#[derive(Debug, Clone, Copy)]
pub struct Slice {
    /// The number of entries before it.
    pub offset: u32,
    /// The maximum number of entries in it.
    pub limit: u32,
}

/// A task as a list shows it.
#[derive(Debug, Clone)]
pub struct TaskSummary {
    /// See [`NewTask`].
    pub id: TaskId,
    /// See [`NewTask`].
    pub agent: AgentId,
    /// See [`NewTask`].
    pub thread: Option<ThreadId>,
    /// The caller's own id for the user.
    pub user_id: Option<String>,
    /// See [`Task`].
    pub status: Status,
    /// See [`NewTask`].
    pub source: String,
    /// The beginning of its result, at most [`SHOWN_RESULT_CHARS_MAX`] characters.
    pub result: Option<String>,
    /// See [`Task`].
    pub created_at: Timestamp,
    /// When its status last changed.
    pub updated_at: Timestamp,
}

/// The maximum characters of a result that a list shows.
pub const SHOWN_RESULT_CHARS_MAX: u32 = 10_000;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// A final status.
    pub status: EndStatus,
    /// The answer, or one sentence that says what went wrong and whose fault it was.
    pub result: String,
}

/// The statuses that a run can end with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndStatus {
    /// See [`Status::Completed`].
    Completed,
    /// See [`Status::Failed`].
    Failed,
    /// See [`Status::Error`].
    Error,
    /// See [`Status::Stopped`].
    Stopped,
}

impl EndStatus {
    /// The name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Status::from(self).as_str()
    }
}

impl From<EndStatus> for Status {
    fn from(end: EndStatus) -> Self {
        match end {
            EndStatus::Completed => Self::Completed,
            EndStatus::Failed => Self::Failed,
            EndStatus::Error => Self::Error,
            EndStatus::Stopped => Self::Stopped,
        }
    }
}

/// The number of a lease. It grows with each claim, so that a worker that has lost its lease cannot finish a task
/// that another worker has started since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub i64);

/// A task that a worker has claimed, with the fence of that claim.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The task, already `executing`, with this attempt counted.
    pub task: Task,
    /// What a finish must present.
    pub fence: Fence,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_statuses_are_one_to_one() {
        for status in Status::ALL {
            assert_eq!(status.as_str().parse::<Status>().unwrap(), status);
        }
        assert!("Completed".parse::<Status>().is_err());
    }
}
