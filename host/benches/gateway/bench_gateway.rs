//! The fixture of all benchmarks: a gateway on a data folder of its own, with one tenant, agent and key.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wardgate::clock::Clock;
use wardgate::gateway::{DataFolder, Gateway};
use wardgate::http::serve::{ServeLimits, serve};
use wardgate::ids::{AgentId, KeyId, TenantId};
use wardgate::secrets::PlainSecret;
use wardgate::settings::Settings;
use wardgate::tenants::{AgentDefinition, KeyHolder, NewKey, Precondition};

/// The payload of requests: a message from Telegram.
pub(crate) const TELEGRAM: &str = include_str!("../../../tests/payloads/telegram.json");

/// A gateway and what a caller of it needs.
pub(crate) struct BenchGateway {
    pub(crate) gateway: Gateway,
    pub(crate) tenant: TenantId,
    pub(crate) agent: AgentId,
    pub(crate) key: PlainSecret,
    /// The data folder, deleted on drop.
    pub(crate) folder: TempDir,
}

impl BenchGateway {
    /// Creates a gateway with at most `runs_max` concurrent runs. Its data folder is in the build folder, on the disk
    /// that a user's data would be on: in a file system in memory, a sync would cost nothing.
    pub(crate) async fn make(runs_max: usize) -> anyhow::Result<Self> {
        Self::make_with(runs_max, |_| {}).await
    }

    /// Likewise, with changed settings.
    pub(crate) async fn make_with(
        runs_max: usize,
        change: impl FnOnce(&mut Settings),
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in(target())?;
        let data = DataFolder::open(folder.path(), Clock::system()).await?;
        let mut settings = Settings::of_defaults()?;
        settings.queue.runs_max = runs_max;
        change(&mut settings);
        let (tenant, agent) = (TenantId::random(), AgentId::random());
        data.store.create_tenant(tenant, &"bench".parse()?).await?;
        let definition: AgentDefinition = serde_json::from_str(r#"{"name":"bench"}"#)?;
        data.store.put_agent(tenant, agent, &definition, Precondition::Absent).await?;
        let key = PlainSecret::random_api_key()?;
        let (id, holder, name) = (KeyId::random(), KeyHolder::Tenant(tenant), "bench".to_owned());
        data.store.put_key(NewKey { id, hash: key.hash(), holder, name, expires_at: None }).await?;
        let listening = SocketAddr::from(([127, 0, 0, 1], 0));
        let gateway = Gateway::build(&data, settings, listening).await?;
        // Bundled plugins are compiled in the background, which would take a core from the measurement.
        let plugins = &gateway.services.plugins;
        let begun = std::time::Instant::now();
        while plugins.loaded_count().await < wardgate::plugins::bundled().count() as u64 {
            let is_late = begun.elapsed() > Duration::from_secs(120);
            anyhow::ensure!(
                !is_late,
                "the plugins that ship do not load: is `wardgate` beside this program?"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self { gateway, tenant, agent, key, folder })
    }

    /// Serves the routes on a free port of this machine.
    pub(crate) async fn serve(&self) -> anyhow::Result<Serving> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let limits = ServeLimits {
            head_bytes_max: 64 << 10,
            head_timeout: Duration::from_secs(30),
            connections_max: 4096,
            connections_per_address_max: 4096,
            drain: Duration::from_secs(1),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, self.gateway.router(), limits, async move {
            let _ = stopped.await;
        }));
        Ok(Serving { address, stop, server })
    }

    /// A `POST /` request as raw bytes.
    pub(crate) fn request(&self, query: &str, body: &str) -> Vec<u8> {
        format!(
            "POST /?agent_id={}{query} HTTP/1.1\r\nhost: bench\r\nx-api-key: {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.agent,
            self.key.reveal(),
            body.len(),
        )
        .into_bytes()
    }
}

/// A gateway's routes on a socket.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    stop: oneshot::Sender<()>,
    server: JoinHandle<io::Result<()>>,
}

impl Serving {
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        let _ = self.stop.send(());
        Ok(self.server.await??)
    }
}

/// Cargo's target folder.
pub(crate) fn target() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

/// Writes the figures of a benchmark.
pub(crate) fn write(part: &str, figures: &serde_json::Value) -> anyhow::Result<()> {
    let folder = target().join("bench");
    std::fs::create_dir_all(&folder)?;
    let path = folder.join(format!("{part}.json"));
    std::fs::write(&path, serde_json::to_string_pretty(figures)?).context("target/bench")
}

/// The machine's load averages, as the kernel reports them.
pub(crate) fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

/// The median, or 0 for an empty list.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}
