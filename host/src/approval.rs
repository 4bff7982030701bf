//! Approvals: tool calls that a person decides about, while their task is paused.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::ids::{AgentId, ApprovalId, TaskId, TenantId};

/// A tool call of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CallPosition {
    /// The turn of the model that requested it, from 1.
    pub turn: u32,
    /// Its number in the turn, from 0.
    pub call: u32,
    /// 0 before it is made. Else how often its outcome has become unknown: each time is decided anew.
    pub round: u32,
}

/// A request for a decision, about to be stored.
#[derive(Debug, Clone)]
pub struct NewApproval {
    /// Its id.
    pub id: ApprovalId,
    /// The call.
    pub position: CallPosition,
    /// The tool, as the model names it.
    pub tool: String,
    /// The arguments, which contain no secret.
    pub arguments: String,
    /// The hash of the call as the model made it: the decision holds for no other.
    pub call_hash: [u8; 32],
    /// When it expires.
    pub expires_at: Timestamp,
}

/// A request for a decision, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// See [`NewApproval`].
    pub id: ApprovalId,
    /// The tenant that owns the task.
    pub tenant: TenantId,
    /// The task.
    pub task: TaskId,
    /// The agent that runs it.
    pub agent: AgentId,
    /// See [`NewApproval`].
    pub position: CallPosition,
    /// See [`NewApproval`].
    pub tool: String,
    /// See [`NewApproval`].
    pub arguments: String,
    /// See [`NewApproval`].
    pub call_hash: [u8; 32],
    /// When the run asked for it.
    pub created_at: Timestamp,
    /// See [`NewApproval`].
    pub expires_at: Timestamp,
    /// The decision, once there is one.
    pub decided: Option<Decided>,
}

impl Approval {
    /// Its status: the decision, or `pending`.
    #[must_use]
    pub fn status(&self) -> ApprovalStatus {
        self.decided.as_ref().map_or(ApprovalStatus::Pending, |decided| decided.decision)
    }
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// What was decided. Never `pending`.
    pub decision: ApprovalStatus,
    /// When.
    pub at: Timestamp,
    /// How it came in.
    pub by: DecidedBy,
    /// What the model is told with it.
    pub comment: Option<String>,
}

/// The status of an approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ApprovalStatus {
    /// Nobody has decided yet.
    Pending,
    /// The call may be made, once.
    Approved,
    /// The call is not made.
    Denied,
    /// Nobody decided in time.
    Expired,
    /// The task ended before anybody decided.
    Withdrawn,
}

/// How a decision came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DecidedBy {
    /// With a key of the tenant.
    Key,
    /// With the key of an admin of the tenant, through the admin API.
    Admin,
    /// With an operator's key.
    Operator,
    /// By a signed link.
    Link,
    /// By nobody: the time was up, or the task ended.
    Gateway,
}

/// Gives an enum its names in the store and in queries.
macro_rules! names {
    ($name:ident { $($variant:ident => $text:literal),* $(,)? }) => {
        impl $name {
            /// The name on the wire and in the store.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                match text {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(UnknownName),
                }
            }
        }
    };
}

/// A text that names no value of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name is unknown")]
pub struct UnknownName;

names!(ApprovalStatus {
    Pending => "pending",
    Approved => "approved",
    Denied => "denied",
    Expired => "expired",
    Withdrawn => "withdrawn",
});

names!(DecidedBy {
    Key => "key",
    Admin => "admin",
    Operator => "operator",
    Link => "link",
    Gateway => "gateway",
});
