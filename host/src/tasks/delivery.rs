//! The request that a task came from, and the delivery of its answer. Facts only.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::ids::{ChannelId, TaskId};

/// A request as it is kept with its task: what plugins saw of it, without credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRequest {
    /// The channel that it came in by.
    pub channel: Option<ChannelId>,
    /// Method, path, query and headers, as JSON.
    pub head: String,
    /// The body, byte for byte.
    pub body: Bytes,
}

/// How far a delivery is.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryStatus {
    /// Its task has not ended.
    Waiting,
    /// It is tried, or will be again.
    Due,
    /// It went well.
    Delivered,
    /// It was given up.
    Dead,
}

impl DeliveryStatus {
    /// The word on the wire and in the store.
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

/// A word that is no status of a delivery.
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

/// What became of one try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeliveryEnd {
    /// It went well.
    Delivered,
    /// It did not, and is tried again.
    Again {
        /// From now.
        after: Duration,
        /// One sentence.
        reason: String,
    },
    /// It did not, and is given up.
    Dead {
        /// One sentence.
        reason: String,
    },
}

/// A delivery as its owner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Whose answer.
    pub task: TaskId,
    /// Through which channel.
    pub channel: ChannelId,
    /// How far it is.
    pub status: DeliveryStatus,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next.
    pub due_at: Option<Timestamp>,
    /// When it came to its end.
    pub ended_at: Option<Timestamp>,
    /// What went wrong the last time.
    pub reason: Option<String>,
}
