//! From a plugin's name to a binding that can be called.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::sync::{Arc, LazyLock, PoisonError, Weak};
use std::time::Instant;

use futures::StreamExt as _;

use super::grants::parse_grants;
use super::{PluginUnavailable, Plugins};
use crate::clock::Timestamp;
use crate::ids::{PluginDigest, PluginName, SecretName, TenantId};
use crate::sandbox::{BUNDLED, Binding, Grants, Loaded, PluginStats};
use crate::store::StoreError;
use crate::tenants::{InstalledPlugin, Installer};
use crate::vault::{OpenedSecrets, VaultError};

/// Components that are loaded from the code cache at once at the start.
const PRELOADED_AT_ONCE: usize = 4;

/// The names of the plugins that ship with the gateway.
pub fn bundled() -> impl Iterator<Item = PluginName> {
    BUNDLED.iter().map(|(name, _)| PluginName::constant(name))
}

/// The component of a plugin that ships with the gateway.
#[must_use]
pub fn bundled_component(name: &PluginName) -> Option<&'static [u8]> {
    BUNDLED_DIGESTS.get(name.as_str()).map(|(_, component)| *component)
}

/// The bundled components with their digests, by name. Hashed once, since every binding of one asks for it.
pub(super) static BUNDLED_DIGESTS: LazyLock<HashMap<&str, (PluginDigest, &[u8])>> =
    LazyLock::new(|| {
        let all = BUNDLED.iter();
        all.map(|(name, component)| (*name, (PluginDigest::of(component), *component))).collect()
    });

/// The component that a plugin's name refers to.
#[derive(Debug)]
pub(super) enum CurrentComponent {
    /// One that ships with the gateway.
    Bundled { name: PluginName, digest: PluginDigest, component: &'static [u8] },
    /// The tenant's own.
    Installed(Box<InstalledPlugin>),
}

impl CurrentComponent {
    pub(super) fn name(&self) -> &PluginName {
        match self {
            Self::Bundled { name, .. } => name,
            Self::Installed(installed) => &installed.name,
        }
    }

    pub(super) fn digest(&self) -> PluginDigest {
        match self {
            Self::Bundled { digest, .. } => *digest,
            Self::Installed(installed) => installed.digest,
        }
    }

    /// Why no operator vouches for it. None if an operator does.
    pub(super) fn unvouched_reason(&self) -> Option<&'static str> {
        let Self::Installed(installed) = self else { return None };
        match installed.installed_by {
            Some(Installer::Operator) => None,
            Some(Installer::Admin) => Some("an admin of the tenant installed this component"),
            None => Some("this component was installed before it was written down by whom"),
        }
    }
}

/// A binding, and what it was bound with.
#[derive(Debug)]
pub(super) struct Bound {
    grants: String,
    /// Why the grants are withheld. None if they are in force.
    inactive_reason: Option<String>,
    secrets: Vec<(SecretName, Timestamp)>,
    digest: PluginDigest,
    pub(super) stats: Arc<PluginStats>,
    /// Callers hold the binding; one that has not been called for a while is dropped and made again.
    binding: Weak<Binding>,
}

impl Bound {
    /// Whether a binding made now would be the same.
    fn matches(
        &self,
        digest: PluginDigest,
        text: &str,
        grants: &Grants,
        opened: &OpenedSecrets,
    ) -> bool {
        self.digest == digest
            && self.grants == text
            && self.inactive_reason.as_deref() == grants.inactive_reason()
            && self.secrets == opened.stamp
    }
}

impl Plugins {
    /// The binding of a tenant's plugin, from the cache or made now.
    ///
    /// # Errors
    /// [`PluginUnavailable`].
    pub async fn binding(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<Arc<Binding>, PluginUnavailable> {
        let key = (tenant, name.clone());
        let changes = self.store.changes();
        if let Some((binding, stamp)) = self.ready.get(&key)
            && changes.is_current(Some(tenant), stamp)
        {
            return Ok(binding);
        }
        let before = changes.before_reading();
        let binding = match self.bind(tenant, name).await {
            // The plugin was replaced or removed after its row was read and before its file was.
            Err(PluginUnavailable::File(_, _, error)) if error.kind() == ErrorKind::NotFound => {
                self.bind(tenant, name).await?
            }
            bound => bound?,
        };
        if let Some(stamp) = changes.stamp(Some(tenant), before) {
            self.ready.insert(key, (Arc::clone(&binding), stamp));
        }
        Ok(binding)
    }

    async fn bind(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<Arc<Binding>, PluginUnavailable> {
        let current = self.current(tenant, name).await?;
        let loaded = self.load(tenant, name, &current).await?;
        let grants_text = self.grants_text(tenant, name).await?;
        let grants = self.effective_grants(tenant, parse_grants(name, &grants_text)?, &current);
        let opened = self.vault.open(tenant, grants.secret_names()).await;
        let opened = opened.map_err(|error| match error {
            VaultError::Store(error) => PluginUnavailable::Store(error),
            error => PluginUnavailable::Secret(name.clone(), error),
        })?;
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = loaded.digest();
        let before = bound.get(&(tenant, name.clone()));
        let stats = before.map(|before| Arc::clone(&before.stats)).unwrap_or_default();
        if let Some(before) = before {
            if !before.matches(digest, &grants_text, &grants, &opened) {
                // Another version or other grants lift the quarantine; the counters stay.
                stats.release();
            } else if let Some(binding) = before.binding.upgrade() {
                return Ok(binding);
            }
        }
        let inactive_reason = grants.inactive_reason().map(str::to_owned);
        if let Some(why) = &inactive_reason {
            tracing::warn!(%tenant, plugin = %name, "{why}");
        }
        let binding = self.sandbox.bind(
            tenant,
            name.clone(),
            loaded,
            grants,
            &opened.secrets,
            Arc::clone(&stats),
        );
        let now = Bound {
            grants: grants_text,
            inactive_reason,
            secrets: opened.stamp,
            digest,
            stats,
            binding: Arc::downgrade(&binding),
        };
        bound.insert((tenant, name.clone()), now);
        Ok(binding)
    }

    /// The component that a plugin's name refers to: the tenant's own before a bundled one.
    pub(super) async fn current(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<CurrentComponent, PluginUnavailable> {
        if let Some(installed) = self.store.plugin(tenant, name).await? {
            return Ok(CurrentComponent::Installed(Box::new(installed)));
        }
        let bundled = BUNDLED_DIGESTS.get(name.as_str());
        let (digest, component) =
            bundled.ok_or_else(|| PluginUnavailable::Unknown(name.clone()))?;
        Ok(CurrentComponent::Bundled { name: name.clone(), digest: *digest, component })
    }

    /// The component, compiled. Its file is read only if no compiled code of it is cached.
    pub(super) async fn load(
        &self,
        tenant: TenantId,
        name: &PluginName,
        current: &CurrentComponent,
    ) -> Result<Arc<Loaded>, PluginUnavailable> {
        let (digest, component) = match current {
            CurrentComponent::Installed(installed) => {
                return self.load_version(tenant, installed).await;
            }
            CurrentComponent::Bundled { digest, component, .. } => (*digest, *component),
        };
        if let Some(loaded) = self.sandbox.cached(digest).await {
            return Ok(loaded);
        }
        let loaded = self.sandbox.load(TenantId::GATEWAY, Arc::from(component)).await;
        loaded.map_err(|error| PluginUnavailable::NotLoadable(name.clone(), error))
    }

    /// An installed version, compiled. Its file is read only if no compiled code of it is cached.
    pub(super) async fn load_version(
        &self,
        tenant: TenantId,
        installed: &InstalledPlugin,
    ) -> Result<Arc<Loaded>, PluginUnavailable> {
        let name = &installed.name;
        self.signers
            .admit(installed.signed.as_ref())
            .map_err(|error| PluginUnavailable::Signature(name.clone(), error))?;
        if let Some(loaded) = self.sandbox.cached(installed.digest).await {
            return Ok(loaded);
        }
        let component = self.component_of(installed).await?;
        let loaded = self.sandbox.load(tenant, component.into()).await;
        loaded.map_err(|error| PluginUnavailable::NotLoadable(name.clone(), error))
    }

    /// The bytes of a plugin's current component: the tenant's own, or a bundled one.
    ///
    /// # Errors
    /// [`PluginUnavailable`].
    pub async fn component(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<Vec<u8>, PluginUnavailable> {
        if let Some(installed) = self.store.plugin(tenant, name).await? {
            return self.component_of(&installed).await;
        }
        let bundled = bundled_component(name).map(<[u8]>::to_vec);
        bundled.ok_or_else(|| PluginUnavailable::Unknown(name.clone()))
    }

    /// The file of an installed version, after its digest was checked.
    pub(super) async fn component_of(
        &self,
        installed: &InstalledPlugin,
    ) -> Result<Vec<u8>, PluginUnavailable> {
        let name = &installed.name;
        let component = self.components.read_component(installed.digest).await;
        let component = component
            .map_err(|error| PluginUnavailable::File(name.clone(), "its component", error))?;
        let expected = installed.digest;
        // Hashing 64 MiB takes a tenth of a second.
        let checked = tokio::task::spawn_blocking(move || {
            (PluginDigest::of(&component) == expected).then_some(component)
        });
        let checked = checked.await.ok().flatten();
        checked.ok_or_else(|| PluginUnavailable::Tampered(name.clone()))
    }

    /// Whether a tenant can use a plugin of this name: its own, or a bundled one.
    ///
    /// # Errors
    /// If the store failed.
    pub async fn is_installed(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<bool, StoreError> {
        Ok(bundled().any(|bundled| bundled == *name)
            || self.store.plugin(tenant, name).await?.is_some())
    }

    /// Loads what calls are going to need: the bundled plugins, and the most recently installed ones of all tenants,
    /// up to `plugins.preload_max` and only if their compiled code is cached. All others are loaded at their first call.
    pub async fn preload(self) {
        let start = Instant::now();
        self.load_bundled().await;
        let free_slots = self.sandbox.loaded_max().saturating_sub(BUNDLED_DIGESTS.len() as u64);
        let max = u32::try_from(free_slots).unwrap_or(u32::MAX).min(self.preload_max);
        let installed = match self.store.current_components(max).await {
            Ok(digests) => digests,
            Err(error) => {
                tracing::warn!(%error, "plugins are loaded when they are first called");
                return;
            }
        };
        let all = installed.len();
        let loading = futures::stream::iter(installed).map(|digest| self.sandbox.cached(digest));
        let ready = loading
            .buffer_unordered(PRELOADED_AT_ONCE)
            .filter(|loaded| std::future::ready(loaded.is_some()))
            .count()
            .await;
        let milliseconds = start.elapsed().as_millis();
        tracing::info!(installed = all, ready, milliseconds, "plugins are loaded");
    }

    async fn load_bundled(&self) {
        for (name, (digest, component)) in BUNDLED_DIGESTS.iter() {
            if self.sandbox.cached(*digest).await.is_some() {
                continue;
            }
            if let Err(error) = self.sandbox.load(TenantId::GATEWAY, (*component).into()).await {
                tracing::error!(plugin = name, %error, "a bundled plugin cannot be loaded");
            }
        }
    }

    /// The number of loaded components, those of tenants and bundled ones.
    pub async fn loaded_count(&self) -> u64 {
        self.sandbox.loaded_count().await
    }
}
