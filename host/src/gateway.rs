//! Assembles the gateway: opens the data folder, builds every part once and in order, serves, and shuts down.

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
use crate::access::approval_links::ApprovalLinks;
use crate::access::webhooks::Webhooks;
use crate::agent::model::Models;
use crate::agent::{Budgets, OutputForms, Runner, TenantModels};
use crate::answer::PostRunRecorder;
use crate::bulk::BulkLane;
use crate::channel::Channels;
use crate::clock::Clock;
use crate::disk::make_private;
use crate::http::budget::BodyBudget;
use crate::http::serve::{ServeLimits, serve};
use crate::http::{Services, router};
use crate::ids::{PluginName, TenantId};
use crate::mcp::McpServers;
use crate::outbox::{Deliveries, Outbox};
use crate::plugins::{self, Plugins, StoreValues};
use crate::runs::{self, Runs, Workers};
use crate::sandbox::{
    CompileLimits, HostServices, PoolSize, QuarantineSettings, Sandbox, SandboxSettings,
};
use crate::secrets::{DerivedKey, HostKey, PlainSecret};
use crate::settings::Settings;
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::vault::Vault;

/// A gateway's data folder: its store, its key and its files. Commands may open it while a gateway serves from it.
#[derive(Debug, Clone)]
pub struct DataFolder {
    path: PathBuf,
    /// The folder's store.
    pub store: Store,
    /// The folder's own key, from which its other keys are derived.
    pub key: HostKey,
    clock: Clock,
}

impl DataFolder {
    /// Opens the folder, and creates the folder, its key or its store if missing.
    ///
    /// # Errors
    /// If the folder, its key or its store cannot be created, read or written.
    pub async fn open(path: &Path, clock: Clock) -> anyhow::Result<Self> {
        make_private(path).with_context(|| format!("the data folder {}", path.display()))?;
        let key = HostKey::load_or_create(&path.join("host.key")).context("the gateway's key")?;
        let store = Store::open(&path.join("wardgate.db"), clock.clone())
            .await
            .context("the gateway's store")?;
        Ok(Self { path: path.to_owned(), store, key, clock })
    }

    /// Starts a sandbox with these settings and opens the folder's plugins in it.
    ///
    /// # Errors
    /// If the sandbox cannot run on this machine, or if a signer's key in the settings is invalid.
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
            long_compilations_max: limits.compilations_max,
            compiling: CompileLimits::new(
                limits.compile_memory_mib_max,
                limits.compile_cpu_seconds_max,
            ),
            loaded_max: limits.loaded_max,
            quarantine: QuarantineSettings {
                failures_max: limits.quarantine_after,
                pause: Duration::from_secs(limits.quarantine_seconds),
            },
        };
        let services = HostServices {
            clock: self.clock.clone(),
            values: Arc::new(StoreValues::new(self.store.clone())),
        };
        let sandbox = Sandbox::start(&sandbox, &self.key, services);
        let sandbox = sandbox.context("the plugin sandbox")?;
        let (store, folder) = (self.store.clone(), self.path.clone());
        let clock = self.clock.clone();
        Ok(Plugins::new(&settings.plugins, store, sandbox, self.vault(), folder, clock)?)
    }

    /// Builds the services of the HTTP surface on this folder. No workers are started: submitted tasks are stored, and
    /// the gateway that serves from the folder runs them.
    ///
    /// # Errors
    /// If the sandbox cannot run on this machine, if a signer's key in the settings is invalid, or if the system
    /// provides no threads for long bodies.
    pub fn services(&self, settings: &Settings, public_url: String) -> anyhow::Result<Services> {
        Ok(Services {
            access: Access::new(self.store.clone(), self.operator_key().hash(), self.clock.clone()),
            plugins: self.plugins(settings)?,
            runs: Runs::new(self.store.clone(), self.key.derive("wardgate 2026 user tokens")),
            store: self.store.clone(),
            webhooks: self.webhooks(&public_url),
            approval_links: ApprovalLinks::new(
                self.key.derive("wardgate 2026 approval links"),
                &public_url,
            ),
            vault: self.vault(),
            mcp: McpServers::new(self.store.clone(), self.vault()),
            channels: Channels::new(self.store.clone(), self.vault(), &public_url),
            post_run: PostRunRecorder::new(self.store.clone(), self.clock.clone()),
            models: Arc::new(settings.models.clone()),
            public_url,
            clock: self.clock.clone(),
            settings: settings.http.clone(),
            shutdown_deadline: CancellationToken::new(),
            operations_per_tenant_max: settings.queue.runs_per_tenant_max,
            bodies: BodyBudget::new(&settings.http),
            bulk: Arc::new(BulkLane::start(settings.sandbox.slow_threads)?),
        })
    }

    /// The path of a plugin's grants file, in which the operator sets what the plugin may do.
    #[must_use]
    pub fn grants_path(&self, tenant: TenantId, plugin: &PluginName) -> PathBuf {
        plugins::grants_path(&self.path, tenant, plugin)
    }

    /// The vault of tenants' secrets.
    #[must_use]
    pub fn vault(&self) -> Vault {
        Vault::new(self.store.clone(), self.key.derive("wardgate 2026 tenant secrets"))
    }

    /// The tokens of agents' own webhooks, derived from the folder's key, with URLs that begin with this one.
    #[must_use]
    pub fn webhooks(&self, public_url: &str) -> Webhooks {
        let key = self.key.derive("wardgate 2026 webhook tokens");
        Webhooks::new(self.store.clone(), key, public_url)
    }

    /// The operator key, derived from the folder's key: read access to `host.key` is operator access.
    #[must_use]
    pub fn operator_key(&self) -> PlainSecret {
        self.key.derive("wardgate 2026 operator of the folder").operator_key(&[])
    }

    /// The key from which the demo tenant's credentials are derived.
    #[must_use]
    pub fn demo_key(&self) -> DerivedKey {
        self.key.derive("wardgate 2026 demo tenant")
    }
}

/// The gateway's routes without a socket, for commands on the machine that holds the data folder. Tasks that they
/// accept are stored; the gateway that serves from the folder runs them.
#[derive(Debug)]
pub struct Local(Router);

impl Local {
    /// Creates the routes of these services.
    #[must_use]
    pub fn new(services: &Services) -> Self {
        Self(router(services))
    }

    /// Sends one request to the routes and returns the whole response.
    ///
    /// # Errors
    /// If the response body cannot be read to its end.
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

/// A gateway that is built and does not serve yet. Its workers already run.
#[derive(Debug)]
pub struct Gateway {
    /// The services behind the HTTP surface.
    pub services: Services,
    router: Router,
    settings: Settings,
    store: Store,
    workers: Workers,
    outbox: Outbox,
    telemetry: Telemetry,
    /// Stops the polling for changes of other processes when dropped.
    _watching: DropGuard,
    /// Held for the lifetime of the gateway, so that only one process at a time serves a folder.
    _lock: fs::File,
}

impl Gateway {
    /// Builds every part of the gateway, takes over the tasks that an earlier process left unfinished, and starts
    /// the workers. `listening` is the base of public URLs when the settings name none.
    ///
    /// # Errors
    /// If a part cannot be built, or if another process serves from the folder.
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
        let taken_over = store.replace_owners(settings.queue.lease).await;
        let taken_over = taken_over.context("tasks of an earlier process")?;
        if taken_over > 0 {
            tracing::info!(tasks = taken_over, "tasks that an earlier process left will run again");
        }
        store.delete_unclaimed_chunks().await.context("texts of an earlier process")?;
        let services = folder.services(&settings, public_url)?;
        // In the background: plugins load before the first request needs them, and do not delay the start.
        tokio::spawn(services.plugins.clone().preload());
        tokio::spawn(services.plugins.clone().sweep());
        let runner = Runner {
            store: store.clone(),
            plugins: services.plugins.clone(),
            models: TenantModels::new(
                Models::from_settings(&settings.models)?,
                store.clone(),
                folder.vault(),
            ),
            mcp: services.mcp.clone(),
            clock: folder.clock.clone(),
            limits: settings.agent.clone(),
            budgets: Budgets::new(store.clone(), folder.clock.clone()),
            forms: OutputForms::default(),
        };
        let deliveries = Deliveries {
            store: store.clone(),
            plugins: services.plugins.clone(),
            channels: services.channels.clone(),
            post_run: services.post_run.clone(),
        };
        let telemetry = Telemetry::start(&settings.telemetry)?;
        let bulk = Arc::clone(&services.bulk);
        let workers =
            runs::start(&services.runs, runner, bulk, telemetry.clone(), settings.queue.clone());
        let outbox = Outbox::start(deliveries, services.runs.ended());
        let watching = CancellationToken::new();
        tokio::spawn(store.clone().watch_other_processes(watching.clone()));
        let watching = watching.drop_guard();
        let router = router(&services);
        Ok(Self {
            services,
            router,
            settings,
            store,
            workers,
            outbox,
            telemetry,
            _watching: watching,
            _lock: lock,
        })
    }

    /// Every route. Tests and benchmarks call it without a socket.
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// Serves until `shutdown` is ready, then drains requests, runs and deliveries within the drain time.
    ///
    /// # Errors
    /// If connections cannot be accepted at all.
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
        let shutdown_deadline = self.services.shutdown_deadline.clone();
        let shutdown = async {
            shutdown.await;
            let _ = stopping.set(Instant::now());
            // Earlier than the end of the drain time, so that waiting callers get an answer before the cut.
            let wait_max = http.drain_time_max.mul_f32(0.8);
            tokio::spawn(async move {
                tokio::time::sleep(wait_max).await;
                shutdown_deadline.cancel();
            });
        };
        let served = serve(listener, self.router(), limits, shutdown).await;
        // Connections first: a synchronous caller gets its answer while workers still run. Workers and deliveries
        // get what is left of the drain time.
        let since = stopping.get().map(Instant::elapsed).unwrap_or_default();
        let drain = http.drain_time_max.saturating_sub(since);
        tokio::join!(self.workers.stop(drain), self.outbox.stop(drain));
        self.telemetry.stop().await;
        self.store.close().await;
        served.context("serving")
    }
}

/// Locks the folder for this process. The operating system releases the lock when the process ends, however it
/// ends.
fn lock(folder: &Path) -> io::Result<fs::File> {
    let file = fs::File::create(folder.join("lock"))?;
    file.try_lock().map_err(io::Error::from)?;
    Ok(file)
}
