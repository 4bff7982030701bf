//! What a plugin may do: asked for by the component's imports **and** allowed by the operator's file.

use std::collections::BTreeMap;

use super::{Clocks, CredentialRule, FolderRule, Grants, Random};
use crate::ids::SecretName;
use crate::outbound::{Credential, EgressPolicy};
use crate::sandbox::bound_secret::BoundSecret;
use crate::sandbox::limits::Limits;
use crate::secrets::{SecretUse, TenantSecret};

/// What a component asks for, read from its imports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) struct Asked {
    /// It imports `wardgate:plugin/egress` or `wasi:http/outgoing-handler`.
    pub egress: bool,
    /// It imports `wardgate:plugin/secrets`.
    pub secrets: bool,
    /// It imports `wasi:config/store`.
    pub settings: bool,
    /// It imports `wasi:keyvalue`.
    pub values: bool,
    /// It imports `wasi:filesystem`.
    pub folder: bool,
}

/// What a plugin may do. Made here only, so that nothing reaches an instance that was not both asked
/// for and allowed.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Granted {
    egress: EgressPolicy,
    secrets: BTreeMap<String, BoundSecret>,
    settings: BTreeMap<String, String>,
    values_bytes: Option<u64>,
    folder: Option<FolderRule>,
    clocks: Clocks,
    random: Random,
    limits: Limits,
    /// Why what the operator's file gives is not in force.
    withheld: Option<String>,
    memory_bytes_allowed: usize,
}

impl Granted {
    /// The common part of both, with the values of the tenant's secrets that it names.
    #[must_use]
    pub(in super::super) fn resolve(
        asked: Asked,
        allowed: Grants,
        secrets: &BTreeMap<SecretName, TenantSecret>,
        memory_bytes_max: usize,
    ) -> Self {
        fn only<T: Default>(asked: bool, allowed: T) -> T {
            if asked { allowed } else { T::default() }
        }
        let credentials = only(asked.egress, allowed.credentials).into_iter();
        let credentials = credentials.map(|(name, rule)| {
            let value = secrets.get(&rule.secret).cloned();
            let CredentialRule { secret, place, prefix } = rule;
            let may_be_sent = value.as_ref().is_none_or(|value| value.uses.allow(SecretUse::Send));
            let value = value.map(|value| value.versions);
            (name, Credential { place, prefix, value, may_be_sent, secret })
        });
        let named = only(asked.secrets, allowed.secrets).into_iter();
        let named = named.map(|(name, binding)| {
            let secret = secrets.get(&binding.secret).cloned();
            (name, BoundSecret::new(binding, secret))
        });
        Self {
            egress: EgressPolicy::new(
                only(asked.egress, allowed.egress),
                only(asked.egress, allowed.egress_mode),
                credentials.collect(),
            ),
            secrets: named.collect(),
            settings: only(asked.settings, allowed.settings),
            values_bytes: only(asked.values, allowed.values_bytes),
            folder: only(asked.folder, allowed.folder),
            clocks: allowed.clocks,
            random: allowed.random,
            limits: Limits {
                // The pool has no larger slots, and what it refuses would be told as another number.
                memory_bytes: allowed.limits.memory_bytes.min(memory_bytes_max),
                ..allowed.limits
            },
            withheld: allowed.withheld,
            memory_bytes_allowed: allowed.limits.memory_bytes,
        }
    }

    /// What the file allows of memory, in bytes, whatever one call may have at most.
    #[must_use]
    pub(in super::super) fn memory_bytes_allowed(&self) -> usize {
        self.memory_bytes_allowed
    }

    /// Why what the operator's file gives is not in force. None: it is.
    #[must_use]
    pub(in super::super) fn withheld_because(&self) -> Option<&str> {
        self.withheld.as_deref()
    }

    /// Where it may send requests, and with which credentials.
    #[must_use]
    pub(in super::super) fn egress(&self) -> &EgressPolicy {
        &self.egress
    }

    /// Whether there is a secret that it may open.
    #[must_use]
    pub(in super::super) fn has_secrets(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// The secret that the plugin calls this.
    #[must_use]
    pub(in super::super) fn secret(&self, name: &str) -> Option<&BoundSecret> {
        self.secrets.get(name)
    }

    /// The plugin's settings.
    #[must_use]
    pub(in super::super) fn settings(&self) -> &BTreeMap<String, String> {
        &self.settings
    }

    /// Bytes of its values. None: it may keep none.
    #[must_use]
    pub(in super::super) fn values_bytes(&self) -> Option<u64> {
        self.values_bytes
    }

    /// The folder that it may use.
    #[must_use]
    pub(in super::super) fn folder(&self) -> Option<&FolderRule> {
        self.folder.as_ref()
    }

    /// What it sees of the time.
    #[must_use]
    pub(in super::super) fn clocks(&self) -> Clocks {
        self.clocks
    }

    /// What it gets as random numbers.
    #[must_use]
    pub(in super::super) fn random(&self) -> Random {
        self.random
    }

    /// The plugin's limits.
    #[must_use]
    pub(in super::super) fn limits(&self) -> &Limits {
        &self.limits
    }
}
