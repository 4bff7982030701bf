//! An operator's grants file. A plugin may do what the file allows and its component also asks for
//! ([`EffectiveGrants`]).
//!
//! ```toml
//! # grants/<tenant>/<plugin>.toml
//! [[egress]]                  # without a rule nothing is sent; a request has to match every key of one rule
//! host = "api.example.com"    # exact, or "*.example.com" for exactly one more label
//! scheme = "https"            # the default
//! port = 443                  # the default is the scheme's own
//! methods = ["GET"]           # the default
//! path = "/v1/"               # this path and everything below it; the default is "/"
//! networks = ["10.1.0.0/16"]  # addresses that are not public have to be named; the default is none
//! credentials = ["api"]       # which of the credentials below may be attached; the default is none
//!
//! [credentials.api]           # attached by the gateway; the plugin never sees it
//! secret = "example-api-key"  # a secret of the tenant
//! header = "authorization"    # or query = "key", or path = "CREDENTIAL": the text that it replaces
//! prefix = "Bearer "          # put before the secret; the default is nothing
//!
//! [secrets]                   # the plugin's name for it = the tenant's secret, which the plugin cannot read:
//! token = "example-token"     # it can verify signatures and compare tokens with it
//! signing = { secret = "example-webhook", prefix = "whsec_", encoding = "base64", use = ["sign"] }
//!                             # form and uses that differ from the default; encodings are text, hex, base64 and
//!                             # base64url, uses are verify, compare and sign
//!
//! [settings]                  # what the plugin reads through wasi:config
//! greeting = "hello"
//!
//! [key-value]                 # values that outlive a call, through wasi:keyvalue
//! bytes = 1048576             # of all keys and values together
//!
//! [folder]                    # one folder of this machine, which the plugin sees as /data
//! path = "/srv/reports"
//! access = "read"             # the default; or "read-write"
//! bytes = 268435456           # of everything in a folder that may be written to; the default
//!
//! [limits]                    # only what differs from the default
//! memory_mib = 16
//! ```
//!
//! The lines `component = "sha256:…"` (or a list of digests, or `"any"`) and `signer = "vendor"` (a name from the
//! settings), before the first table, say which component the file is for. Without either, it is for components
//! that ship with the gateway or were installed by an operator.
//!
//! Three more lines may stand there. `egress-mode = "count"` sends and counts requests that no rule allows, but
//! only to public addresses and without credentials. `clocks = "frozen"` stops time during a call.
//! `random = "fixed"` gives the same numbers in each call, so there is no randomness.

mod component;
mod effective;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;

use super::limits::{Limits, LimitsFile};
use super::ran::digest_of;
use crate::ids::SecretName;
use crate::outbound::rule::{EgressRule, EgressRuleFile, RuleError};
use crate::outbound::{CredentialPlace, EgressMode};
use crate::secrets::{SecretBinding, SecretUse, SecretUses};
use component::ComponentLine;
pub use component::{Components, Pin};
pub(super) use effective::{ComponentImports, EffectiveGrants};

/// Why a grants file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the grants file is not valid: {0}")]
pub struct GrantsError(String);

impl From<RuleError> for GrantsError {
    fn from(error: RuleError) -> Self {
        Self(error.to_string())
    }
}

/// What an operator allows one plugin of one tenant.
#[derive(Debug, Clone, Default)]
pub struct Grants {
    egress: Vec<EgressRule>,
    egress_mode: EgressMode,
    credentials: BTreeMap<String, CredentialRule>,
    secrets: BTreeMap<String, SecretBinding>,
    settings: BTreeMap<String, String>,
    values_bytes: Option<u64>,
    folder: Option<FolderRule>,
    clocks: Clocks,
    random: Random,
    limits: Limits,
    publish_tools: bool,
    pin: Pin,
    /// Why the file's grants are not in force. `None` if they are.
    inactive_reason: Option<String>,
    /// The digest of the file as written. `None` if there is no file, or its grants are not in force.
    pub(super) digest: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct GrantsFile {
    component: Option<ComponentLine>,
    signer: Option<String>,
    #[serde(default)]
    egress_mode: EgressMode,
    #[serde(default)]
    publish_tools: bool,
    #[serde(default)]
    clocks: Clocks,
    #[serde(default)]
    random: Random,
    #[serde(default)]
    egress: Vec<EgressRuleFile>,
    #[serde(default)]
    credentials: BTreeMap<String, CredentialFile>,
    #[serde(default)]
    secrets: BTreeMap<String, SecretBinding>,
    #[serde(default)]
    settings: BTreeMap<String, String>,
    key_value: Option<ValuesFile>,
    folder: Option<FolderRule>,
    #[serde(default)]
    limits: LimitsFile,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialFile {
    secret: SecretName,
    header: Option<String>,
    query: Option<String>,
    path: Option<String>,
    #[serde(default)]
    prefix: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ValuesFile {
    bytes: u64,
}

/// What a plugin sees of the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Clocks {
    /// The gateway's clock.
    #[default]
    Live,
    /// The moment at which the call started: nothing can be timed.
    Frozen,
}

/// What a plugin gets as random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Random {
    /// Unpredictable numbers.
    #[default]
    Live,
    /// The same numbers in each call.
    Fixed,
}

/// A folder that a plugin may use.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FolderRule {
    pub(super) path: PathBuf,
    #[serde(default)]
    pub(super) access: FolderAccess,
    /// The plugin cannot write more once everything below the folder takes this many bytes.
    #[serde(default = "folder_bytes")]
    pub(super) bytes: u64,
}

/// Enough for what an agent works on, without filling most disks.
fn folder_bytes() -> u64 {
    256 << 20
}

/// What a plugin may do in its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum FolderAccess {
    /// Read files.
    #[default]
    Read,
    /// Create, change and delete files as well.
    ReadWrite,
}

/// A credential, and its place in a request.
#[derive(Debug, Clone)]
struct CredentialRule {
    secret: SecretName,
    place: CredentialPlace,
    prefix: String,
}

impl Grants {
    /// Parses a grants file.
    ///
    /// # Errors
    /// If the file is not valid; the [`GrantsError`] says what is wrong. An unknown key is an error, since a
    /// misspelt limit would otherwise not limit anything.
    pub fn parse(toml: &str) -> Result<Self, GrantsError> {
        let file: GrantsFile =
            toml::from_str(toml).map_err(|error| GrantsError(error.to_string()))?;
        let egress: Vec<_> =
            file.egress.into_iter().map(EgressRule::parse).collect::<Result<_, RuleError>>()?;
        let credentials = file.credentials.into_iter();
        let credentials: BTreeMap<_, _> = credentials
            .map(|(name, file)| Ok((name.clone(), CredentialRule::parse(&name, file)?)))
            .collect::<Result<_, GrantsError>>()?;
        let named = egress.iter().flat_map(EgressRule::credentials);
        if let Some(unknown) = named.into_iter().find(|name| !credentials.contains_key(*name)) {
            let what =
                format!("an egress rule names the credential {unknown:?}, which is not there");
            return Err(GrantsError(what));
        }
        if file.folder.as_ref().is_some_and(|folder| !folder.path.is_absolute()) {
            return Err(GrantsError("the folder's path is not absolute".to_owned()));
        }
        Ok(Self {
            egress,
            egress_mode: file.egress_mode,
            credentials,
            secrets: file.secrets,
            settings: file.settings,
            values_bytes: file.key_value.map(|values| values.bytes),
            folder: file.folder,
            clocks: file.clocks,
            random: file.random,
            limits: file.limits.resolve(),
            publish_tools: file.publish_tools,
            pin: Pin::parse(file.component, file.signer)?,
            inactive_reason: None,
            digest: Some(digest_of(toml)),
        })
    }

    /// The tenant's secrets that the file names, for plugins and for credentials.
    pub fn secret_names(&self) -> impl Iterator<Item = &SecretName> {
        let attached = self.credentials.values().map(|credential| &credential.secret);
        self.secrets.values().map(|bound| &bound.secret).chain(attached)
    }

    /// Checks that the tenant's secrets allow the uses that the file makes of them. `uses` looks up a secret's
    /// allowed uses; a secret that does not exist yet is not checked.
    ///
    /// # Errors
    /// If a secret does not allow a use. The [`GrantsError`] names the line and the secret.
    pub fn check_uses<'u>(
        &self,
        uses: impl Fn(&SecretName) -> Option<&'u SecretUses>,
    ) -> Result<(), GrantsError> {
        for (name, binding) in &self.secrets {
            let checked = uses(&binding.secret).map_or(Ok(()), |uses| binding.check(uses));
            checked.map_err(|beyond| GrantsError(format!("[secrets] {name}: {beyond}")))?;
        }
        for (name, CredentialRule { secret, .. }) in &self.credentials {
            let checked = uses(secret).map_or(Ok(()), |uses| uses.check(secret, [SecretUse::Send]));
            checked.map_err(|beyond| GrantsError(format!("[credentials.{name}]: {beyond}")))?;
        }
        Ok(())
    }

    /// Whether the file publishes the plugin's tools at `/mcp`, where every key of the tenant may call them.
    #[must_use]
    pub fn publishes_tools(&self) -> bool {
        self.publish_tools
    }

    /// The settings that the plugin reads through `wasi:config`.
    #[must_use]
    pub fn settings(&self) -> &BTreeMap<String, String> {
        &self.settings
    }
}

impl CredentialRule {
    fn parse(name: &str, file: CredentialFile) -> Result<Self, GrantsError> {
        let wrong = |what: &str| GrantsError(format!("the credential {name:?} {what}"));
        let place = match (file.header, file.query, file.path) {
            (Some(header), None, None) => {
                let header = header.to_ascii_lowercase();
                let header = http::HeaderName::from_bytes(header.as_bytes());
                CredentialPlace::Header(header.map_err(|_| wrong("has no valid header name"))?)
            }
            (None, Some(query), None) if !query.is_empty() => CredentialPlace::Query(query),
            (None, None, Some(text)) => {
                // The text stands in URLs that the plugin writes, so it must survive their parsing.
                if text.len() < 4 || !text.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                    return Err(wrong("needs four or more letters and digits as its path"));
                }
                CredentialPlace::Path(text)
            }
            _ => return Err(wrong("needs one of header, query and path")),
        };
        Ok(Self { secret: file.secret, place, prefix: file.prefix })
    }
}

#[cfg(test)]
mod tests;
