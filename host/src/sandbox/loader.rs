//! Turns the bytes of a component into something that can be bound: compiles, links and caches it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use moka::policy::EvictionPolicy;
use tokio::sync::{Semaphore, oneshot};
use wasmtime::Engine;
use wasmtime::component::{Component, Linker};

use super::cache::CodeCache;
use super::compiler::Compiler;
use super::roles::{self, Roles};
use super::{LoadError, Loaded};
use crate::ids::{PluginDigest, TenantId};
use crate::sandbox::call::state::CallState;

/// Rejects bytes that are not a component at all, with a better reason than a compiler gives.
fn check_magic(source: &[u8]) -> Result<(), LoadError> {
    let not = |what: &str| Err(LoadError::NotAComponent(what.to_owned()));
    match source.get(..8) {
        Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => not(
            "it is a core module; a component is made of it by its tool chain (in Rust the target \
             wasm32-wasip2) or by `wasm-tools component new`",
        ),
        Some([0, b'a', b's', b'm', ..]) => Ok(()),
        _ => not("its first bytes are not those of WebAssembly"),
    }
}

/// See [`Loader::cache_read_permits`].
const CACHE_READS_MAX: usize = 4;

/// How long a component that does not compile is remembered, so that calls do not retry it again and again.
const FAILURE_TTL: Duration = Duration::from_secs(60);

/// Most components remembered this way.
const FAILURES_MAX: u64 = 1_000;

/// The same error, with an explanation if the component is made for a newer WASI.
fn with_wasi_hint(error: LoadError, source: &[u8]) -> LoadError {
    let has = |text: &str| memchr::memmem::find(source, text.as_bytes()).is_some();
    // Interface names are stored in a component verbatim.
    if !(has("wasi:") && has("@0.3.")) {
        return error;
    }
    const WHY: &str = "it is made for WASI 0.3, and this gateway offers WASI 0.2";
    match error {
        LoadError::NotAComponent(what) => LoadError::NotAComponent(format!("{WHY}; {what}")),
        LoadError::Unlinkable(what) => LoadError::Unlinkable(format!("{WHY}; {what}")),
        error => error,
    }
}

/// Loads components. Concurrent loads of the same component by one tenant share the work.
pub(super) struct Loader {
    engine: Engine,
    linker: Linker<CallState>,
    code: CodeCache,
    compiler: Compiler,
    /// Permits for loading from the code cache: each load reads the whole file to check its seal.
    cache_read_permits: Arc<Semaphore>,
    /// The most recently used components. An evicted one lives on as long as a binding needs it.
    loaded: Cache<PluginDigest, Arc<Loaded>>,
    /// Compilations in flight, one for each tenant and digest: a caller waits for its own tenant's turn, and never
    /// for another tenant's. Its capacity is 0, so it caches nothing.
    compiling: Cache<(TenantId, PluginDigest), Arc<Loaded>>,
    /// Why recently tried components do not compile.
    failures: Cache<PluginDigest, LoadError>,
}

impl Loader {
    pub(super) fn new(
        engine: Engine,
        linker: Linker<CallState>,
        code: CodeCache,
        compiler: Compiler,
        loaded_max: u64,
    ) -> Self {
        // The least recently used component is evicted. The one just asked for always stays: a policy that
        // preferred old favourites would make a new plugin load at each of its calls.
        let loaded =
            Cache::builder().max_capacity(loaded_max).eviction_policy(EvictionPolicy::lru());
        Self {
            engine,
            linker,
            code,
            compiler,
            cache_read_permits: Arc::new(Semaphore::new(CACHE_READS_MAX)),
            loaded: loaded.build(),
            compiling: Cache::new(0),
            failures: Cache::builder().max_capacity(FAILURES_MAX).time_to_live(FAILURE_TTL).build(),
        }
    }

    /// The component of these bytes: from memory, from the code cache, or compiled when it is this tenant's turn.
    /// The settings limit how many long compilations run at a time. A compilation is cancelled once no caller waits
    /// for it.
    pub(super) async fn load(
        self: &Arc<Self>,
        tenant: TenantId,
        digest: PluginDigest,
        source: Arc<[u8]>,
    ) -> Result<Arc<Loaded>, LoadError> {
        check_magic(&source)?;
        // A component that is already compiled does not wait for compilations.
        if let Some(loaded) = self.cached(digest).await {
            return Ok(loaded);
        }
        if let Some(failure) = self.failures.get(&digest).await {
            return Err(failure);
        }
        let compiling = async {
            let code = self.compiler.compile(tenant, &source).await?;
            let this = Arc::clone(self);
            let (give, given) = oneshot::channel();
            tokio::task::spawn_blocking(move || {
                if give.send(this.store_and_link(digest, &code)).is_err() {
                    // The caller has stopped waiting.
                    this.code.delete(digest);
                }
            });
            let lost = || LoadError::Host("the compiled code could not be kept".to_owned());
            given.await.map_err(|_| lost())?
        };
        let compiled = self.compiling.try_get_with((tenant, digest), compiling).await;
        match compiled.map_err(|error: Arc<LoadError>| LoadError::clone(&error)) {
            Ok(loaded) => {
                self.loaded.insert(digest, Arc::clone(&loaded)).await;
                Ok(loaded)
            }
            Err(error) => {
                let error = with_wasi_hint(error, &source);
                if !matches!(error, LoadError::Host(_)) {
                    self.failures.insert(digest, error.clone()).await;
                }
                Err(error)
            }
        }
    }

    /// The component of this digest, if it is loaded or its compiled code is cached.
    pub(super) async fn cached(self: &Arc<Self>, digest: PluginDigest) -> Option<Arc<Loaded>> {
        if let Some(loaded) = self.loaded.get(&digest).await {
            return Some(loaded);
        }
        self.loaded.optionally_get_with(digest, self.from_code(digest)).await
    }

    /// Evicts a component and deletes its compiled code. Bindings that hold it keep it.
    pub(super) async fn delete_compiled(self: &Arc<Self>, digest: PluginDigest) {
        self.loaded.invalidate(&digest).await;
        let this = Arc::clone(self);
        // If the deletion is cut off, the sweep at the next start does it.
        let _ = tokio::task::spawn_blocking(move || this.code.delete(digest)).await;
    }

    /// Deletes compiled code of other components or of other versions of the gateway. Returns the number of deleted
    /// files.
    pub(super) fn sweep(&self, needed: &HashSet<PluginDigest>) -> std::io::Result<usize> {
        self.code.sweep(needed)
    }

    /// Upper bound for the number of loaded components.
    pub(super) fn max(&self) -> u64 {
        self.loaded.policy().max_capacity().unwrap_or(u64::MAX)
    }

    /// The number of loaded components.
    pub(super) async fn count(&self) -> u64 {
        self.loaded.run_pending_tasks().await;
        self.loaded.entry_count()
    }

    async fn from_code(self: &Arc<Self>, digest: PluginDigest) -> Option<Arc<Loaded>> {
        let permit = Arc::clone(&self.cache_read_permits).acquire_owned().await.ok()?;
        let this = Arc::clone(self);
        let loaded = tokio::task::spawn_blocking(move || {
            let _turn = permit;
            let component = this.code.load(&this.engine, digest)?;
            match this.link(digest, &component) {
                Ok(loaded) => Some(loaded),
                Err(error) => {
                    // The code was linked before it was stored, so another version of the gateway stored it.
                    tracing::warn!(%digest, %error, "compiled plugin does not link; compiling anew");
                    None
                }
            }
        });
        loaded.await.ok().flatten()
    }

    fn store_and_link(&self, digest: PluginDigest, code: &[u8]) -> Result<Arc<Loaded>, LoadError> {
        let component = self.code.store(&self.engine, digest, code);
        let loaded = component.and_then(|component| self.link(digest, &component));
        // Unusable code is never loaded again: it must not fill the disk.
        let loaded = loaded.inspect_err(|_| self.code.delete(digest))?;
        for reason in loaded.skipped_functions() {
            tracing::warn!(%digest, reason, "a function of a component is not a tool");
        }
        Ok(loaded)
    }

    fn link(&self, digest: PluginDigest, component: &Component) -> Result<Arc<Loaded>, LoadError> {
        let imports = roles::component_imports(component, &self.engine);
        let pre = self
            .linker
            .instantiate_pre(component)
            .map_err(|error| LoadError::Unlinkable(format!("{error:#}")))?;
        let roles = Roles::from_instance(&pre, &self.engine)?;
        Ok(Arc::new(Loaded { digest, digest_text: digest.to_string(), pre, roles, imports }))
    }
}
