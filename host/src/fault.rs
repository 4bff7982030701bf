//! Who is at fault for a failure. Every error that leaves the gateway states it.

/// Who is at fault for a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request is invalid.
    Caller,
    /// The plugin is at fault.
    Guest,
    /// The gateway failed, or has no room.
    Host,
    /// An operator's rule denied it.
    Policy,
    /// An upstream system failed.
    Upstream,
}

impl Fault {
    /// The word for headers and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::Guest => "guest",
            Self::Host => "host",
            Self::Policy => "policy",
            Self::Upstream => "upstream",
        }
    }
}
