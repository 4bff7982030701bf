//! Calls plugins. The only module that knows wasmtime.
//!
//! A component is compiled once and linked once ([`Sandbox::load`]); bound to a tenant with what it is
//! granted ([`Sandbox::bind`]); and every call gets a fresh instance that is dropped after it, so that
//! nothing of one call can be seen by the next.

pub mod bindings;
mod bound_secret;
mod breaker;
mod cache;
mod call;
pub mod compiler;
mod egress;
mod engine;
mod folder;
mod foreign;
mod grants;
mod host;
mod limits;
mod loader;
#[cfg(feature = "bench")]
mod measure;
mod needs;
mod outcome;
mod quota;
mod ran;
mod recording;
mod refusal;
mod roles;
mod slow_lane;
mod standard_streams;
mod stats;
mod subject;
mod values;
mod wasi;
mod wasi_http;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime::component::{HasSelf, InstancePre, Linker};

pub use bound_secret::BoundSecret;
pub use breaker::{Quarantine, QuarantineSettings};
pub use compiler::child::CompileLimits;
pub use engine::PoolSize;
pub use grants::{Components, Grants, GrantsError, Pin};
pub use limits::Limits;
#[cfg(feature = "bench")]
pub use measure::Phases;
pub use needs::{Grant, Need};
pub use outcome::{Called, Diagnostic, HttpReply, Mapped, Principal};
pub use recording::{
    Exchange, HostResponse, NotReceived, Received, Recording, Script, Sent, SharedScript,
};
pub use refusal::{Failure, PluginError, Refusal, Shortage};
pub use stats::{Cost, PluginStats, StatsSnapshot};
pub use subject::{ChannelFacts, Subject};
pub use values::{
    LISTED_KEYS_MAX, MemoryValues, Pending, SharedValues, Values, ValuesError, ValuesOwner,
    counted_up,
};

use crate::clock::Clock;
use crate::ids::{PluginDigest, PluginName, SecretName, TenantId};
use crate::outbound::Tls;
use crate::secrets::{HostKey, KnownForms, TenantSecret};
use bindings::v0_1;
use cache::CodeCache;
use call::state::CallState;
use compiler::Compiler;
use folder::{FileThreads, Folders, WritableFolder};
use foreign::Foreign;
use grants::Granted;
use loader::Loader;
use quota::{CallSlots, Memory, TenantQuota};
use roles::Roles;
use slow_lane::{LaneTurns, SlowLanes};

include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// What the shipped plugins need of their secrets, by the digests of their components: another component under
/// the name of one has to be told by its binding.
static KNOWN_FORMS: LazyLock<HashMap<PluginDigest, KnownForms>> = LazyLock::new(|| {
    let all = BUNDLED.iter().filter_map(|(name, component)| {
        // Without the file the plugin opens no secret. A test holds that each of them can be read.
        let file = BUNDLED_SECRETS.iter().find(|(bundled, _)| bundled == name);
        Some((PluginDigest::of(component), toml::from_str(file.map_or("", |(_, file)| file)).ok()?))
    });
    all.collect()
});

/// How the sandbox is set up.
#[derive(Debug, Clone)]
pub struct SandboxSettings {
    /// The pool of instances.
    pub pool: PoolSize,
    /// Where compiled plugins are kept.
    pub cache: PathBuf,
    /// Threads of each of the two low-priority runtimes for calls that take long.
    pub slow_threads: usize,
    /// Memory that the calls in flight of all tenants hold together, in bytes.
    pub all_memory_bytes_max: usize,
    /// Memory that the calls in flight of one tenant hold together, in bytes.
    pub tenant_memory_bytes_max: usize,
    /// Components compiled at once.
    pub compilations: usize,
    /// What compiling one may take.
    pub compiling: CompileLimits,
    /// Components held loaded.
    pub loaded_max: u64,
    /// When a plugin that keeps failing is cut off.
    pub quarantine: QuarantineSettings,
}

/// What the sandbox reaches of the rest of the gateway.
#[derive(Debug, Clone)]
pub struct HostServices {
    /// The time that plugins see.
    pub clock: Clock,
    /// Where their values are kept.
    pub values: SharedValues,
}

/// Why a component cannot be a plugin.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// It does not compile.
    #[error("it is not a WebAssembly component that this gateway can compile: {0}")]
    NotAComponent(String),
    /// Compiling it is beyond a bound, which is named.
    #[error("it cannot be compiled within the bounds of this gateway: it takes more than {0}")]
    TooCostly(String),
    /// It imports what no grant can give.
    #[error("it imports what this gateway does not offer: {0}")]
    Unlinkable(String),
    /// It exports none of the roles.
    #[error("{0}")]
    NoRole(String),
    /// The gateway itself failed.
    #[error("the gateway could not load it: {0}")]
    Host(String),
}

/// A component, compiled and linked; it knows nothing of tenants.
pub struct Loaded {
    digest: PluginDigest,
    /// The same as text, which every trace of a call has.
    digest_text: String,
    pre: InstancePre<CallState>,
    roles: Roles,
    asked: grants::Asked,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loaded({})", self.digest)
    }
}

impl Loaded {
    /// Which component it is.
    #[must_use]
    pub fn digest(&self) -> PluginDigest {
        self.digest
    }

    /// The roles it exports, as the interfaces are named.
    #[must_use]
    pub fn role_names(&self) -> Vec<&'static str> {
        self.roles.names()
    }

    /// Which functions of a component from elsewhere are no tools, and why: one sentence each.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        self.roles.foreign.as_ref().map_or(&[], Foreign::left_out)
    }
}

/// A plugin of one tenant: a component and what it is granted.
#[derive(Debug)]
pub struct Binding {
    tenant: TenantId,
    name: PluginName,
    loaded: Arc<Loaded>,
    granted: Granted,
    /// Of what the operator's file says.
    settings_digest: String,
    account: Arc<PluginStats>,
    /// The folder that it may write to.
    folder: Option<Arc<WritableFolder>>,
    /// Calls in flight of this binding.
    calls: Arc<Semaphore>,
    /// The memory that the calls of all bindings of the tenant hold.
    share: Arc<TenantQuota>,
    shared: Arc<Shared>,
}

impl Binding {
    /// Its name within the tenant.
    #[must_use]
    pub fn name(&self) -> &PluginName {
        &self.name
    }

    /// Which component it is.
    #[must_use]
    pub fn digest(&self) -> PluginDigest {
        self.loaded.digest
    }

    /// See [`Loaded::role_names`].
    #[must_use]
    pub fn role_names(&self) -> Vec<&'static str> {
        self.loaded.role_names()
    }

    /// Its settings, as the operator wrote them.
    #[must_use]
    pub fn settings(&self) -> &BTreeMap<String, String> {
        self.granted.settings()
    }

    /// The folder that it may use.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.granted.folder().map(|rule| rule.path.as_path())
    }

    /// Whether its grants bind a secret that it calls this.
    #[must_use]
    pub fn grants_secret(&self, name: &str) -> bool {
        self.granted.secret(name).is_some()
    }

    /// What is known of it over its calls.
    #[must_use]
    pub fn account(&self) -> &Arc<PluginStats> {
        &self.account
    }

    /// What the component needs of its secrets, where it is shipped with the gateway.
    #[must_use]
    pub fn known_forms(&self) -> Option<&'static KnownForms> {
        KNOWN_FORMS.get(&self.loaded.digest)
    }

    /// Whether a call would be let in now, as far as the plugin is not cut off. For whoever prepares one at
    /// some cost: it begins no call.
    ///
    /// # Errors
    /// [`Refusal::Quarantined`].
    pub fn check_admission(&self) -> Result<(), Refusal> {
        self.account.check_admission(&self.shared.clock)
    }

    /// The digest as text.
    #[must_use]
    pub fn digest_text(&self) -> &str {
        &self.loaded.digest_text
    }
}

/// What every call needs.
struct Shared {
    engine: Engine,
    /// Calls in flight of all tenants: as many as the pool has slots.
    slots: CallSlots,
    lanes: SlowLanes,
    /// Turns of all tenants' calls on the lanes.
    turns: LaneTurns,
    memory: Arc<Memory>,
    clock: Clock,
    values: SharedValues,
    folders: Folders,
    /// Operations on files of all tenants' calls.
    files: Arc<FileThreads>,
    quarantine: QuarantineSettings,
    tls: Tls,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

/// The sandbox of one gateway. Cloning gives another handle.
#[derive(Clone)]
pub struct Sandbox {
    shared: Arc<Shared>,
    loader: Arc<Loader>,
    shares: Arc<Mutex<HashMap<TenantId, Arc<TenantQuota>>>>,
    /// Most memory of one call, in bytes, whatever is granted.
    memory_bytes_max: usize,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sandbox")
    }
}

impl Sandbox {
    /// Builds the engine, the linker and the slow lane.
    ///
    /// # Errors
    /// When the engine cannot run here, or the cache folder cannot be made.
    pub fn start(
        settings: &SandboxSettings,
        key: &HostKey,
        services: HostServices,
    ) -> Result<Self, LoadError> {
        let host = |error: &dyn std::fmt::Display| LoadError::Host(error.to_string());
        let engine = engine::build(settings.pool).map_err(|error| host(&error))?;
        let mut linker = Linker::new(&engine);
        link(&mut linker).map_err(|error| host(&error))?;
        let code = CodeCache::open(&settings.cache, key, &engine).map_err(|error| host(&error))?;
        let compatibility = engine::compatibility(&engine);
        let compiler = Compiler::new(settings.compilations, settings.compiling, compatibility);
        let loader = Loader::new(engine.clone(), linker, code, compiler, settings.loaded_max);
        let lanes = SlowLanes::start(settings.slow_threads).map_err(|error| host(&error))?;
        let beside = lanes.beside().ok_or_else(|| host(&"it is shutting down"))?;
        let calls = usize::try_from(settings.pool.calls).unwrap_or(usize::MAX);
        Ok(Self {
            shared: Arc::new(Shared {
                engine,
                slots: CallSlots::of(calls),
                lanes,
                turns: LaneTurns::of(settings.slow_threads),
                memory: Arc::new(Memory::new(
                    settings.all_memory_bytes_max,
                    settings.tenant_memory_bytes_max,
                )),
                clock: services.clock,
                values: services.values,
                folders: Folders::default(),
                files: FileThreads::of(beside, settings.slow_threads),
                quarantine: settings.quarantine,
                tls: Tls::of_this_machine(),
            }),
            loader: Arc::new(loader),
            shares: Arc::default(),
            memory_bytes_max: settings.pool.memory_bytes_max,
        })
    }

    /// Compiles and links a component for a tenant, or takes it from where that was done before. However many
    /// ask for one digest at once, it is compiled once; at most as many different ones as the settings say
    /// compile at a time, in turns of tenants. Its compiler ends as soon as nobody waits for it.
    ///
    /// # Errors
    /// [`LoadError`], naming what the component lacks or asks in vain, or the bound that it is beyond.
    pub async fn load(
        &self,
        tenant: TenantId,
        source: Arc<[u8]>,
    ) -> Result<Arc<Loaded>, LoadError> {
        let hashed = Arc::clone(&source);
        // 64 MiB take a tenth of a second.
        let digest = tokio::task::spawn_blocking(move || PluginDigest::of(&hashed)).await;
        let digest = digest.map_err(|error| LoadError::Host(error.to_string()))?;
        self.load_hashed(tenant, digest, source).await
    }

    /// The same for whoever knows the digest of the source.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) async fn load_hashed(
        &self,
        tenant: TenantId,
        digest: PluginDigest,
        source: Arc<[u8]>,
    ) -> Result<Arc<Loaded>, LoadError> {
        self.loader.load(tenant, digest, source).await
    }

    /// The component of this digest without its source, where it is loaded or has been compiled before.
    /// Its code is read whole then, to check the seal: most of a millisecond for 120 KB of Rust.
    pub async fn kept(&self, digest: PluginDigest) -> Option<Arc<Loaded>> {
        self.loader.kept(digest).await
    }

    /// Forgets a component that nobody has installed any more. Calls in flight end on it.
    pub async fn forget(&self, digest: PluginDigest) {
        self.loader.forget(digest).await;
    }

    /// Takes away compiled code that is of none of these components. How many files went.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn sweep(&self, needed: &HashSet<PluginDigest>) -> std::io::Result<usize> {
        self.loader.sweep(needed)
    }

    /// How many components are held loaded at most.
    #[must_use]
    pub fn loaded_max(&self) -> u64 {
        self.loader.max()
    }

    /// How many components are loaded.
    pub async fn loaded_count(&self) -> u64 {
        self.loader.count().await
    }

    /// Binds a component to a tenant with what the operator grants it there. `secrets` are those of the
    /// tenant that the grants name, as far as it has them; `account` is the plugin's from before.
    #[must_use]
    pub fn bind(
        &self,
        tenant: TenantId,
        name: PluginName,
        loaded: Arc<Loaded>,
        grants: Grants,
        secrets: &BTreeMap<SecretName, TenantSecret>,
        account: Arc<PluginStats>,
    ) -> Arc<Binding> {
        let settings_digest = grants.digest();
        let granted = Granted::resolve(loaded.asked, grants, secrets, self.memory_bytes_max);
        let share = {
            let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = || Arc::new(TenantQuota::new(&self.shared.memory));
            Arc::clone(shares.entry(tenant).or_insert_with(fresh))
        };
        Arc::new(Binding {
            tenant,
            name,
            loaded,
            calls: Arc::new(Semaphore::new(granted.limits().concurrency)),
            folder: self.shared.folders.of(granted.folder()),
            granted,
            settings_digest,
            account,
            share,
            shared: Arc::clone(&self.shared),
        })
    }
}

/// Everything a guest can import. WASI is linked whole because the standard libraries of most languages
/// import it without using it; the context behind it is empty.
fn link(linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    // In the place of wasmtime-wasi's own, which it uses.
    linker.allow_shadowing(true);
    wasmtime_wasi::p2::bindings::filesystem::types::add_to_linker::<_, HasSelf<_>>(
        linker,
        |state: &mut CallState| state,
    )?;
    linker.allow_shadowing(false);
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(linker)?;
    v0_1::Plugin::add_to_linker::<_, HasSelf<_>>(linker, |state| state)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shipped_plugins_need_of_their_secrets_is_read() {
        assert_eq!(KNOWN_FORMS.len(), BUNDLED.len());
        assert!(!KNOWN_FORMS.is_empty());
    }
}
