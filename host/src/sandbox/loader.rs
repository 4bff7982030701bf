//! From the bytes of a component to something that can be bound: compiled, linked, held ready.

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

/// Tells what is no component at all from what only does not compile.
fn recognise(source: &[u8]) -> Result<(), LoadError> {
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

/// See [`Loader::readings`].
const READINGS_MAX: usize = 4;

/// How long it is remembered that a component does not compile, so that calls do not try again and again.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// Of how many components that is remembered.
const REFUSED_MAX: u64 = 1_000;

/// The same error with what is behind it, where that is a newer WASI.
fn explained(error: LoadError, source: &[u8]) -> LoadError {
    let has = |text: &str| memchr::memmem::find(source, text.as_bytes()).is_some();
    // Names of interfaces stand in a component as they are written.
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

/// Loads components, each once however many ask for it at the same time.
pub(super) struct Loader {
    engine: Engine,
    linker: Linker<CallState>,
    code: CodeCache,
    compiler: Compiler,
    /// Components that are taken from the code cache at a time: each is read whole to check its seal.
    readings: Arc<Semaphore>,
    /// Those used last. One that falls out lives on as long as a binding needs it.
    held: Cache<PluginDigest, Arc<Loaded>>,
    /// What is being compiled, once for each tenant: whoever waits for the same waits for this tenant's turn, and
    /// nobody for another one's. It keeps nothing.
    compiling: Cache<(TenantId, PluginDigest), Arc<Loaded>>,
    /// Why components do not compile that were tried lately.
    refused: Cache<PluginDigest, LoadError>,
}

impl Loader {
    pub(super) fn new(
        engine: Engine,
        linker: Linker<CallState>,
        code: CodeCache,
        compiler: Compiler,
        loaded_max: u64,
    ) -> Self {
        // The least recently used one goes. What has just been asked for always stays: a policy that
        // would rather keep old favourites makes a new plugin load at each of its calls.
        let held = Cache::builder().max_capacity(loaded_max).eviction_policy(EvictionPolicy::lru());
        Self {
            engine,
            linker,
            code,
            compiler,
            readings: Arc::new(Semaphore::new(READINGS_MAX)),
            held: held.build(),
            compiling: Cache::new(0),
            refused: Cache::builder().max_capacity(REFUSED_MAX).time_to_live(REFUSED_FOR).build(),
        }
    }

    /// The component of these bytes: held already, or from the code cache, or compiled now, when it is this
    /// tenant's turn; at most as many compile at a time as the settings say. Nothing is compiled any longer than
    /// somebody waits for it.
    pub(super) async fn load(
        self: &Arc<Self>,
        tenant: TenantId,
        digest: PluginDigest,
        source: Arc<[u8]>,
    ) -> Result<Arc<Loaded>, LoadError> {
        recognise(&source)?;
        // What is compiled already does not wait for what is being compiled.
        if let Some(loaded) = self.cached(digest).await {
            return Ok(loaded);
        }
        if let Some(refused) = self.refused.get(&digest).await {
            return Err(refused);
        }
        let compiling = async {
            let code = self.compiler.compile(tenant, &source).await?;
            let this = Arc::clone(self);
            let (give, given) = oneshot::channel();
            tokio::task::spawn_blocking(move || {
                if give.send(this.keep(digest, &code)).is_err() {
                    // Whoever waited for it has gone meanwhile.
                    this.code.delete(digest);
                }
            });
            let lost = || LoadError::Host("the compiled code could not be kept".to_owned());
            given.await.map_err(|_| lost())?
        };
        let compiled = self.compiling.try_get_with((tenant, digest), compiling).await;
        match compiled.map_err(|error: Arc<LoadError>| LoadError::clone(&error)) {
            Ok(loaded) => {
                self.held.insert(digest, Arc::clone(&loaded)).await;
                Ok(loaded)
            }
            Err(error) => {
                let error = explained(error, &source);
                if !matches!(error, LoadError::Host(_)) {
                    self.refused.insert(digest, error.clone()).await;
                }
                Err(error)
            }
        }
    }

    /// The component of this digest where it is held, or compiled code of it is kept.
    pub(super) async fn cached(self: &Arc<Self>, digest: PluginDigest) -> Option<Arc<Loaded>> {
        if let Some(loaded) = self.held.get(&digest).await {
            return Some(loaded);
        }
        self.held.optionally_get_with(digest, self.from_code(digest)).await
    }

    /// Forgets a component, on disk too. Whoever has it keeps it.
    pub(super) async fn delete_compiled(self: &Arc<Self>, digest: PluginDigest) {
        self.held.invalidate(&digest).await;
        let this = Arc::clone(self);
        // Where it is cut off, the next start tidies up.
        let _ = tokio::task::spawn_blocking(move || this.code.delete(digest)).await;
    }

    /// Takes compiled code away that is of none of these components, or of another version of the
    /// gateway. How many files went.
    pub(super) fn sweep(&self, needed: &HashSet<PluginDigest>) -> std::io::Result<usize> {
        self.code.sweep(needed)
    }

    /// How many components are held at most.
    pub(super) fn max(&self) -> u64 {
        self.held.policy().max_capacity().unwrap_or(u64::MAX)
    }

    /// How many components are held.
    pub(super) async fn count(&self) -> u64 {
        self.held.run_pending_tasks().await;
        self.held.entry_count()
    }

    async fn from_code(self: &Arc<Self>, digest: PluginDigest) -> Option<Arc<Loaded>> {
        let turn = Arc::clone(&self.readings).acquire_owned().await.ok()?;
        let this = Arc::clone(self);
        let loaded = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let component = this.code.load(&this.engine, digest)?;
            match this.link(digest, &component) {
                Ok(loaded) => Some(loaded),
                Err(error) => {
                    // It was linked before its code was kept, so this gateway is another one.
                    tracing::warn!(%digest, %error, "compiled plugin does not link; compiling anew");
                    None
                }
            }
        });
        loaded.await.ok().flatten()
    }

    fn keep(&self, digest: PluginDigest, code: &[u8]) -> Result<Arc<Loaded>, LoadError> {
        let component = self.code.keep(&self.engine, digest, code);
        let loaded = component.and_then(|component| self.link(digest, &component));
        // Where it cannot be used nobody will load it again: it must not fill the disk.
        let loaded = loaded.inspect_err(|_| self.code.delete(digest))?;
        for reason in loaded.left_out() {
            tracing::warn!(%digest, reason, "a function of a component is not a tool");
        }
        Ok(loaded)
    }

    fn link(&self, digest: PluginDigest, component: &Component) -> Result<Arc<Loaded>, LoadError> {
        let asked = roles::asked(component, &self.engine);
        let pre = self
            .linker
            .instantiate_pre(component)
            .map_err(|error| LoadError::Unlinkable(format!("{error:#}")))?;
        let roles = Roles::of(&pre, &self.engine)?;
        Ok(Arc::new(Loaded { digest, digest_text: digest.to_string(), pre, roles, asked }))
    }
}
