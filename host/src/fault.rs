//! Whose fault a failure is. Every error that leaves the gateway says it.

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The request is wrong.
    Caller,
    /// The plugin is wrong.
    Guest,
    /// The gateway is wrong, or has no room.
    Host,
    /// An operator's rule said no.
    Policy,
    /// A system behind us is wrong.
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
