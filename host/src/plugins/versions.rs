//! Installing a version of a plugin, and going back to an earlier one.

use std::sync::{Arc, PoisonError};

use tokio::runtime::Handle;

use super::metadata::Metadata;
use super::{COMPONENT_BYTES_MAX, Current, PluginUnavailable, Plugins, bundled_component, parsed};
use crate::ids::{PluginDigest, PluginName, TenantId};
use crate::sandbox::{Grants, Loaded};
use crate::store::StoreError;
use crate::tenants::{InstalledPlugin, Installer, PluginVersion, Provenance, Signed};

/// A component that somebody brings, with what he says of it.
#[derive(Debug)]
pub struct Offered {
    /// The component.
    pub component: Vec<u8>,
    /// Where he has it from.
    pub provenance: Provenance,
    /// What its maker calls this version. What the component itself says comes first.
    pub version: Option<String>,
    /// A minisign signature of it: the text of a `.minisig` file.
    pub signature: Option<String>,
    /// With what kind of key: what an operator grants is in force for what an operator brings.
    pub by: Installer,
}

impl From<Vec<u8>> for Offered {
    /// A component of which nothing is known, brought by whoever runs this process: its operator.
    fn from(component: Vec<u8>) -> Self {
        let by = Installer::Operator;
        Self { component, provenance: Provenance::File, version: None, signature: None, by }
    }
}

/// Why a plugin cannot be rolled back. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum RollBackError {
    /// The tenant has installed none of this name.
    #[error("no plugin of this name is installed")]
    NotInstalled,
    /// The version is none that is kept.
    #[error("no such version is kept")]
    UnknownVersion,
    /// The current version is the first that is kept.
    #[error("there is no earlier version to roll back to")]
    NoEarlier,
    /// It cannot be used any more.
    #[error(transparent)]
    Unavailable(#[from] PluginUnavailable),
}

impl From<StoreError> for RollBackError {
    fn from(error: StoreError) -> Self {
        Self::Unavailable(error.into())
    }
}

/// What became of an installation, or of going back to a version.
#[derive(Debug, Clone)]
pub struct Installed {
    /// What is current now.
    pub plugin: InstalledPlugin,
    /// What it can be used as.
    pub roles: Vec<&'static str>,
    /// What an operator ought to know: which grants it lacks, which settings it misses, which functions of
    /// a component from elsewhere are no tools.
    pub notes: Vec<String>,
}

/// Compiled code of a component that may come to be installed nowhere, since it is refused or its caller has gone:
/// unless somebody else has it, nobody would call it, and it is taken away.
#[derive(Debug)]
struct Unclaimed {
    plugins: Plugins,
    /// None: it is installed.
    digest: Option<PluginDigest>,
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let (Some(digest), Ok(threads)) = (self.digest, Handle::try_current()) {
            let plugins = self.plugins.clone();
            threads.spawn(async move { plugins.forget_unneeded(digest).await });
        }
    }
}

/// A component that can be installed: its signature holds, and it is compiled.
#[derive(Debug)]
pub struct Prepared {
    unclaimed: Unclaimed,
    tenant: TenantId,
    name: PluginName,
    component: Arc<[u8]>,
    loaded: Arc<Loaded>,
    signed: Option<Signed>,
    by: Installer,
    provenance: Provenance,
    version: Option<String>,
    /// The text that was handed in, where it was.
    grants: Option<String>,
    granted: Grants,
}

impl Plugins {
    /// Installs a component for a tenant under a name, as the current version of the plugin of that name.
    /// Its signature is checked, it is compiled and checked first; a running gateway on the same folder
    /// uses it within five seconds. What the plugin is granted stays, unless `grants` say otherwise; whether it
    /// is in force for this component depends on what it says of the component that it is for.
    ///
    /// # Errors
    /// [`PluginUnavailable`]; nothing is installed then.
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

    /// The first part of [`Self::install`], which changes nothing and takes the time: whoever gives it up ends the
    /// compiling.
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
            Some(text) => self.handed_in(tenant, name, text).await?,
            None => parsed(name, &self.grants_text(tenant, name).await?)?,
        };
        let component: Arc<[u8]> = offered.component.into();
        let (digest, signed, said) = self.read_offered(name, &component, offered.signature).await?;
        let unclaimed = Unclaimed { plugins: self.clone(), digest: Some(digest) };
        let loaded = self.sandbox.load_hashed(tenant, digest, Arc::clone(&component)).await;
        let loaded = loaded.map_err(|error| PluginUnavailable::NotLoadable(name.clone(), error))?;
        Ok(Prepared {
            unclaimed,
            tenant,
            name: name.clone(),
            version: said.version.or(offered.version),
            component,
            loaded,
            signed,
            by: offered.by,
            provenance: offered.provenance,
            grants: grants.map(str::to_owned),
            granted,
        })
    }

    /// The digest of a component, who signed it, and what it says of itself.
    async fn read_offered(
        &self,
        name: &PluginName,
        component: &Arc<[u8]>,
        signature: Option<String>,
    ) -> Result<(PluginDigest, Option<Signed>, Metadata), PluginUnavailable> {
        let (signers, component) = (self.signers.clone(), Arc::clone(component));
        // All of up to 64 MiB is read for either.
        let read = tokio::task::spawn_blocking(move || {
            let signed = signers.check(&component, signature.as_deref())?;
            Ok((PluginDigest::of(&component), signed, Metadata::of(&component)))
        });
        let file = |error| PluginUnavailable::File(name.clone(), "its component", error);
        let read = read.await.map_err(|error| file(std::io::Error::other(error)))?;
        read.map_err(|error| PluginUnavailable::Signature(name.clone(), error))
    }

    /// The second part of [`Self::install`].
    ///
    /// # Errors
    /// [`PluginUnavailable`]; nothing is installed then.
    pub async fn install_prepared(
        &self,
        prepared: Prepared,
    ) -> Result<Installed, PluginUnavailable> {
        let Prepared { tenant, name, component, loaded, granted, grants, .. } = prepared;
        let mut unclaimed = prepared.unclaimed;
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
        let installed = self.with_what_is_kept(tenant, installed).await?;
        let granted =
            self.in_force(tenant, granted, &Current::Installed(Box::new(installed.clone())));
        let inherited = grants.is_none().then(|| Self::inherited(tenant, name, &granted)).flatten();
        let replaces = self.replaces_bundled(tenant, name).await?;
        let notes = match self.fitness(tenant, name, &loaded, &granted).await {
            Ok(notes) => replaces.into_iter().chain(inherited).chain(notes).collect(),
            Err(error) => return Err(error),
        };
        let changes = self.of_tenant(tenant);
        let _alone = changes.change.lock().await;
        let kept = self.components.put(digest, component).await;
        let kept =
            kept.map_err(|error| PluginUnavailable::File(name.clone(), "its component", error))?;
        if let Some(text) = grants {
            self.write_grants(tenant, name, text).await?;
        }
        let stored = self.store.put_plugin(tenant, &installed, self.versions_max).await;
        drop(kept);
        // Where the row could not be stored, nobody may need the file; a later start finds out.
        let forgotten = stored.as_deref().unwrap_or(std::slice::from_ref(&digest));
        self.take_away(forgotten).await;
        stored?;
        unclaimed.digest = None;
        self.changed(tenant).await;
        tracing::info!(%tenant, plugin = %name, %digest, from = %installed.provenance, "a plugin was installed");
        Ok(Installed { plugin: installed, roles: loaded.role_names(), notes })
    }

    /// What is to be said where the tenant had the plugin that ships under this name so far.
    async fn replaces_bundled(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<Option<String>, StoreError> {
        if super::bundled_component(name).is_none()
            || !self.store.plugin_versions(tenant, name).await?.is_empty()
        {
            return Ok(None);
        }
        Ok(Some(format!(
            "it takes the place of the plugin {name} that ships with the gateway, for this tenant; \
             `wardgate plugin remove {name}` brings that one back"
        )))
    }

    /// The version that an installation makes: what was true of these bytes under this name stays true, whoever
    /// brings them again. A signature is of the bytes, and so is an operator's word for them.
    async fn with_what_is_kept(
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

    /// The versions of a tenant's plugin that are kept, the one installed last first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn versions(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<Vec<PluginVersion>, StoreError> {
        self.store.plugin_versions(tenant, name).await
    }

    /// Makes an earlier version of a plugin current: the one that was installed before the current one,
    /// those passed over that were rolled back from themselves; or the one that is named, whether earlier
    /// or later. It is loaded first. What the plugin is granted stays.
    ///
    /// # Errors
    /// [`RollBackError`]; nothing has changed then.
    pub async fn roll_back(
        &self,
        tenant: TenantId,
        name: &PluginName,
        to: Option<PluginDigest>,
    ) -> Result<Installed, RollBackError> {
        let versions = self.store.plugin_versions(tenant, name).await?;
        let current = versions.iter().enumerate().find(|(_, version)| version.is_current);
        let (place, current) = current.ok_or(RollBackError::NotInstalled)?;
        let target = match to {
            Some(digest) => versions
                .iter()
                .find(|version| version.plugin.digest == digest)
                .ok_or(RollBackError::UnknownVersion)?,
            None => versions
                .iter()
                .skip(place + 1)
                .find(|version| !version.is_skipped)
                .ok_or(RollBackError::NoEarlier)?,
        };
        // Compiled code of it may be there, but a version whose file is not what it was is none to go back to.
        self.component_of(&target.plugin).await?;
        let loaded = self.load_version(tenant, &target.plugin).await?;
        if !target.is_current {
            let (from, to) = (current.plugin.digest, target.plugin.digest);
            self.store.switch_plugin(tenant, name, from, to).await?;
            self.changed(tenant).await;
            tracing::info!(%tenant, plugin = %name, %from, %to, "a plugin was rolled back");
        }
        // Whatever is said of its grants, it was the one to go back to.
        let granted = self.grants_text(tenant, name).await.and_then(|text| parsed(name, &text));
        let notes = match granted {
            Ok(grants) => {
                let current = Current::Installed(Box::new(target.plugin.clone()));
                let grants = self.in_force(tenant, grants, &current);
                let notes = self.fitness(tenant, name, &loaded, &grants).await;
                let inherited = Self::inherited(tenant, name, &grants);
                notes.map(|notes| inherited.into_iter().chain(notes).collect())
            }
            Err(error) => Err(error),
        };
        let notes = notes.unwrap_or_else(|error| vec![error.to_string()]);
        Ok(Installed { plugin: target.plugin.clone(), roles: loaded.role_names(), notes })
    }

    /// An installed version, compiled. Its file is read only where compiled code of it is not kept.
    pub(super) async fn load_version(
        &self,
        tenant: TenantId,
        installed: &InstalledPlugin,
    ) -> Result<Arc<Loaded>, PluginUnavailable> {
        let name = &installed.name;
        self.signers
            .admit(installed.signed.as_ref())
            .map_err(|error| PluginUnavailable::Signature(name.clone(), error))?;
        if let Some(loaded) = self.sandbox.kept(installed.digest).await {
            return Ok(loaded);
        }
        let component = self.component_of(installed).await?;
        let loaded = self.sandbox.load(tenant, component.into()).await;
        loaded.map_err(|error| PluginUnavailable::NotLoadable(name.clone(), error))
    }

    /// The bytes of a plugin's component: the tenant's own as it is installed now, or a bundled one.
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

    /// The file of an installed version, where it is the one that was installed.
    async fn component_of(
        &self,
        installed: &InstalledPlugin,
    ) -> Result<Vec<u8>, PluginUnavailable> {
        let name = &installed.name;
        let component = self.components.read(installed.digest).await;
        let component = component
            .map_err(|error| PluginUnavailable::File(name.clone(), "its component", error))?;
        let expected = installed.digest;
        // 64 MiB take a tenth of a second.
        let checked = tokio::task::spawn_blocking(move || {
            (PluginDigest::of(&component) == expected).then_some(component)
        });
        let checked = checked.await.ok().flatten();
        checked.ok_or_else(|| PluginUnavailable::Tampered(name.clone()))
    }

    /// Forgets a plugin of a tenant with all its versions. False where it has none of this name.
    ///
    /// # Errors
    /// When the store could not be used.
    pub async fn remove(&self, tenant: TenantId, name: &PluginName) -> Result<bool, StoreError> {
        let forgotten = self.store.delete_plugin(tenant, name).await?;
        let key = (tenant, name.clone());
        self.changed(tenant).await;
        self.bound.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        self.take_away(&forgotten).await;
        Ok(!forgotten.is_empty())
    }
}
