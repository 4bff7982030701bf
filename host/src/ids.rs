//! Typed identifiers: a tenant's id cannot be passed in place of an agent's, and what a caller sends is parsed here
//! or rejected.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use uuid::Uuid;

use crate::clock::Clock;

/// Why a text is not a valid identifier. The text itself is not repeated: it may be long, binary, or a secret in the
/// wrong place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {why}")]
pub struct ParseIdError {
    what: &'static str,
    why: &'static str,
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $new:path) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, utoipa::ToSchema)]
        #[schema(value_type = String, format = "uuid")]
        pub struct $name(Uuid);

        impl $name {
            /// Generates a random id, which cannot be guessed.
            #[must_use]
            pub fn random() -> Self {
                Self($new())
            }

            /// The 16 bytes of the id, for the store.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// The inverse of [`Self::as_bytes`].
            #[must_use]
            pub fn from_stored(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// Builds a version 4 UUID from these bytes, for ids that are derived from a key.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                // Only lower case with hyphens: an id has one spelling, in stores and in URLs.
                if text.len() != 36 || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(ParseIdError { what: $what, why: "is not a UUID" });
                }
                Uuid::try_parse(text)
                    .map(Self)
                    .map_err(|_| ParseIdError { what: $what, why: "is not a UUID" })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

uuid_id!(
    /// One customer of the gateway. Called organization on the wire.
    TenantId, "tenant id", Uuid::new_v4
);
uuid_id!(
    /// One agent of one tenant; unique across all tenants.
    AgentId, "agent id", Uuid::new_v4
);
uuid_id!(
    /// One API key, for listing and revoking it; reveals nothing about the key itself.
    KeyId, "key id", Uuid::new_v4
);
uuid_id!(
    /// One channel: the endpoint of a provider's webhook.
    ChannelId, "channel id", Uuid::new_v4
);
uuid_id!(
    /// One request for a person's decision about a tool call.
    ApprovalId, "approval id", Uuid::new_v4
);
uuid_id!(
    /// One start of a process that runs tasks: the owner of its leases.
    OwnerId, "owner id", Uuid::new_v4
);
uuid_id!(
    // CONTRACT D4.
    /// One run of an agent. Anyone who knows the id may poll the run, so it is random.
    TaskId, "task id", random_in_order
);

impl TenantId {
    /// Stands for the gateway itself where quotas are tracked by tenant. No tenant has this id.
    pub const GATEWAY: Self = Self(Uuid::nil());
}

/// Generates a version 7 UUID: the time in milliseconds, then 74 random bits. The store looks tasks up by id. An
/// index over ids in time order grows at its end, while random ids rewrite pages all over it; measured, that halved
/// the tasks accepted per second. The library's own version 7 is not used because it counts within a millisecond, so
/// one id reveals most of the next.
fn random_in_order() -> Uuid {
    let millis = Clock::system().now().micros().unsigned_abs() / 1000;
    // The bytes of a random UUID without the two that contain its version and variant.
    let [a, b, c, d, e, f, _, g, _, h, i, j, ..] = *Uuid::new_v4().as_bytes();
    uuid::Builder::from_unix_timestamp_millis(millis, &[a, b, c, d, e, f, g, h, i, j]).into_uuid()
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, utoipa::ToSchema)]
        #[schema(value_type = String)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text of the id.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let check: fn(&str) -> Result<(), &'static str> = $check;
                check(text).map_err(|why| ParseIdError { what: $what, why })?;
                Ok(Self(text.into()))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

/// The longest thread id, in bytes: enough for any provider's chat or ticket id, and small enough for an index.
const THREAD_ID_BYTES_MAX: usize = 512;

/// The longest plugin name, in bytes: it becomes a file name and a metric label.
const PLUGIN_NAME_BYTES_MAX: usize = 64;

/// The maximum length of an MCP server's name: half of what a tool's name may have.
const MCP_SERVER_NAME_BYTES_MAX: usize = 32;

/// The longest name of an agent or a tenant, in bytes: it appears in lists and log lines.
const NAME_BYTES_MAX: usize = 128;

/// The longest idempotency key (CONTRACT D6).
const IDEMPOTENCY_KEY_CHARS_MAX: usize = 256;

text_id!(
    // CONTRACT X7.
    /// A conversation, named by the caller (`task_id` on the wire). The name is unique only within a tenant, an agent
    /// and a surface: the tenant's API, one URL of the agent's own webhook, or one channel.
    ThreadId, "task_id", |text| {
        if text.is_empty() {
            Err("is empty")
        } else if text.len() > THREAD_ID_BYTES_MAX {
            Err("is longer than 512 bytes")
        } else if text.contains('\0') {
            Err("contains a NUL character")
        } else {
            Ok(())
        }
    }
);

text_id!(
    /// The display name of an agent or a tenant; unique among those of one owner.
    Name, "name", |text| {
        if text.trim().is_empty() {
            Err("is empty")
        } else if text.len() > NAME_BYTES_MAX {
            Err("is longer than 128 bytes")
        } else if text.chars().any(char::is_control) {
            Err("holds a control character")
        } else if Uuid::try_parse(text).is_ok() {
            // Commands accept a name or an id.
            Err("looks like an id")
        } else {
            Ok(())
        }
    }
);

text_id!(
    /// A plugin's name within a tenant: lower-case letters, digits and hyphens.
    PluginName, "plugin name", |text| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() || text.starts_with('-') {
            Err("is empty or starts with a hyphen")
        } else if text.len() > PLUGIN_NAME_BYTES_MAX {
            Err("is longer than 64 characters")
        } else if !text.bytes().all(allowed) {
            Err("may hold lower-case letters, digits and hyphens only")
        } else {
            Ok(())
        }
    }
);

text_id!(
    /// A model's name within a tenant: letters, digits, dots, underscores and hyphens.
    ModelName, "model name", |text| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if text.is_empty() {
            Err("is empty")
        } else if text.len() > PLUGIN_NAME_BYTES_MAX {
            Err("is longer than 64 characters")
        } else if text == "offline" {
            Err("is that of the built-in model")
        } else if !text.bytes().all(allowed) || text.starts_with('.') {
            Err("may hold letters, digits, dots, underscores and hyphens only, and not start with a dot")
        } else {
            Ok(())
        }
    }
);

text_id!(
    /// The name of an MCP server within a tenant: lower-case letters, digits and hyphens. Tools are named
    /// `server__tool`, so it has no underscore.
    McpServerName, "MCP server name", |text| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() {
            Err("is empty")
        } else if text.len() > MCP_SERVER_NAME_BYTES_MAX {
            Err("is longer than 32 characters")
        } else if !text.bytes().all(allowed) {
            Err("may hold lower-case letters, digits and hyphens only")
        } else {
            Ok(())
        }
    }
);

text_id!(
    /// A secret's name within a tenant: lower-case letters, digits and hyphens.
    SecretName, "secret name", |text| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if text.is_empty() {
            Err("is empty")
        } else if text.len() > PLUGIN_NAME_BYTES_MAX {
            Err("is longer than 64 characters")
        } else if !text.bytes().all(allowed) {
            Err("may hold lower-case letters, digits and hyphens only")
        } else {
            Ok(())
        }
    }
);

text_id!(
    /// The value of the `Idempotency-Key` header (CONTRACT D6): 1 to 256 visible ASCII characters.
    IdempotencyKey, "Idempotency-Key", |text| {
        if text.is_empty() {
            Err("is empty")
        } else if text.len() > IDEMPOTENCY_KEY_CHARS_MAX {
            Err("exceeds maximum length of 256 characters")
        } else if !text.bytes().all(|b| b.is_ascii_graphic()) {
            Err("may hold visible ASCII characters only")
        } else {
            Ok(())
        }
    }
);

impl IdempotencyKey {
    /// The key of a provider's delivery by a channel. It contains a space, so no caller can send one like it. The
    /// channel is part of the hash although keys are scoped by channel, because stored keys are older than that
    /// scope.
    #[must_use]
    pub fn of_delivery(channel: ChannelId, delivery: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(channel.as_bytes()).update(delivery.as_bytes());
        Self(format!("delivery {}", hasher.finalize().to_hex()).into())
    }

    /// The key from its stored text.
    #[must_use]
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// Whether it was created by [`Self::of_delivery`].
    #[must_use]
    pub fn is_of_delivery(&self) -> bool {
        self.0.starts_with("delivery ")
    }
}

impl Name {
    /// A name that is a constant in the code.
    #[must_use]
    pub(crate) fn constant(name: &'static str) -> Self {
        Self(name.into())
    }
}

impl SecretName {
    /// A name that is a constant in the code.
    #[must_use]
    pub(crate) fn constant(name: &'static str) -> Self {
        Self(name.into())
    }
}

impl PluginName {
    /// The name of a bundled plugin, a constant in the code; a test parses each of them.
    #[must_use]
    pub(crate) fn constant(name: &'static str) -> Self {
        Self(name.into())
    }
}

/// SHA-256 of a component's bytes. OCI registries store it under the same digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PluginDigest([u8; 32]);

impl PluginDigest {
    /// Computes the digest of these bytes.
    #[must_use]
    pub fn of(component: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(component).into())
    }

    /// Lower-case hexadecimal, 64 characters.
    #[must_use]
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl fmt::Display for PluginDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for PluginDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PluginDigest {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = ParseIdError { what: "plugin digest", why: "is not sha256: and 64 hex digits" };
        let hex = text.strip_prefix("sha256:").ok_or_else(|| wrong.clone())?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(hex, &mut bytes).map_err(|_| wrong)?;
        Ok(Self(bytes))
    }
}

/// One HTTP request, for logs and plugins. Unique within a process; formatted only when it is printed.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(u64);

impl RequestId {
    /// Returns the next id.
    #[must_use]
    pub fn next() -> Self {
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Self(NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "req-{:x}-{:x}", std::process::id(), self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
