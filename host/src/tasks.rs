//! A task is one run of an agent, from the moment it is accepted. Facts and their allowed changes;
//! nothing here reads or writes anything.

mod delivery;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{AgentId, ChannelId, IdempotencyKey, TaskId, TenantId, ThreadId};
pub use delivery::{Delivery, DeliveryEnd, DeliveryStatus, StoredRequest};

// CONTRACT X23.
/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Accepted and synced; no worker has it yet.
    Pending,
    /// A worker holds its lease.
    Executing,
    /// Waiting for somebody outside.
    Paused,
    /// The gateway could not run it; the fault is ours.
    Error,
    /// The run itself came to a bad end: the model refused, a limit was met.
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

    /// The word on the wire and in the store.
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

    /// Whether nothing follows.
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

/// A word that is no status.
#[derive(Debug, thiserror::Error)]
#[error("no task status has this name")]
pub struct UnknownStatus;

impl FromStr for Status {
    type Err = UnknownStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or(UnknownStatus)
    }
}

/// Longest id of a user: each task that a list shows has one, and so has an index.
const USER_ID_BYTES_MAX: usize = 512;

/// Who a run is for, as far as the caller said (CONTRACT X5).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The caller's own id of the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Address, not verified.
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
    /// Whether the id is short enough for lists, which show and look for it.
    ///
    /// # Errors
    /// What is wrong with it, in a sentence.
    pub fn check(self) -> Result<Self, String> {
        match &self.id {
            Some(id) if id.len() > USER_ID_BYTES_MAX => {
                Err(format!("user_id is longer than {USER_ID_BYTES_MAX} bytes"))
            }
            _ => Ok(self),
        }
    }

    /// Whether the caller said nothing of the user.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// What the agent is given. Exactly what is stored; it holds no credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// What the caller asks. None: the payload itself is the text (CONTRACT X6).
    pub prompt: Option<String>,
    /// The fields that are no parameters, as JSON text with bytes and key order as they came. `{}`
    /// where there are none.
    pub payload: String,
    /// Who it is for.
    pub user: User,
}

/// Where a request comes in. What one surface knows by a name (an idempotency key, a conversation, the id of
/// an earlier task) means nothing on another one, so that guessing a name gives nobody what is somebody
/// else's (CONTRACT D6, X7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Surface {
    /// The tenant's API, with whichever of its keys.
    Api,
    /// One token of the agent's own webhook. The token that replaces it is another surface: it may be for
    /// somebody else.
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
    /// Where it was sent.
    pub surface: Surface,
    /// What the caller sent.
    pub key: IdempotencyKey,
    /// A hash of the whole request, to tell a retry from another request under the same key.
    pub fingerprint: [u8; 32],
}

/// A task about to be accepted. It exists once the store has said so.
#[derive(Debug, Clone)]
pub struct NewTask {
    /// Chosen by the gateway, random.
    pub id: TaskId,
    /// Whose it is.
    pub tenant: TenantId,
    /// Which agent runs it.
    pub agent: AgentId,
    /// Which conversation it continues. None: one of its own.
    pub thread: Option<ThreadId>,
    /// The surface whose conversations it may continue, and whose later tasks may continue it.
    pub thread_surface: Surface,
    /// Which surface it came in by: `webhook`, `api` or `sdk`.
    pub source: &'static str,
    /// What the agent is given.
    pub input: Input,
    /// What the mapping plugin did, as JSON, for the trace. None where none was asked.
    pub mapping: Option<String>,
    /// The caller's claim on an idempotency key.
    pub idempotency: Option<IdempotencyClaim>,
    /// The request that it came from.
    pub request: StoredRequest,
    /// Whether its answer is to be delivered through the channel that the request came in by.
    pub deliver: bool,
}

/// What became of a [`NewTask`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is stored and synced, and will run.
    New,
    /// The idempotency key was taken: nothing was stored, `original` is the task that has it.
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
    /// Order of acceptance within this store.
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
    /// How far it is.
    pub status: Status,
    /// The answer, or what went wrong. None until it is final.
    pub result: Option<String>,
    /// How often a worker began it.
    pub attempts: u32,
    /// When it was accepted.
    pub created_at: Timestamp,
    /// When a worker first began it.
    pub started_at: Option<Timestamp>,
    /// When it became final.
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

/// Which of a tenant's tasks are listed. What is None does not matter.
#[derive(Debug, Clone, Default)]
pub struct TaskFilter {
    /// Tasks of this agent.
    pub agent: Option<AgentId>,
    /// Tasks for this user, by the caller's own id of him.
    pub user: Option<String>,
    /// Tasks of this status.
    pub status: Option<Status>,
}

/// A part of a list: entries from `offset` on, `limit` of them at most.
#[derive(Debug, Clone, Copy)]
pub struct Slice {
    /// Entries before it.
    pub offset: u32,
    /// Most entries in it.
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
    /// The caller's own id of the user.
    pub user_id: Option<String>,
    /// See [`Task`].
    pub status: Status,
    /// See [`NewTask`].
    pub source: String,
    /// The beginning of its result, [`SHOWN_RESULT_CHARS_MAX`] characters of it at most.
    pub result: Option<String>,
    /// See [`Task`].
    pub created_at: Timestamp,
    /// When it last went from one status to another.
    pub updated_at: Timestamp,
}

/// How much of a result a list shows.
pub const SHOWN_RESULT_CHARS_MAX: u32 = 10_000;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// A final status.
    pub status: EndStatus,
    /// The answer, or one sentence of what went wrong and whose fault it was.
    pub result: String,
}

/// The statuses a run can end with.
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

/// The number of a lease: it grows with each claim, so that a worker that lost its lease cannot finish
/// a task that another one has begun since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence(pub i64);

/// A task that a worker has claimed, with the fence of that claim.
#[derive(Debug, Clone)]
pub struct Claimed {
    /// The task, already `executing`, this attempt counted.
    pub task: Task,
    /// What a finish has to present.
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
