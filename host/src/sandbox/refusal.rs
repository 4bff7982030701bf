//! All the ways in which the sandbox says no, as a type of the host's own, so that no guest can claim
//! one of them.

use std::fmt;

use crate::fault::Fault;

/// What there was not enough of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// The plugin has as many calls in flight as it may.
    CallsOfPlugin,
    /// The plugins of its tenant have as many in flight as they may while others want some too.
    CallsOfTenant,
    /// All tenants together have as many in flight as there may be.
    Calls,
    /// The calls of its tenant hold as much memory as they may while others want some too.
    MemoryOfTenant,
    /// The calls of all tenants together do.
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

/// Why the host ended or did not begin a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The plugin ran into a trap: a panic, an access out of bounds, a stack overflow.
    Trapped(String),
    /// It wanted more memory than it was granted.
    OutOfMemory {
        /// What it was granted, in bytes.
        granted_bytes: usize,
    },
    /// It computed longer than it was granted.
    OutOfCpuTime {
        /// What it was granted, in milliseconds.
        granted_ms: u64,
    },
    /// It took longer than it was granted, waiting included.
    Deadline {
        /// What it was granted, in milliseconds.
        granted_ms: u64,
    },
    /// What it handed over is larger than it was granted.
    OutputTooLarge {
        /// What it was granted, in bytes.
        granted_bytes: usize,
    },
    /// It wanted more of something than anybody is granted.
    TooMany {
        /// Of what.
        what: &'static str,
        /// As many there may be.
        granted: usize,
    },
    /// What it handed over is not what the interface says.
    Malformed(String),
    /// It does not have the role that is asked of it.
    NoSuchRole {
        /// The role's interface.
        role: &'static str,
    },
    /// It failed too often and is cut off for a while.
    Quarantined {
        /// What its last failure was.
        reason: String,
        /// When it is tried again, in milliseconds from now.
        retry_after_ms: u64,
    },
    /// There is no room for it now.
    Busy(Shortage),
    /// A request asked more of it than it is granted, or more than a stranger's may: the request is refused
    /// and nothing is held against the plugin.
    RequestTooMuch(Box<Refusal>),
    /// Somebody has not set it up: a secret that it needs is not bound to it, or not there.
    NotSetUp(String),
    /// The gateway itself failed.
    Host(String),
}

impl Refusal {
    /// Every word that [`Refusal::code`] gives.
    pub const CODES: [&'static str; 13] = [
        "trapped", "out-of-memory", "out-of-cpu-time", "deadline", "output-too-large", "too-many",
        "malformed", "no-such-role", "quarantined", "busy", "request-too-much", "not-set-up",
        "host",
    ];

    /// A word for metrics and traces.
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

    /// What the call met, whosever fault that was.
    #[must_use]
    pub fn met(&self) -> &Self {
        match self {
            Self::RequestTooMuch(met) => met,
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
            Self::RequestTooMuch(met) => write!(f, "the request asks too much of it: {met}"),
            Self::NotSetUp(why) => write!(f, "it is not set up: {why}"),
            Self::Host(what) => write!(f, "the gateway could not run it: {what}"),
        }
    }
}

/// What a plugin itself says no with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// From the plugin's open set of words.
    pub code: String,
    /// One sentence for the caller.
    pub message: String,
    /// When trying again makes sense, in milliseconds from now.
    pub retry_after_ms: Option<u64>,
}

impl Failure {
    /// The HTTP status of its code (the table in docs/PLUGINS.md, "When a call fails").
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

/// Why a plugin call gave no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PluginError {
    /// The plugin said no.
    Failure(Failure),
    /// The host said no.
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
