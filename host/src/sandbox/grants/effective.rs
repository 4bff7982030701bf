//! The grants of a plugin: what the component's imports ask for **and** the operator's file allows.

use std::collections::BTreeMap;

use super::{Clocks, CredentialRule, FolderRule, Grants, Random};
use crate::ids::SecretName;
use crate::outbound::{Credential, EgressPolicy};
use crate::sandbox::bound_secret::BoundSecret;
use crate::sandbox::limits::Limits;
use crate::secrets::{SecretUse, TenantSecret};

/// The grants that a component asks for, read from its imports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) struct ComponentImports {
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

/// What a plugin may do. Created only here, so that an instance gets nothing that is not both asked for and allowed.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct EffectiveGrants {
    egress: EgressPolicy,
    secrets: BTreeMap<String, BoundSecret>,
    settings: BTreeMap<String, String>,
    values_bytes: Option<u64>,
    folder: Option<FolderRule>,
    clocks: Clocks,
    random: Random,
    limits: Limits,
    publish_tools: bool,
    /// Why the grants of the operator's file are not in force.
    inactive_reason: Option<String>,
    memory_bytes_allowed: usize,
}

impl EffectiveGrants {
    /// The grants that are both asked for and allowed, with the values of the tenant's secrets that they name.
    /// Clocks, randomness and limits apply whatever the component imports.
    #[must_use]
    pub(in super::super) fn resolve(
        imports: ComponentImports,
        allowed: Grants,
        secrets: &BTreeMap<SecretName, TenantSecret>,
        memory_bytes_max: usize,
    ) -> Self {
        fn only<T: Default>(imports: bool, allowed: T) -> T {
            if imports { allowed } else { T::default() }
        }
        let credentials = only(imports.egress, allowed.credentials).into_iter();
        let credentials = credentials.map(|(name, rule)| {
            let value = secrets.get(&rule.secret).cloned();
            let CredentialRule { secret, place, prefix } = rule;
            let may_be_sent = value.as_ref().is_none_or(|value| value.uses.allow(SecretUse::Send));
            let value = value.map(|value| value.versions);
            (name, Credential { place, prefix, value, may_be_sent, secret })
        });
        let named = only(imports.secrets, allowed.secrets).into_iter();
        let named = named.map(|(name, binding)| {
            let secret = secrets.get(&binding.secret).cloned();
            (name, BoundSecret::new(binding, secret))
        });
        Self {
            egress: EgressPolicy::new(
                only(imports.egress, allowed.egress),
                only(imports.egress, allowed.egress_mode),
                credentials.collect(),
            ),
            secrets: named.collect(),
            settings: only(imports.settings, allowed.settings),
            values_bytes: only(imports.values, allowed.values_bytes),
            folder: only(imports.folder, allowed.folder),
            clocks: allowed.clocks,
            random: allowed.random,
            limits: Limits {
                // The pool's slots are no larger, and a refusal by the pool would report another number.
                memory_bytes: allowed.limits.memory_bytes.min(memory_bytes_max),
                ..allowed.limits
            },
            publish_tools: allowed.publish_tools,
            inactive_reason: allowed.inactive_reason,
            memory_bytes_allowed: allowed.limits.memory_bytes,
        }
    }

    /// The memory that the file allows, in bytes, before it is cut to what one call may have.
    #[must_use]
    pub(in super::super) fn memory_bytes_allowed(&self) -> usize {
        self.memory_bytes_allowed
    }

    /// Why the grants of the operator's file are not in force. `None` if they are.
    #[must_use]
    pub(in super::super) fn inactive_reason(&self) -> Option<&str> {
        self.inactive_reason.as_deref()
    }

    /// Whether the plugin's tools are published.
    #[must_use]
    pub(in super::super) fn publishes_tools(&self) -> bool {
        self.publish_tools
    }

    /// Where the plugin may send requests, and with which credentials.
    #[must_use]
    pub(in super::super) fn egress(&self) -> &EgressPolicy {
        &self.egress
    }

    /// Whether any secret is bound to the plugin.
    #[must_use]
    pub(in super::super) fn has_secrets(&self) -> bool {
        !self.secrets.is_empty()
    }

    /// The secret that is bound to this name.
    #[must_use]
    pub(in super::super) fn secret(&self, name: &str) -> Option<&BoundSecret> {
        self.secrets.get(name)
    }

    /// The plugin's settings.
    #[must_use]
    pub(in super::super) fn settings(&self) -> &BTreeMap<String, String> {
        &self.settings
    }

    /// The quota of the plugin's values, in bytes. `None` if it may store none.
    #[must_use]
    pub(in super::super) fn values_bytes(&self) -> Option<u64> {
        self.values_bytes
    }

    /// The folder that the plugin may use.
    #[must_use]
    pub(in super::super) fn folder(&self) -> Option<&FolderRule> {
        self.folder.as_ref()
    }

    /// Which clock the plugin sees.
    #[must_use]
    pub(in super::super) fn clocks(&self) -> Clocks {
        self.clocks
    }

    /// Which random numbers the plugin gets.
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
