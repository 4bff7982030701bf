//! The gateway as a whole: every handle made once, in order, and run until it is told to stop.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use axum::Router;
use tokio::net::TcpListener;

use crate::access::Access;
use crate::agent::Runner;
use crate::agent::model::Models;
use crate::clock::Clock;
use crate::http::serve::{ServeLimits, serve};
use crate::http::{Handles, router};
use crate::ids::{AgentId, TenantId};
use crate::plugins::Plugins;
use crate::queue::{self, Workers};
use crate::sandbox::{PoolSize, Sandbox, SandboxSettings};
use crate::secrets::{DerivedKey, HostKey, PlainSecret};
use crate::settings::Settings;
use crate::store::Store;
use crate::tenants::AgentDefinition;

/// The data folder: what a gateway keeps. Commands may open it while a gateway serves from it.
#[derive(Debug, Clone)]
pub struct DataFolder {
    path: PathBuf,
    /// The store in it.
    pub store: Store,
    /// The key in it.
    pub key: HostKey,
    clock: Clock,
}

impl DataFolder {
    /// Opens the folder, making what is missing in it.
    ///
    /// # Errors
    /// When it cannot be made, read or written.
    pub async fn open(path: &Path, clock: Clock) -> anyhow::Result<Self> {
        make_private(path).with_context(|| format!("the data folder {}", path.display()))?;
        let key = HostKey::load_or_create(&path.join("host.key")).context("the gateway's key")?;
        let store = Store::open(&path.join("wardgate.db"), clock.clone())
            .await
            .context("the gateway's store")?;
        Ok(Self { path: path.to_owned(), store, key, clock })
    }

    /// The plugins of the folder, in a sandbox of these settings.
    ///
    /// # Errors
    /// When the sandbox cannot run on this machine.
    pub fn plugins(&self, settings: &Settings) -> anyhow::Result<Plugins> {
        let limits = &settings.sandbox;
        let sandbox = SandboxSettings {
            pool: PoolSize {
                calls: limits.calls_max,
                memory_bytes_max: limits.memory_mib_max.saturating_mul(1 << 20),
            },
            cache: self.path.join("cache"),
            slow_threads: limits.slow_threads,
            compilations: limits.compilations_max,
        };
        let sandbox = Sandbox::start(&sandbox, &self.key).context("the plugin sandbox")?;
        Ok(Plugins::new(self.store.clone(), sandbox, self.path.clone(), self.clock.clone()))
    }

    /// Stores an agent and the token of its webhook.
    ///
    /// # Errors
    /// When the store cannot take it, or the id belongs to another tenant.
    pub async fn put_agent(
        &self,
        tenant: TenantId,
        id: AgentId,
        definition: &AgentDefinition,
    ) -> anyhow::Result<PlainSecret> {
        self.store.put_agent(tenant, id, definition).await?;
        let token = self.webhook_token(tenant, id);
        self.store.put_webhook_token(tenant, id, token.hash()).await?;
        Ok(token)
    }

    /// The token of an agent's webhook: the same each time it is asked for, stored as a hash only.
    #[must_use]
    pub fn webhook_token(&self, tenant: TenantId, agent: AgentId) -> PlainSecret {
        let (tenant, agent) = (tenant.to_string(), agent.to_string());
        let parts: [&[u8]; 2] = [tenant.as_bytes(), agent.as_bytes()];
        self.key.derive("wardgate 2026 webhook tokens").webhook_token(&parts)
    }

    /// A key for what the demo derives.
    #[must_use]
    pub fn demo_key(&self) -> DerivedKey {
        self.key.derive("wardgate 2026 demo tenant")
    }
}

/// A gateway, built and not yet serving.
#[derive(Debug)]
pub struct Gateway {
    /// What handlers reach.
    pub handles: Arc<Handles>,
    settings: Settings,
    store: Store,
    workers: Workers,
    /// Held as long as the gateway lives: one process serves a folder at a time.
    _lock: fs::File,
}

impl Gateway {
    /// Makes every part, takes back the tasks that an earlier process left, and starts the workers.
    ///
    /// # Errors
    /// When a part cannot be made, or another process serves from the folder.
    pub async fn build(folder: &DataFolder, settings: Settings) -> anyhow::Result<Self> {
        let lock = lock(&folder.path).with_context(|| {
            format!("another gateway serves from {}; stop it first", folder.path.display())
        })?;
        let store = folder.store.clone();
        let taken_back = store.take_back_all().await.context("tasks of an earlier process")?;
        if taken_back > 0 {
            tracing::info!(tasks = taken_back, "tasks that an earlier process left will run again");
        }
        let plugins = folder.plugins(&settings)?;
        // Compiled before the first request needs them, and not waited for.
        tokio::spawn(plugins.clone().load_bundled());
        let runner = Runner {
            store: store.clone(),
            plugins: plugins.clone(),
            models: Models::of(&settings.models)?,
            clock: folder.clock.clone(),
            limits: settings.agent.clone(),
        };
        let (queue, workers) = queue::start(store.clone(), runner, settings.queue.clone());
        let handles = Arc::new(Handles {
            access: Access::new(store.clone()),
            plugins,
            queue,
            store: store.clone(),
            settings: settings.http.clone(),
        });
        Ok(Self { handles, settings, store, workers, _lock: lock })
    }

    /// Every route, for tests and benchmarks that need no socket.
    pub fn router(&self) -> Router {
        router(Arc::clone(&self.handles))
    }

    /// Serves until `shutdown` comes; then ends what is under way, within the drain time.
    ///
    /// # Errors
    /// When connections cannot be accepted at all.
    pub async fn run(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> anyhow::Result<()> {
        let http = &self.settings.http;
        let limits = ServeLimits {
            head_bytes_max: http.head_bytes_max,
            head_timeout: http.head_time_max,
            connections_max: http.connections_max,
            drain: http.drain_time_max,
        };
        let stopping = std::sync::OnceLock::new();
        let shutdown = async {
            shutdown.await;
            let _ = stopping.set(Instant::now());
        };
        let served = serve(listener, self.router(), limits, shutdown).await;
        // Connections first: a synchronous caller gets its answer while workers still run. What they
        // took of the drain time is gone.
        let since = stopping.get().map(Instant::elapsed).unwrap_or_default();
        self.workers.stop(http.drain_time_max.saturating_sub(since)).await;
        self.store.close().await;
        served.context("serving")
    }

    /// The base of URLs that are handed out.
    #[must_use]
    pub fn public_url(&self, listening: SocketAddr) -> String {
        match self.settings.http.public_url.trim_end_matches('/') {
            "" => format!("http://{listening}"),
            url => url.to_owned(),
        }
    }
}

fn make_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Takes the folder for this process. The lock goes with the process, however it ends.
fn lock(folder: &Path) -> io::Result<fs::File> {
    let file = fs::File::create(folder.join("lock"))?;
    file.try_lock().map_err(io::Error::from)?;
    Ok(file)
}
