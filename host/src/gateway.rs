//! The gateway as a whole: every handle made once, in order, and run until it is told to stop.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use bytes::Bytes;
use http::Request;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::access::Access;
use crate::access::webhooks::Webhooks;
use crate::agent::Runner;
use crate::agent::model::Models;
use crate::answer::PostRunRecorder;
use crate::bulk::BulkLane;
use crate::channel::Channels;
use crate::clock::Clock;
use crate::disk::make_private;
use crate::http::budget::BodyBudget;
use crate::http::places::{Operations, Streams};
use crate::http::serve::{ServeLimits, serve};
use crate::http::{Handles, router};
use crate::ids::{PluginName, TenantId};
use crate::outbox::{Deliveries, Outbox};
use crate::plugins::{self, KeptValues, Plugins};
use crate::runs::{self, Runs, Workers};
use crate::sandbox::{
    CompileLimits, HostServices, PoolSize, QuarantineSettings, Sandbox, SandboxSettings,
};
use crate::secrets::{DerivedKey, HostKey, PlainSecret};
use crate::settings::Settings;
use crate::store::Store;
use crate::vault::Vault;

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
    /// When the sandbox cannot run on this machine, or a signer's key is none.
    pub fn plugins(&self, settings: &Settings) -> anyhow::Result<Plugins> {
        let limits = &settings.sandbox;
        let sandbox = SandboxSettings {
            pool: PoolSize {
                calls: limits.calls_max,
                memory_bytes_max: limits.memory_mib_max.saturating_mul(1 << 20),
            },
            cache: self.path.join("cache"),
            slow_threads: limits.slow_threads,
            all_memory_bytes_max: limits.all_memory_mib_max.saturating_mul(1 << 20),
            tenant_memory_bytes_max: limits.tenant_memory_mib_max.saturating_mul(1 << 20),
            compilations: limits.compilations_max,
            compiling: CompileLimits::new(
                limits.compile_memory_mib_max,
                limits.compile_cpu_seconds_max,
            ),
            loaded_max: limits.loaded_max,
            quarantine: QuarantineSettings {
                after: limits.quarantine_after,
                pause: Duration::from_secs(limits.quarantine_seconds),
            },
        };
        let services = HostServices {
            clock: self.clock.clone(),
            values: Arc::new(KeptValues::new(self.store.clone())),
        };
        let sandbox = Sandbox::start(&sandbox, &self.key, services);
        let sandbox = sandbox.context("the plugin sandbox")?;
        let (store, folder) = (self.store.clone(), self.path.clone());
        let clock = self.clock.clone();
        Ok(Plugins::new(&settings.plugins, store, sandbox, self.vault(), folder, clock)?)
    }

    /// Everything that handlers reach, over this folder. Its queue accepts and runs nothing.
    ///
    /// # Errors
    /// When the sandbox cannot run on this machine.
    pub fn handles(&self, settings: &Settings, public_url: String) -> anyhow::Result<Handles> {
        Ok(Handles {
            access: Access::new(self.store.clone(), self.operator_key().hash(), self.clock.clone()),
            plugins: self.plugins(settings)?,
            runs: Runs::new(self.store.clone()),
            store: self.store.clone(),
            webhooks: self.webhooks(),
            vault: self.vault(),
            channels: Channels::new(self.store.clone(), self.vault(), &public_url),
            post_run: PostRunRecorder::new(self.store.clone(), self.clock.clone()),
            models: settings.models.keys().cloned().collect(),
            public_url,
            clock: self.clock.clone(),
            settings: settings.http.clone(),
            hurry: CancellationToken::new(),
            streams: Streams::default(),
            operations: Operations::default(),
            operations_per_tenant_max: settings.queue.runs_per_tenant_max,
            bodies: BodyBudget::new(&settings.http),
            bulk: Arc::new(BulkLane::start(settings.sandbox.slow_threads)?),
        })
    }

    /// Where the operator says what a plugin of a tenant may do.
    #[must_use]
    pub fn grants_path(&self, tenant: TenantId, plugin: &PluginName) -> PathBuf {
        plugins::grants_path(&self.path, tenant, plugin)
    }

    /// The secrets of its tenants.
    #[must_use]
    pub fn vault(&self) -> Vault {
        Vault::new(self.store.clone(), self.key.derive("wardgate 2026 tenant secrets"))
    }

    /// The tokens of agents' own webhooks.
    #[must_use]
    pub fn webhooks(&self) -> Webhooks {
        Webhooks::new(self.store.clone(), self.key.derive("wardgate 2026 webhook tokens"))
    }

    /// The operator key that comes with the folder: whoever can read the folder's own key is its
    /// operator.
    #[must_use]
    pub fn operator_key(&self) -> PlainSecret {
        self.key.derive("wardgate 2026 operator of the folder").operator_key(&[])
    }

    /// A key for what the demo derives.
    #[must_use]
    pub fn demo_key(&self) -> DerivedKey {
        self.key.derive("wardgate 2026 demo tenant")
    }
}

/// The routes of a folder without a socket, for commands on the machine that has the folder. What is
/// accepted through them runs where a gateway serves from the folder.
#[derive(Debug)]
pub struct Local(Router);

impl Local {
    /// Serves these handles.
    #[must_use]
    pub fn new(handles: Handles) -> Self {
        Self(router(Arc::new(handles)))
    }

    /// Answers one request.
    ///
    /// # Errors
    /// When its answer cannot be read whole.
    pub async fn send(&self, request: Request<Bytes>) -> anyhow::Result<http::Response<Bytes>> {
        use tower::ServiceExt as _;
        let answered = self.0.clone().oneshot(request.map(axum::body::Body::from)).await;
        let (head, body) = match answered {
            Ok(response) => response.into_parts(),
            Err(never) => match never {},
        };
        let body = axum::body::to_bytes(body, usize::MAX).await.context("the answer")?;
        Ok(http::Response::from_parts(head, body))
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
    outbox: Outbox,
    /// Ends the looking for what other processes change.
    _watching: DropGuard,
    /// Held as long as the gateway lives: one process serves a folder at a time.
    _lock: fs::File,
}

impl Gateway {
    /// Makes every part for a gateway that listens there, takes over the tasks that an earlier process left, and starts the workers.
    ///
    /// # Errors
    /// When a part cannot be made, or another process serves from the folder.
    pub async fn build(
        folder: &DataFolder,
        settings: Settings,
        listening: SocketAddr,
    ) -> anyhow::Result<Self> {
        let public_url = match settings.http.public_url.trim_end_matches('/') {
            "" => format!("http://{listening}"),
            url => url.to_owned(),
        };
        let lock = lock(&folder.path).with_context(|| {
            format!("another gateway serves from {}; stop it first", folder.path.display())
        })?;
        let store = folder.store.clone();
        let taken_over = store.succeed_owners(settings.queue.lease).await;
        let taken_over = taken_over.context("tasks of an earlier process")?;
        if taken_over > 0 {
            tracing::info!(tasks = taken_over, "tasks that an earlier process left will run again");
        }
        store.delete_unclaimed_chunks().await.context("texts of an earlier process")?;
        let handles = folder.handles(&settings, public_url)?;
        // Loaded before the first request needs them, and not waited for.
        tokio::spawn(handles.plugins.clone().preload());
        tokio::spawn(handles.plugins.clone().sweep());
        let runner = Runner {
            store: store.clone(),
            plugins: handles.plugins.clone(),
            models: Models::of(&settings.models)?,
            clock: folder.clock.clone(),
            limits: settings.agent.clone(),
        };
        let deliveries = Deliveries {
            store: store.clone(),
            plugins: handles.plugins.clone(),
            channels: handles.channels.clone(),
            post_run: handles.post_run.clone(),
        };
        let bulk = Arc::clone(&handles.bulk);
        let workers = runs::start(&handles.runs, runner, bulk, settings.queue.clone());
        let outbox = Outbox::start(deliveries, handles.runs.ended());
        let watching = CancellationToken::new();
        tokio::spawn(store.clone().watch_other_processes(watching.clone()));
        let watching = watching.drop_guard();
        let handles = Arc::new(handles);
        Ok(Self { handles, settings, store, workers, outbox, _watching: watching, _lock: lock })
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
            connections_per_address_max: http.connections_per_address_max,
            drain: http.drain_time_max,
        };
        let stopping = std::sync::OnceLock::new();
        let hurry = self.handles.hurry.clone();
        let shutdown = async {
            shutdown.await;
            let _ = stopping.set(Instant::now());
            // Before the drain time is over, so that whoever still waits is answered and not cut off.
            let patience = http.drain_time_max.mul_f32(0.8);
            tokio::spawn(async move {
                tokio::time::sleep(patience).await;
                hurry.cancel();
            });
        };
        let served = serve(listener, self.router(), limits, shutdown).await;
        // Connections first: a synchronous caller gets its answer while workers still run. What they
        // took of the drain time is gone.
        let since = stopping.get().map(Instant::elapsed).unwrap_or_default();
        let drain = http.drain_time_max.saturating_sub(since);
        tokio::join!(self.workers.stop(drain), self.outbox.stop(drain));
        self.store.close().await;
        served.context("serving")
    }
}

/// Takes the folder for this process. The lock goes with the process, however it ends.
fn lock(folder: &Path) -> io::Result<fs::File> {
    let file = fs::File::create(folder.join("lock"))?;
    file.try_lock().map_err(io::Error::from)?;
    Ok(file)
}
