//! The stored versions of a plugin: reads them, makes an earlier one current, removes them all.

use std::sync::PoisonError;

use super::catalog::CurrentComponent;
use super::grants::parse_grants;
use super::{Installed, PluginUnavailable, Plugins};
use crate::ids::{PluginDigest, PluginName, TenantId};
use crate::store::StoreError;
use crate::tenants::PluginVersion;

/// Why a plugin cannot be rolled back. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum RollBackError {
    /// The tenant has not installed a plugin of this name.
    #[error("no plugin of this name is installed")]
    NotInstalled,
    /// The version is not stored.
    #[error("no such version is kept")]
    UnknownVersion,
    /// The current version is the oldest that is stored.
    #[error("there is no earlier version to roll back to")]
    NoEarlier,
    /// The version cannot be loaded.
    #[error(transparent)]
    Unavailable(#[from] PluginUnavailable),
}

impl From<StoreError> for RollBackError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.into())
    }
}

impl Plugins {
    /// The stored versions of a tenant's plugin, the most recently installed first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn versions(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<Vec<PluginVersion>, StoreError> {
        self.store.plugin_versions(tenant, name).await
    }

    /// Makes another version of a plugin current: the named one, or the version installed before the current one,
    /// skipping those that were rolled back from. It is loaded first. The plugin keeps its grants.
    ///
    /// # Errors
    /// [`RollBackError`].
    pub async fn roll_back(
        &self,
        tenant: TenantId,
        name: &PluginName,
        to: Option<PluginDigest>,
    ) -> Result<Installed, RollBackError> {
        let versions = self.store.plugin_versions(tenant, name).await?;
        let current = versions.iter().enumerate().find(|(_, version)| version.is_current);
        let (index, current) = current.ok_or(RollBackError::NotInstalled)?;
        let target = match to {
            Some(digest) => versions
                .iter()
                .find(|version| version.plugin.digest == digest)
                .ok_or(RollBackError::UnknownVersion)?,
            None => versions
                .iter()
                .skip(index + 1)
                .find(|version| !version.is_skipped)
                .ok_or(RollBackError::NoEarlier)?,
        };
        // A version whose file has changed is refused, even if compiled code of it is cached.
        self.component_of(&target.plugin).await?;
        let loaded = self.load_version(tenant, &target.plugin).await?;
        if !target.is_current {
            let (from, to) = (current.plugin.digest, target.plugin.digest);
            self.store.switch_plugin(tenant, name, from, to).await?;
            self.publish_change(tenant).await;
            tracing::info!(%tenant, plugin = %name, %from, %to, "a plugin was rolled back");
        }
        // Problems with its grants are notes: the rollback has happened.
        let granted =
            self.grants_text(tenant, name).await.and_then(|text| parse_grants(name, &text));
        let notes = match granted {
            Ok(grants) => {
                let current = CurrentComponent::Installed(Box::new(target.plugin.clone()));
                let grants = self.effective_grants(tenant, grants, &current);
                let notes = self.validate_grants(tenant, name, &loaded, &grants).await;
                let inherited = Self::inherited_grants_note(tenant, name, &grants);
                notes.map(|notes| inherited.into_iter().chain(notes).collect())
            }
            Err(error) => Err(error),
        };
        let notes = notes.unwrap_or_else(|error| vec![error.to_string()]);
        Ok(Installed { plugin: target.plugin.clone(), roles: loaded.role_names(), notes })
    }

    /// Removes a plugin of a tenant with all its versions. False if the tenant has not installed it.
    ///
    /// # Errors
    /// If the store failed.
    pub async fn remove(&self, tenant: TenantId, name: &PluginName) -> Result<bool, StoreError> {
        let removed = self.store.delete_plugin(tenant, name).await?;
        let key = (tenant, name.clone());
        self.publish_change(tenant).await;
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        self.remove_unreferenced(&removed).await;
        Ok(!removed.is_empty())
    }
}
