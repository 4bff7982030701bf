//! Why the sandbox refuses or ends a call, as a type that only the host creates: no guest can claim one of these
//! reasons.

use std::fmt;

use crate::fault::Fault;

/// A limit on calls or memory that is exhausted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// The plugin's calls in flight.
    CallsOfPlugin,
    /// The tenant's calls in flight, bounded by its share while other tenants compete.
    CallsOfTenant,
    /// The calls in flight of all tenants.
    Calls,
    /// The memory of the tenant's calls, bounded by its share while other tenants compete.
    MemoryOfTenant,
    /// The memory of the calls of all tenants.
    Memory,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CallsOfPlugin => "it has as many calls in flight as it is granted",
            Self::CallsOfTenant => "its tenant's plugins have as many calls in flight as they may",
            Self::Calls => "the gateway has as many plugin calls in flight as it may",
            Self::MemoryOfTenant => "its tenant's plugins hold as much memory as they may",
            Self::Memory => "the plugin calls in flight hold as much memory as they may",
        })
    }
}

/// Why the host ended a call or did not start it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The plugin trapped: a panic, an out-of-bounds access, a stack overflow.
    Trapped(String),
    /// The plugin exceeded its memory limit.
    OutOfMemory {
        /// The limit, in bytes.
        granted_bytes: usize,
    },
    /// The plugin exceeded its CPU time.
    OutOfCpuTime {
        /// The limit, in milliseconds.
        granted_ms: u64,
    },
    /// The call exceeded its wall-clock time, waiting included.
    Deadline {
        /// The limit, in milliseconds.
        granted_ms: u64,
    },
    /// The plugin's output exceeds its limit.
    OutputTooLarge {
        /// The limit, in bytes.
        granted_bytes: usize,
    },
    /// The plugin exceeded a limit that is the same for all plugins.
    TooMany {
        /// What is limited.
        what: &'static str,
        /// The limit.
        granted: usize,
    },
    /// The plugin's output violates the interface.
    Malformed(String),
    /// The component does not export the role that was called.
    NoSuchRole {
        /// The role's interface.
        role: &'static str,
    },
    /// The plugin failed too often and is quarantined for a while.
    Quarantined {
        /// The last failure.
        reason: String,
        /// When the next call is admitted, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// A shared limit is exhausted at the moment.
    Busy(Shortage),
    /// The request caused the refusal: it makes the plugin exceed a limit or return invalid data, or its sender is
    /// not verified. The request is rejected, and the refusal does not count as a failure of the plugin.
    RequestTooMuch(Box<Refusal>),
    /// The plugin is not set up: a secret that it needs is not bound to it, does not exist, or cannot be used as
    /// bound.
    NotSetUp(String),
    /// The gateway itself failed.
    Host(String),
}

impl Refusal {
    /// Every value that [`Refusal::code`] returns.
    pub const CODES: [&'static str; 13] = [
        "trapped", "out-of-memory", "out-of-cpu-time", "deadline", "output-too-large", "too-many",
        "malformed", "no-such-role", "quarantined", "busy", "request-too-much", "not-set-up",
        "host",
    ];

    /// A code for metrics and traces.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Trapped(_) => "trapped",
            Self::OutOfMemory { .. } => "out-of-memory",
            Self::OutOfCpuTime { .. } => "out-of-cpu-time",
            Self::Deadline { .. } => "deadline",
            Self::OutputTooLarge { .. } => "output-too-large",
            Self::TooMany { .. } => "too-many",
            Self::Malformed(_) => "malformed",
            Self::NoSuchRole { .. } => "no-such-role",
            Self::Quarantined { .. } => "quarantined",
            Self::Busy(_) => "busy",
            Self::RequestTooMuch(_) => "request-too-much",
            Self::NotSetUp(_) => "not-set-up",
            Self::Host(_) => "host",
        }
    }

    /// The underlying refusal, without its attribution to the request.
    #[must_use]
    pub fn underlying(&self) -> &Self {
        match self {
            Self::RequestTooMuch(underlying) => underlying,
            refusal => refusal,
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Trapped(_)
            | Self::OutOfMemory { .. }
            | Self::OutOfCpuTime { .. }
            | Self::Deadline { .. }
            | Self::OutputTooLarge { .. }
            | Self::TooMany { .. }
            | Self::Malformed(_)
            | Self::NoSuchRole { .. }
            | Self::Quarantined { .. } => Fault::Guest,
            Self::Busy(_) | Self::Host(_) => Fault::Host,
            Self::RequestTooMuch(_) => Fault::Caller,
            Self::NotSetUp(_) => Fault::Policy,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trapped(trap) => write!(f, "it crashed ({trap})"),
            Self::OutOfMemory { granted_bytes } => {
                write!(
                    f,
                    "it wanted more than the {} MiB of memory it is granted",
                    granted_bytes >> 20
                )
            }
            Self::OutOfCpuTime { granted_ms } => {
                write!(f, "it computed for longer than the {granted_ms} ms it is granted")
            }
            Self::Deadline { granted_ms } => {
                write!(f, "it took longer than the {granted_ms} ms it is granted")
            }
            Self::OutputTooLarge { granted_bytes } => {
                write!(f, "it handed over more than the {granted_bytes} bytes it is granted")
            }
            Self::TooMany { what, granted } => {
                write!(f, "it wanted more than the {granted} {what} it is granted")
            }
            Self::Malformed(what) => write!(f, "it broke the interface: {what}"),
            Self::NoSuchRole { role } => write!(f, "it does not export {role}"),
            Self::Quarantined { reason, .. } => {
                write!(
                    f,
                    "it is cut off for a while because it kept failing; the last time, {reason}"
                )
            }
            Self::Busy(shortage) => shortage.fmt(f),
            Self::RequestTooMuch(underlying) => {
                write!(f, "the request asks too much of it: {underlying}")
            }
            Self::NotSetUp(why) => write!(f, "it is not set up: {why}"),
            Self::Host(what) => write!(f, "the gateway could not run it: {what}"),
        }
    }
}

/// A failure that the plugin itself returns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// A code from an open set; see [`Failure::status`] for those with a status of their own.
    pub code: String,
    /// One sentence for the caller.
    pub message: String,
    /// When a retry makes sense, in milliseconds from now.
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// The HTTP status of the code (the table in docs/PLUGINS.md, "When a call fails").
    #[must_use]
    pub fn status(&self) -> u16 {
        match self.code.as_str() {
            "invalid-input" => 400,
            "unauthorized" => 401,
            "forbidden" => 403,
            "not-found" => 404,
            "conflict" => 409,
            "rate-limited" => 429,
            "upstream" => 502,
            "timeout" => 504,
            _ => 500,
        }
    }
}

/// Why a plugin call returned no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginError {
    /// The plugin returned a failure.
    Failure(Failure),
    /// The host refused or ended the call.
    Refusal(Refusal),
}

impl From<Refusal> for PluginError {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

impl From<Failure> for PluginError {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failure(failure) => f.write_str(&failure.message),
            Self::Refusal(refusal) => refusal.fmt(f),
        }
    }
}
