//! A tenant's plugins: from a name to something that can be called.
//!
//! A tenant's own plugin comes before a bundled one of the same name. Components lie in
//! `plugins/<digest>.wasm` of the data folder, what they are granted in
//! `grants/<tenant>/<plugin>.toml`, where the operator reads and edits it.

mod changes;
mod components;
mod fitness;
mod granting;
mod kept;
mod metadata;
mod readiness;
mod signatures;
mod stats;
mod versions;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Duration;

use moka::sync::Cache;

use crate::clock::{Clock, Timestamp};
use crate::ids::{PluginDigest, PluginName, SecretName, TenantId};
use crate::sandbox::{
    BUNDLED, Binding, Grants, GrantsError, LoadError, Loaded, PluginStats, Sandbox,
};
use crate::settings::PluginSettings;
use crate::store::{Stamp, Store, StoreError};
use crate::vault::{Opened, Vault, VaultError};
use changes::OfTenant;
use components::Components;
pub use fitness::setting_names;
use granting::{Current, parsed};
pub use kept::KeptValues;
pub use metadata::{Metadata, version};
use signatures::Signers;
pub use signatures::{SIGNATURE_BYTES_MAX, SignatureError, key_id};
pub use versions::{Installed, Offered, RollBackError};

/// How long a grants file that somebody edits by hand may go unnoticed. What is changed through the gateway or by its
/// commands holds at once.
const GRANTS_READ_EVERY: Duration = Duration::from_secs(5);

/// Most bindings held ready; a tenant's plugin beyond that is bound again when it is needed.
const READY_MAX: u64 = 10_000;

/// The largest component that can be installed. Python's are the largest seen, 18 MB.
pub const COMPONENT_BYTES_MAX: u64 = 64 << 20;

/// Why a tenant's plugin cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PluginUnavailable {
    /// The tenant has none of this name, and none is bundled.
    #[error("no plugin {0} is installed")]
    Unknown(PluginName),
    /// The component is no good.
    #[error("plugin {0} cannot be loaded: {1}")]
    NotLoadable(PluginName, LoadError),
    /// The operator's file, as it was handed in, is no good.
    #[error("plugin {0}: {1}")]
    Grants(PluginName, GrantsError),
    /// The file in force is no good. What is wrong with it stands in the log: it is the operator's alone.
    #[error("plugin {0}: its grants file is not valid; the gateway's log says where")]
    GrantsInForce(PluginName),
    /// The operator's file, as it was handed in, names a signer that nobody has pinned.
    #[error(
        "plugin {0}: its grants are for what the signer {1:?} has signed, and the settings have no such \
         signer (plugins.signers)"
    )]
    UnknownSigner(PluginName, String),
    /// The operator's file, as it was handed in, is not for the component that is current.
    #[error("plugin {0}: {1}")]
    GrantsWithheld(PluginName, String),
    /// The plugin does not accept a setting of its grants.
    #[error("plugin {0} does not accept the settings that it is granted: {1}")]
    Settings(PluginName, String),
    /// The component is larger than any.
    #[error("plugin {0}: its component is larger than 64 MiB")]
    TooLarge(PluginName),
    /// A file cannot be read or written.
    #[error("plugin {0}: {1} {2}")]
    File(PluginName, &'static str, std::io::Error),
    /// The component on disk is not the one that was installed.
    #[error("plugin {0}: its file does not have the digest it was installed with")]
    Tampered(PluginName),
    /// It is not signed as the settings ask for.
    #[error("plugin {0}: {1}")]
    Signature(PluginName, SignatureError),
    /// A secret that it is granted cannot be opened.
    #[error("plugin {0}: {1}")]
    Secret(PluginName, VaultError),
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PluginUnavailable {
    /// Whether what was handed in is wrong, and not what this gateway has.
    #[must_use]
    pub fn is_the_callers(&self) -> bool {
        match self {
            Self::NotLoadable(_, error) => !matches!(error, LoadError::Host(_)),
            Self::Grants(..)
            | Self::UnknownSigner(..)
            | Self::GrantsWithheld(..)
            | Self::Settings(..)
            | Self::TooLarge(_)
            | Self::Signature(..) => true,
            Self::Unknown(_)
            | Self::GrantsInForce(_)
            | Self::File(..)
            | Self::Tampered(_)
            | Self::Secret(..)
            | Self::Store(_) => false,
        }
    }
}

/// Where the operator says what a plugin of a tenant may do, in this data folder.
#[must_use]
pub fn grants_path(folder: &Path, tenant: TenantId, name: &PluginName) -> PathBuf {
    folder.join("grants").join(tenant.to_string()).join(format!("{name}.toml"))
}

/// The names of the plugins that ship with the gateway.
pub fn bundled() -> impl Iterator<Item = PluginName> {
    BUNDLED.iter().map(|(name, _)| PluginName::constant(name))
}

/// The component of a plugin that ships with the gateway.
#[must_use]
pub fn bundled_component(name: &PluginName) -> Option<&'static [u8]> {
    BUNDLED_DIGESTS.get(name.as_str()).map(|(_, component)| *component)
}

/// The bundled components with their digests, by name: worked out once, since whoever binds one asks.
static BUNDLED_DIGESTS: LazyLock<HashMap<&str, (PluginDigest, &[u8])>> = LazyLock::new(|| {
    let all = BUNDLED.iter();
    all.map(|(name, component)| (*name, (PluginDigest::of(component), *component))).collect()
});

type Key = (TenantId, PluginName);

/// A binding, and what it was bound under.
#[derive(Debug)]
struct Bound {
    grants: String,
    /// Why they are not in force, where they are not.
    withheld: Option<String>,
    secrets: Vec<(SecretName, Timestamp)>,
    digest: PluginDigest,
    account: Arc<PluginStats>,
    /// Whoever calls it holds it; one that nobody has called for a while is made again.
    binding: Weak<Binding>,
}

impl Bound {
    /// Whether what is bound now would be the same.
    fn is_of(&self, digest: PluginDigest, text: &str, grants: &Grants, opened: &Opened) -> bool {
        self.digest == digest
            && self.grants == text
            && self.withheld.as_deref() == grants.withheld_because()
            && self.secrets == opened.stamp
    }
}

/// The plugins of all tenants.
#[derive(Debug, Clone)]
pub struct Plugins {
    store: Store,
    sandbox: Sandbox,
    vault: Vault,
    components: Components,
    signers: Arc<Signers>,
    versions_max: u32,
    preload_max: u32,
    install_wait_max: Duration,
    folder: PathBuf,
    clock: Clock,
    /// The hot path's answer.
    ready: Cache<Key, (Arc<Binding>, Stamp)>,
    /// What is bound, with the grants it was bound under: as long as neither component nor grants
    /// change, the same binding is kept, since it counts the calls in flight.
    bound: Arc<Mutex<HashMap<Key, Bound>>>,
    tenants: Arc<Mutex<HashMap<TenantId, Arc<OfTenant>>>>,
}

impl Plugins {
    /// The plugins that this store and data folder hold.
    ///
    /// # Errors
    /// Where a signer's key of the settings is none.
    pub fn new(
        settings: &PluginSettings,
        store: Store,
        sandbox: Sandbox,
        vault: Vault,
        folder: PathBuf,
        clock: Clock,
    ) -> Result<Self, SignatureError> {
        let ready =
            Cache::builder().max_capacity(READY_MAX).time_to_live(GRANTS_READ_EVERY).build();
        let components = Components::new(&folder, store.clone());
        let signers = Arc::new(Signers::of(settings)?);
        let versions_max = settings.versions_max;
        let bound = Arc::default();
        Ok(Self {
            store,
            sandbox,
            vault,
            components,
            signers,
            versions_max,
            preload_max: settings.preload_max,
            install_wait_max: Duration::from_secs(settings.install_wait_seconds_max),
            folder,
            clock,
            ready,
            bound,
            tenants: Arc::default(),
        })
    }

    /// The plugin of this name, ready to be called.
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
            && changes.holds(Some(tenant), stamp)
        {
            return Ok(binding);
        }
        let before = changes.before_reading();
        let binding = match self.bind(tenant, name).await {
            // Its file went between the row and the reading: somebody has just replaced or removed it.
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
        let grants = self.in_force(tenant, parsed(name, &grants_text)?, &current);
        let opened = self.vault.open(tenant, grants.secret_names()).await;
        let opened = opened.map_err(|error| match error {
            VaultError::Store(error) => PluginUnavailable::Store(error),
            error => PluginUnavailable::Secret(name.clone(), error),
        })?;
        let mut bound = self.bound.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = loaded.digest();
        let before = bound.get(&(tenant, name.clone()));
        let account = before.map(|before| Arc::clone(&before.account)).unwrap_or_default();
        if let Some(before) = before {
            if !before.is_of(digest, &grants_text, &grants, &opened) {
                // Another version or other grants deserve another chance; what was counted stays.
                account.release();
            } else if let Some(binding) = before.binding.upgrade() {
                return Ok(binding);
            }
        }
        let withheld = grants.withheld_because().map(str::to_owned);
        if let Some(why) = &withheld {
            tracing::warn!(%tenant, plugin = %name, "{why}");
        }
        let binding = self.sandbox.bind(
            tenant,
            name.clone(),
            loaded,
            grants,
            &opened.secrets,
            Arc::clone(&account),
        );
        let now = Bound {
            grants: grants_text,
            withheld,
            secrets: opened.stamp,
            digest,
            account,
            binding: Arc::downgrade(&binding),
        };
        bound.insert((tenant, name.clone()), now);
        Ok(binding)
    }

    /// The component that a plugin's name stands for.
    async fn current(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<Current, PluginUnavailable> {
        if let Some(installed) = self.store.plugin(tenant, name).await? {
            return Ok(Current::Installed(Box::new(installed)));
        }
        let bundled = BUNDLED_DIGESTS.get(name.as_str());
        let (digest, component) =
            bundled.ok_or_else(|| PluginUnavailable::Unknown(name.clone()))?;
        Ok(Current::Bundled { name: name.clone(), digest: *digest, component })
    }

    /// The component, compiled. Its file is read only where that has not been done yet.
    async fn load(
        &self,
        tenant: TenantId,
        name: &PluginName,
        current: &Current,
    ) -> Result<Arc<Loaded>, PluginUnavailable> {
        let (digest, component) = match current {
            Current::Installed(installed) => return self.load_version(tenant, installed).await,
            Current::Bundled { digest, component, .. } => (*digest, *component),
        };
        if let Some(loaded) = self.sandbox.kept(digest).await {
            return Ok(loaded);
        }
        let loaded = self.sandbox.load(TenantId::GATEWAY, Arc::from(component)).await;
        loaded.map_err(|error| PluginUnavailable::NotLoadable(name.clone(), error))
    }

    /// Whether a tenant can use a plugin of this name: its own, or a bundled one.
    ///
    /// # Errors
    /// When the store could not be asked.
    pub async fn is_installed(
        &self,
        tenant: TenantId,
        name: &PluginName,
    ) -> Result<bool, StoreError> {
        Ok(bundled().any(|bundled| bundled == *name)
            || self.store.plugin(tenant, name).await?.is_some())
    }
}
