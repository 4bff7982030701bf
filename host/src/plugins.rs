//! The plugins of all tenants: which component a name refers to, what it is granted, and its binding.
//!
//! A tenant's own plugin takes precedence over a bundled one of the same name. Components are files
//! `plugins/<digest>.wasm` of the data folder; the grants of a plugin are in `grants/<tenant>/<plugin>.toml`,
//! where the operator reads and edits them.
//!
//! | file | job |
//! |---|---|
//! | `catalog` | from a name to a binding, and preloading |
//! | `install` | installs a component as the current version |
//! | `versions` | lists versions, rolls back, removes a plugin |
//! | `grants` | reads and writes grants, and withholds those that are for another component |
//! | `published` | the plugins whose tools are published at `/mcp` |
//! | `validate` | checks grants and settings against the component |
//! | `gc` | deletes components and compiled code that nothing refers to |
//! | `stats` | what plugins did and cost |
//! | `components` | the files of components, shared between processes |
//! | `signatures` | checks minisign signatures against the pinned signers |
//! | `metadata` | reads version, imports and exports out of a component |
//! | `values` | the key-value store of plugins |

mod catalog;
mod components;
mod gc;
mod grants;
mod install;
mod metadata;
mod published;
mod signatures;
mod stats;
mod validate;
mod values;
mod versions;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use moka::sync::Cache;

use crate::clock::Clock;
use crate::ids::{PluginName, TenantId};
use crate::sandbox::{Binding, GrantsError, LoadError, Sandbox};
use crate::settings::PluginSettings;
use crate::store::{Stamp, Store, StoreError};
use crate::vault::{Vault, VaultError};
use catalog::Bound;
pub use catalog::{bundled, bundled_component};
use components::Components;
pub use grants::grants_path;
use install::TenantChanges;
pub use install::{Installed, Offered};
pub use metadata::{Metadata, version};
use signatures::Signers;
pub use signatures::{SIGNATURE_BYTES_MAX, SignatureError, key_id};
pub use validate::setting_names;
pub use values::StoreValues;
pub use versions::RollBackError;

/// How often a grants file is read again, which an operator may edit by hand. Changes made through the gateway or
/// its commands take effect at once.
const GRANTS_READ_EVERY: Duration = Duration::from_secs(5);

/// The most bindings cached; a plugin beyond that is bound again when it is called.
const READY_MAX: u64 = 10_000;

/// The largest component that can be installed, in bytes. The largest seen, made from Python, have 18 MB.
pub const COMPONENT_BYTES_MAX: u64 = 64 << 20;

/// Why a tenant's plugin is not available.
#[derive(Debug, thiserror::Error)]
pub enum PluginUnavailable {
    /// The tenant has not installed a plugin of this name, and none is bundled.
    #[error("no plugin {0} is installed")]
    Unknown(PluginName),
    /// The component cannot be compiled or linked.
    #[error("plugin {0} cannot be loaded: {1}")]
    NotLoadable(PluginName, LoadError),
    /// The submitted grants are not valid.
    #[error("plugin {0}: {1}")]
    Grants(PluginName, GrantsError),
    /// The stored grants file is not valid. Only the log says what is wrong with it: its text is the operator's.
    #[error("plugin {0}: its grants file is not valid; the gateway's log says where")]
    GrantsInForce(PluginName),
    /// The submitted grants name a signer that the settings do not pin.
    #[error(
        "plugin {0}: its grants are for what the signer {1:?} has signed, and the settings have no such \
         signer (plugins.signers)"
    )]
    UnknownSigner(PluginName, String),
    /// The submitted grants are not for the current component.
    #[error("plugin {0}: {1}")]
    GrantsWithheld(PluginName, String),
    /// The plugin rejects a setting of its grants.
    #[error("plugin {0} does not accept the settings that it is granted: {1}")]
    Settings(PluginName, String),
    /// The component is larger than [`COMPONENT_BYTES_MAX`].
    #[error("plugin {0}: its component is larger than 64 MiB")]
    TooLarge(PluginName),
    /// A file cannot be read or written.
    #[error("plugin {0}: {1} {2}")]
    File(PluginName, &'static str, std::io::Error),
    /// The folder of the tenant's grants files cannot be read.
    #[error("the grants of plugins cannot be read: {0}")]
    GrantsFolder(std::io::Error),
    /// The component on disk is not the one that was installed.
    #[error("plugin {0}: its file does not have the digest it was installed with")]
    Tampered(PluginName),
    /// The signature is missing or does not verify, and the settings require one.
    #[error("plugin {0}: {1}")]
    Signature(PluginName, SignatureError),
    /// A secret that is granted to the plugin cannot be decrypted.
    #[error("plugin {0}: {1}")]
    Secret(PluginName, VaultError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PluginUnavailable {
    /// Whether the fault lies in what the caller submitted, and not in the gateway's own state.
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
            | Self::GrantsFolder(_)
            | Self::Tampered(_)
            | Self::Secret(..)
            | Self::Store(_) => false,
        }
    }
}

type Key = (TenantId, PluginName);

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
    /// Bindings by name, with the state of the directory they were read from: what the hot path reads.
    ready: Cache<Key, (Arc<Binding>, Stamp)>,
    /// All bindings, with the grants they were bound under. While neither component nor grants change, the same
    /// binding is reused, since it counts the calls in flight.
    bound: Arc<Mutex<HashMap<Key, Bound>>>,
    /// Locks and limits of each tenant's changes.
    tenants: Arc<Mutex<HashMap<TenantId, Arc<TenantChanges>>>>,
}

impl Plugins {
    /// The plugins of this store and data folder.
    ///
    /// # Errors
    /// If a signer's key in the settings is not a minisign public key.
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
        let signers = Arc::new(Signers::from_settings(settings)?);
        Ok(Self {
            store,
            sandbox,
            vault,
            components,
            signers,
            versions_max: settings.versions_max,
            preload_max: settings.preload_max,
            install_wait_max: Duration::from_secs(settings.install_wait_seconds_max),
            folder,
            clock,
            ready,
            bound: Arc::default(),
            tenants: Arc::default(),
        })
    }
}
