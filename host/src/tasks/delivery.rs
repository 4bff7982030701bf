//! The request that a task came from, and the delivery of its answer.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::ids::{ChannelId, TaskId};

/// A request as stored with its task: what plugins saw of it, without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRequest {
    /// The channel that it came in by.
    pub channel: Option<ChannelId>,
    /// Method, path, query and headers, as JSON.
    pub head: String,
    /// The body, byte for byte.
    pub body: Bytes,
}

/// The status of a delivery.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryStatus {
    /// Its task has not ended yet.
    Waiting,
    /// An attempt is in progress, or will be made.
    Due,
    /// It succeeded.
    Delivered,
    /// It was given up.
    Dead,
}

impl DeliveryStatus {
    /// The name on the wire and in the store.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Due => "due",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }
}

impl fmt::Display for DeliveryStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not a status of a delivery.
#[derive(Debug, thiserror::Error)]
#[error("no delivery status has this name")]
pub struct UnknownDeliveryStatus;

impl FromStr for DeliveryStatus {
    type Err = UnknownDeliveryStatus;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [Self::Waiting, Self::Due, Self::Delivered, Self::Dead];
        all.into_iter().find(|status| status.as_str() == text).ok_or(UnknownDeliveryStatus)
    }
}

/// The outcome of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryEnd {
    /// It succeeded.
    Delivered,
    /// It failed, and will be retried.
    Again {
        /// The delay from now.
        after: Duration,
        /// Why it failed, in one sentence.
        reason: String,
    },
    /// It failed, and is given up.
    Dead {
        /// Why it failed, in one sentence.
        reason: String,
    },
}

/// A delivery as its tenant sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The task whose answer it delivers.
    pub task: TaskId,
    /// The channel that it uses.
    pub channel: ChannelId,
    /// Its status.
    pub status: DeliveryStatus,
    /// The number of attempts.
    pub attempts: u32,
    /// When it will be attempted next.
    pub due_at: Option<Timestamp>,
    /// When it was delivered or given up.
    pub ended_at: Option<Timestamp>,
    /// Why the last attempt failed.
    pub reason: Option<String>,
}
