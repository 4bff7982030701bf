//! Why a turn failed, and whether another attempt may succeed.

use std::time::Duration;

use crate::fault::Fault;

/// Why a turn failed. The message contains no key and no address.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ModelError {
    /// One sentence for the owner of the task.
    pub message: String,
    /// Usually upstream.
    pub fault: Fault,
    /// Whether another attempt may succeed.
    pub retry: Retry,
    /// The tool whose description the model's server refuses, if that is why.
    pub refused_tool: Option<String>,
}

/// Whether another attempt at a turn may succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// It would fail in the same way, with any model.
    Never,
    /// With another model only: this one's server cannot be reached, or takes too long.
    Elsewhere,
    /// It may succeed after a pause. `after` is what the server asks for, if it does.
    Later {
        /// The least pause.
        after: Option<Duration>,
    },
}

impl ModelError {
    /// A failure of the model's server that another attempt would not mend.
    pub(super) fn upstream(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            fault: Fault::Upstream,
            retry: Retry::Never,
            refused_tool: None,
        }
    }

    /// A failure of the model's server that may pass.
    pub(super) fn transient(message: impl Into<String>) -> Self {
        Self { retry: Retry::Later { after: None }, ..Self::upstream(message) }
    }

    /// A failure that the gateway's settings cause.
    pub(super) fn settings(message: impl Into<String>) -> Self {
        Self { fault: Fault::Host, ..Self::upstream(message) }
    }
}
