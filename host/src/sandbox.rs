//! The sandbox that runs plugins, and the only module that knows wasmtime.
//!
//! A component is compiled and linked once ([`Sandbox::load`]), then bound to a tenant together with its grants
//! ([`Sandbox::bind`]). Each call runs in a fresh instance that is dropped after it, so that no call can see
//! anything of an earlier one.

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
mod grant_requirements;
mod grants;
mod host;
mod limits;
mod loader;
#[cfg(feature = "bench")]
mod measure;
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
pub use grant_requirements::{Grant, GrantRequirement};
pub use grants::{Components, Grants, GrantsError, Pin};
pub use limits::Limits;
#[cfg(feature = "bench")]
pub use measure::Phases;
pub use outcome::{Called, Diagnostic, HttpReply, Mapped, Principal};
pub use recording::{
    Exchange, ExchangeError, HostResponse, Received, Recording, Script, Sent, SharedScript,
};
pub use refusal::{Failure, PluginError, Refusal, Shortage};
pub use stats::{Cost, PluginStats, StatsSnapshot};
pub use subject::{ChannelContext, Subject};
pub use values::{
    LISTED_KEYS_MAX, MemoryValues, Pending, SharedValues, Values, ValuesError, ValuesOwner,
    incremented,
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
use foreign::ForeignComponent;
use grants::EffectiveGrants;
use loader::Loader;
use quota::{CallSlots, Memory, TenantQuota};
use roles::Roles;
use slow_lane::{LaneTurns, SlowLanes};

include!(concat!(env!("OUT_DIR"), "/bundled.rs"));

/// The forms in which the shipped plugins expect their secrets, by the digests of their components. Any other
/// component, even one installed under a shipped plugin's name, gets the form from its binding.
static KNOWN_FORMS: LazyLock<HashMap<PluginDigest, KnownForms>> = LazyLock::new(|| {
    let all = BUNDLED.iter().filter_map(|(name, component)| {
        // A plugin without the file opens no secrets. A test holds that every such file parses.
        let file = BUNDLED_SECRETS.iter().find(|(bundled, _)| bundled == name);
        Some((PluginDigest::of(component), toml::from_str(file.map_or("", |(_, file)| file)).ok()?))
    });
    all.collect()
});

/// Settings of the sandbox.
#[derive(Debug, Clone)]
pub struct SandboxSettings {
    /// The size of the instance pool.
    pub pool: PoolSize,
    /// The folder of compiled plugins.
    pub cache: PathBuf,
    /// Threads of each of the two low-priority runtimes that run long calls.
    pub slow_threads: usize,
    /// Memory that the calls in flight of all tenants may hold together, in bytes.
    pub all_memory_bytes_max: usize,
    /// Memory that the calls in flight of one tenant may hold together, in bytes.
    pub tenant_memory_bytes_max: usize,
    /// Long compilations at a time. The short first attempt that every component gets does not count.
    pub long_compilations_max: usize,
    /// Limits of one compilation.
    pub compiling: CompileLimits,
    /// Components kept loaded at a time.
    pub loaded_max: u64,
    /// When a plugin that keeps failing is quarantined.
    pub quarantine: QuarantineSettings,
}

/// Services of the gateway that the sandbox uses.
#[derive(Debug, Clone)]
pub struct HostServices {
    /// The clock that plugins see.
    pub clock: Clock,
    /// The store of plugins' values.
    pub values: SharedValues,
}

/// Why a component cannot be loaded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The component does not compile.
    #[error("it is not a WebAssembly component that this gateway can compile: {0}")]
    NotAComponent(String),
    /// Compiling the component exceeds a bound, which is named.
    #[error("it cannot be compiled within the bounds of this gateway: it takes more than {0}")]
    TooCostly(String),
    /// The component imports something that no grant can provide.
    #[error("it imports what this gateway does not offer: {0}")]
    Unlinkable(String),
    /// The component exports none of the roles.
    #[error("{0}")]
    NoRole(String),
    /// The gateway itself failed.
    #[error("the gateway could not load it: {0}")]
    Host(String),
}

/// A compiled and linked component, which belongs to no tenant.
pub struct Loaded {
    digest: PluginDigest,
    /// The digest as text, which the trace of every call contains.
    digest_text: String,
    pre: InstancePre<CallState>,
    roles: Roles,
    imports: grants::ComponentImports,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loaded({})", self.digest)
    }
}

impl Loaded {
    /// The component's digest.
    #[must_use]
    pub fn digest(&self) -> PluginDigest {
        self.digest
    }

    /// The names of the role interfaces that the component exports.
    #[must_use]
    pub fn role_names(&self) -> Vec<&'static str> {
        self.roles.names()
    }

    /// The exported functions of a foreign component that are not offered as tools, with the reason: one sentence
    /// each.
    #[must_use]
    pub fn skipped_functions(&self) -> &[String] {
        self.roles.foreign.as_ref().map_or(&[], ForeignComponent::skipped_functions)
    }
}

/// A plugin of one tenant: a component and its grants.
#[derive(Debug)]
pub struct Binding {
    tenant: TenantId,
    name: PluginName,
    loaded: Arc<Loaded>,
    granted: EffectiveGrants,
    /// The digest of the operator's grants file.
    settings_digest: String,
    stats: Arc<PluginStats>,
    /// The folder that the plugin may write to.
    folder: Option<Arc<WritableFolder>>,
    /// Permits for calls in flight of this binding.
    calls: Arc<Semaphore>,
    /// The memory quota that all bindings of the tenant share.
    quota: Arc<TenantQuota>,
    shared: Arc<Shared>,
}

impl Binding {
    /// The plugin's name within the tenant.
    #[must_use]
    pub fn name(&self) -> &PluginName {
        &self.name
    }

    /// The component's digest.
    #[must_use]
    pub fn digest(&self) -> PluginDigest {
        self.loaded.digest
    }

    /// See [`Loaded::role_names`].
    #[must_use]
    pub fn role_names(&self) -> Vec<&'static str> {
        self.loaded.role_names()
    }

    /// The plugin's settings, as the operator wrote them.
    #[must_use]
    pub fn settings(&self) -> &BTreeMap<String, String> {
        self.granted.settings()
    }

    /// The path of the folder that the plugin may use.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.granted.folder().map(|rule| rule.path.as_path())
    }

    /// Whether the grants bind a secret under this name of the plugin's.
    #[must_use]
    pub fn has_secret(&self, name: &str) -> bool {
        self.granted.secret(name).is_some()
    }

    /// The plugin's statistics over all its calls.
    #[must_use]
    pub fn stats(&self) -> &Arc<PluginStats> {
        &self.stats
    }

    /// The forms in which a shipped component expects its secrets. `None` for any other component.
    #[must_use]
    pub fn known_forms(&self) -> Option<&'static KnownForms> {
        KNOWN_FORMS.get(&self.loaded.digest)
    }

    /// Checks that the plugin is not quarantined, without starting a call. For callers that would otherwise do
    /// expensive work before the call is refused.
    ///
    /// # Errors
    /// If the plugin is quarantined ([`Refusal::Quarantined`]).
    pub fn check_admission(&self) -> Result<(), Refusal> {
        self.stats.check_admission(&self.shared.clock)
    }

    /// The component's digest as text.
    #[must_use]
    pub fn digest_text(&self) -> &str {
        &self.loaded.digest_text
    }
}

/// State that every call uses.
struct Shared {
    engine: Engine,
    /// Slots for calls in flight of all tenants, as many as the pool has.
    slots: CallSlots,
    lanes: SlowLanes,
    /// The turns that the calls of all tenants take on the slow lanes.
    turns: LaneTurns,
    memory: Arc<Memory>,
    clock: Clock,
    values: SharedValues,
    folders: Folders,
    /// File operations of all tenants' calls.
    files: Arc<FileThreads>,
    quarantine: QuarantineSettings,
    tls: Tls,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Shared")
    }
}

/// The sandbox of one gateway. Clones share its state.
#[derive(Clone)]
pub struct Sandbox {
    shared: Arc<Shared>,
    loader: Arc<Loader>,
    quotas: Arc<Mutex<HashMap<TenantId, Arc<TenantQuota>>>>,
    /// Upper bound for the memory of one call, in bytes, whatever is granted.
    memory_bytes_max: usize,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sandbox")
    }
}

impl Sandbox {
    /// Builds the engine and the linker, opens the code cache and starts the slow lanes.
    ///
    /// # Errors
    /// If the engine cannot run on this machine, the cache folder cannot be created, or the threads of the slow
    /// lanes cannot be started.
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
        let compiler =
            Compiler::new(settings.long_compilations_max, settings.compiling, compatibility);
        let loader = Loader::new(engine.clone(), linker, code, compiler, settings.loaded_max);
        let lanes = SlowLanes::start(settings.slow_threads).map_err(|error| host(&error))?;
        let blocking = lanes.blocking_handle().ok_or_else(|| host(&"it is shutting down"))?;
        let calls = usize::try_from(settings.pool.calls).unwrap_or(usize::MAX);
        Ok(Self {
            shared: Arc::new(Shared {
                engine,
                slots: CallSlots::new(calls),
                lanes,
                turns: LaneTurns::new(settings.slow_threads),
                memory: Arc::new(Memory::new(
                    settings.all_memory_bytes_max,
                    settings.tenant_memory_bytes_max,
                )),
                clock: services.clock,
                values: services.values,
                folders: Folders::default(),
                files: FileThreads::new(blocking, settings.slow_threads),
                quarantine: settings.quarantine,
                tls: Tls::of_this_machine(),
            }),
            loader: Arc::new(loader),
            quotas: Arc::default(),
            memory_bytes_max: settings.pool.memory_bytes_max,
        })
    }

    /// Returns the component from memory or from the code cache, or else compiles and links it. Concurrent loads of
    /// one digest by one tenant share a compilation. Tenants take turns at compiling, and the settings limit how
    /// many long compilations run at a time. A compilation is cancelled as soon as no caller waits for it.
    ///
    /// # Errors
    /// If the component cannot be loaded. The [`LoadError`] names what it lacks, the import that the gateway does
    /// not offer, or the bound that it exceeds.
    pub async fn load(
        &self,
        tenant: TenantId,
        source: Arc<[u8]>,
    ) -> Result<Arc<Loaded>, LoadError> {
        let hashed = Arc::clone(&source);
        // Hashing 64 MiB takes a tenth of a second.
        let digest = tokio::task::spawn_blocking(move || PluginDigest::of(&hashed)).await;
        let digest = digest.map_err(|error| LoadError::Host(error.to_string()))?;
        self.load_hashed(tenant, digest, source).await
    }

    /// [`Self::load`] for callers that know the digest of the source.
    ///
    /// # Errors
    /// Those of [`Self::load`].
    pub(crate) async fn load_hashed(
        &self,
        tenant: TenantId,
        digest: PluginDigest,
        source: Arc<[u8]>,
    ) -> Result<Arc<Loaded>, LoadError> {
        self.loader.load(tenant, digest, source).await
    }

    /// The component of this digest, without its source, if it is loaded or its compiled code is cached. Cached
    /// code is read whole to check its seal: just under a millisecond for 120 KB of Rust.
    pub async fn cached(&self, digest: PluginDigest) -> Option<Arc<Loaded>> {
        self.loader.cached(digest).await
    }

    /// Evicts a component that no tenant has installed any more, and deletes its compiled code. Calls in flight on
    /// it run to their end.
    pub async fn delete_compiled(&self, digest: PluginDigest) {
        self.loader.delete_compiled(digest).await;
    }

    /// Deletes the compiled code of all components but these, and returns the number of deleted files.
    ///
    /// # Errors
    /// If the folder or a file in it cannot be read, or a file cannot be deleted.
    pub fn sweep(&self, needed: &HashSet<PluginDigest>) -> std::io::Result<usize> {
        self.loader.sweep(needed)
    }

    /// Upper bound for the number of loaded components.
    #[must_use]
    pub fn loaded_max(&self) -> u64 {
        self.loader.max()
    }

    /// The number of loaded components.
    pub async fn loaded_count(&self) -> u64 {
        self.loader.count().await
    }

    /// Binds a component to a tenant with what the operator grants it there. `secrets` are those secrets of the
    /// tenant that the grants name and that exist; `stats` holds the plugin's statistics from earlier bindings.
    #[must_use]
    pub fn bind(
        &self,
        tenant: TenantId,
        name: PluginName,
        loaded: Arc<Loaded>,
        grants: Grants,
        secrets: &BTreeMap<SecretName, TenantSecret>,
        stats: Arc<PluginStats>,
    ) -> Arc<Binding> {
        let settings_digest = grants.digest();
        let granted =
            EffectiveGrants::resolve(loaded.imports, grants, secrets, self.memory_bytes_max);
        let quota = {
            let mut quotas = self.quotas.lock().unwrap_or_else(PoisonError::into_inner);
            let fresh = || Arc::new(TenantQuota::new(&self.shared.memory));
            Arc::clone(quotas.entry(tenant).or_insert_with(fresh))
        };
        Arc::new(Binding {
            tenant,
            name,
            loaded,
            calls: Arc::new(Semaphore::new(granted.limits().concurrency)),
            folder: self.shared.folders.for_rule(granted.folder()),
            granted,
            settings_digest,
            stats,
            quota,
            shared: Arc::clone(&self.shared),
        })
    }
}

/// Links everything that a guest can import. WASI is linked whole because the standard libraries of most languages
/// import it without using it; the context behind it is empty.
fn link(linker: &mut Linker<CallState>) -> wasmtime::Result<()> {
    wasmtime_wasi::p2::add_to_linker_async(linker)?;
    // Replaces wasmtime-wasi's own implementation, and calls it.
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
