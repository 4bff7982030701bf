//! Installs a component as the current version of a plugin.

use std::sync::{Arc, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::catalog::{CurrentComponent, bundled_component};
use super::gc::RemoveUnlessInstalled;
use super::grants::parse_grants;
use super::metadata::Metadata;
use super::{COMPONENT_BYTES_MAX, PluginUnavailable, Plugins};
use crate::ids::{PluginDigest, PluginName, TenantId};
use crate::sandbox::{Grants, Loaded};
use crate::store::StoreError;
use crate::tenants::{InstalledPlugin, Installer, PluginVersion, Provenance, VerifiedSignature};

/// The most concurrent installations of one tenant.
const INSTALLATIONS_MAX: usize = 2;

/// Serializes a tenant's changes and bounds its concurrent installations.
#[derive(Debug)]
pub(super) struct TenantChanges {
    installs: Arc<Semaphore>,
    /// Held while grants and version are written, so that both come from the same request.
    pub(super) change: tokio::sync::Mutex<()>,
}

impl Default for TenantChanges {
    fn default() -> Self {
        let installs = Arc::new(Semaphore::new(INSTALLATIONS_MAX));
        Self { installs, change: tokio::sync::Mutex::default() }
    }
}

/// A component to install, with what its installer says about it.
#[derive(Debug)]
pub struct Offered {
    /// The component.
    pub component: Vec<u8>,
    /// Where it comes from.
    pub provenance: Provenance,
    /// The publisher's name of this version. A version in the component itself takes precedence.
    pub version: Option<String>,
    /// A minisign signature of the component: the text of a `.minisig` file.
    pub signature: Option<String>,
    /// The kind of key it is installed with: an operator's grants are in force for what an operator installs.
    pub by: Installer,
}

impl From<Vec<u8>> for Offered {
    /// A component without provenance or signature, installed by this process's operator.
    fn from(component: Vec<u8>) -> Self {
        let by = Installer::Operator;
        Self { component, provenance: Provenance::File, version: None, signature: None, by }
    }
}

/// The result of an installation or a rollback.
#[derive(Debug, Clone)]
pub struct Installed {
    /// The version that is current now.
    pub plugin: InstalledPlugin,
    /// The roles it can be used in.
    pub roles: Vec<&'static str>,
    /// What an operator should know: missing grants, missing settings, functions of a foreign component that
    /// cannot be tools.
    pub notes: Vec<String>,
}

/// A component that is ready to be installed: its signature was checked, and it is compiled.
#[derive(Debug)]
pub struct Prepared {
    cleanup: RemoveUnlessInstalled,
    tenant: TenantId,
    name: PluginName,
    component: Arc<[u8]>,
    loaded: Arc<Loaded>,
    signed: Option<VerifiedSignature>,
    by: Installer,
    provenance: Provenance,
    version: Option<String>,
    /// The text of the submitted grants, if any.
    grants: Option<String>,
    granted: Grants,
}

impl Plugins {
    /// A permit to install a plugin for a tenant, held until the installation ends: each holds a whole component in
    /// memory, and components of all tenants are compiled one after the other. None if the tenant's other
    /// installations take longer than `plugins.install_wait_seconds_max`. Cancel safe.
    pub async fn install_permit(&self, tenant: TenantId) -> Option<OwnedSemaphorePermit> {
        let installs = Arc::clone(&self.tenant_changes(tenant).installs);
        tokio::time::timeout(self.install_wait_max, installs.acquire_owned()).await.ok()?.ok()
    }

    /// The lock and the limit of a tenant's changes.
    pub(super) fn tenant_changes(&self, tenant: TenantId) -> Arc<TenantChanges> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tenants.entry(tenant).or_default())
    }

    /// Invalidates the cached bindings of a tenant, in this process and in others. A change of grants needs it, since
    /// they are files and no row of the store changes with them.
    pub(super) async fn publish_change(&self, tenant: TenantId) {
        if let Err(error) = self.store.note_change(tenant).await {
            tracing::error!(%tenant, %error, "changed grants hold in a few seconds only");
        }
    }

    /// Installs a component for a tenant as the current version of the plugin of this name. Its signature is checked
    /// and it is compiled and validated first; other gateways on the same folder use it within a second. The plugin
    /// keeps its grants, unless `grants` replace them; whether they are in force for this component depends on the
    /// component that they name.
    ///
    /// # Errors
    /// [`PluginUnavailable`]; nothing has been installed then.
    pub async fn install(
        &self,
        tenant: TenantId,
        name: &PluginName,
        offered: impl Into<Offered>,
        grants: Option<&str>,
    ) -> Result<Installed, PluginUnavailable> {
        let prepared = self.prepare(tenant, name, offered, grants).await?;
        self.install_prepared(prepared).await
    }

    /// The first part of [`Self::install`], which takes the time and changes nothing. Dropping the future ends the
    /// compilation.
    ///
    /// # Errors
    /// [`PluginUnavailable`].
    pub async fn prepare(
        &self,
        tenant: TenantId,
        name: &PluginName,
        offered: impl Into<Offered>,
        grants: Option<&str>,
    ) -> Result<Prepared, PluginUnavailable> {
        let offered = offered.into();
        if offered.component.len() as u64 > COMPONENT_BYTES_MAX {
            return Err(PluginUnavailable::TooLarge(name.clone()));
        }
        let granted = match grants {
            Some(text) => self.check_submitted(tenant, name, text).await?,
            None => parse_grants(name, &self.grants_text(tenant, name).await?)?,
        };
        let component: Arc<[u8]> = offered.component.into();
        let (digest, signed, metadata) =
            self.inspect_offered(name, &component, offered.signature).await?;
        let cleanup = RemoveUnlessInstalled { plugins: self.clone(), digest: Some(digest) };
        let loaded = self.sandbox.load_hashed(tenant, digest, Arc::clone(&component)).await;
        let loaded = loaded.map_err(|error| PluginUnavailable::NotLoadable(name.clone(), error))?;
        Ok(Prepared {
            cleanup,
            tenant,
            name: name.clone(),
            version: metadata.version.or(offered.version),
            component,
            loaded,
            signed,
            by: offered.by,
            provenance: offered.provenance,
            grants: grants.map(str::to_owned),
            granted,
        })
    }

    /// The digest of a component, its signature and its metadata.
    async fn inspect_offered(
        &self,
        name: &PluginName,
        component: &Arc<[u8]>,
        signature: Option<String>,
    ) -> Result<(PluginDigest, Option<VerifiedSignature>, Metadata), PluginUnavailable> {
        let (signers, component) = (self.signers.clone(), Arc::clone(component));
        // Signature and digest both read all of up to 64 MiB.
        let read = tokio::task::spawn_blocking(move || {
            let signed = signers.check(&component, signature.as_deref())?;
            Ok((PluginDigest::of(&component), signed, Metadata::from_component(&component)))
        });
        let file = |error| PluginUnavailable::File(name.clone(), "its component", error);
        let read = read.await.map_err(|error| file(std::io::Error::other(error)))?;
        read.map_err(|error| PluginUnavailable::Signature(name.clone(), error))
    }

    /// The second part of [`Self::install`].
    ///
    /// # Errors
    /// [`PluginUnavailable`]; nothing has been installed then.
    pub async fn install_prepared(
        &self,
        prepared: Prepared,
    ) -> Result<Installed, PluginUnavailable> {
        let Prepared { tenant, name, component, loaded, granted, grants, .. } = prepared;
        let mut cleanup = prepared.cleanup;
        let (name, grants) = (&name, grants.as_deref());
        let digest = loaded.digest();
        let installed = InstalledPlugin {
            name: name.clone(),
            digest,
            installed_at: self.clock.now(),
            installed_by: Some(prepared.by),
            provenance: prepared.provenance,
            version: prepared.version,
            signed: prepared.signed,
        };
        let installed = self.merge_previous(tenant, installed).await?;
        let granted = self.effective_grants(
            tenant,
            granted,
            &CurrentComponent::Installed(Box::new(installed.clone())),
        );
        let inherited =
            grants.is_none().then(|| Self::inherited_grants_note(tenant, name, &granted)).flatten();
        let replaces = self.replaced_bundled_note(tenant, name).await?;
        let notes = match self.validate_grants(tenant, name, &loaded, &granted).await {
            Ok(notes) => replaces.into_iter().chain(inherited).chain(notes).collect(),
            Err(error) => return Err(error),
        };
        let changes = self.tenant_changes(tenant);
        let _alone = changes.change.lock().await;
        let kept = self.components.put(digest, component).await;
        let kept =
            kept.map_err(|error| PluginUnavailable::File(name.clone(), "its component", error))?;
        if let Some(text) = grants {
            self.write_grants(tenant, name, text).await?;
        }
        let stored = self.store.put_plugin(tenant, &installed, self.versions_max).await;
        drop(kept);
        // If the row could not be stored, the file may be unreferenced.
        let removed = stored.as_deref().unwrap_or(std::slice::from_ref(&digest));
        self.remove_unreferenced(removed).await;
        stored?;
        cleanup.digest = None;
        self.publish_change(tenant).await;
        tracing::info!(%tenant, plugin = %name, %digest, from = %installed.provenance, "a plugin was installed");
        Ok(Installed { plugin: installed, roles: loaded.role_names(), notes })
    }

    /// A note for the operator, if the installation shadows a bundled plugin that the tenant has used so far.
    async fn replaced_bundled_note(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<Option<String>, StoreError> {
        if bundled_component(name).is_none()
            || !self.store.plugin_versions(tenant, name).await?.is_empty()
        {
            return Ok(None);
        }
        Ok(Some(format!(
            "it takes the place of the plugin {name} that ships with the gateway, for this tenant; \
             `wardgate plugin remove {name}` brings that one back"
        )))
    }

    /// The version to store. If the same bytes were installed under this name before, their signature and an
    /// operator's vouching carry over: both concern the bytes, and not who installs them.
    async fn merge_previous(
        &self,
        tenant: TenantId,
        installed: InstalledPlugin,
    ) -> Result<InstalledPlugin, StoreError> {
        let versions = self.store.plugin_versions(tenant, &installed.name).await?;
        let same = versions.into_iter().find(|version| version.plugin.digest == installed.digest);
        let Some(PluginVersion { plugin: before, .. }) = same else { return Ok(installed) };
        let by_operator = before.installed_by == Some(Installer::Operator);
        Ok(InstalledPlugin {
            installed_by: before.installed_by.filter(|_| by_operator).or(installed.installed_by),
            signed: installed.signed.or(before.signed),
            ..installed
        })
    }
}
