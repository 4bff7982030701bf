//! `wardgate serve`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::logging;
use crate::clock::Clock;
use crate::gateway::{DataFolder, Gateway};
use crate::http::Services;
use crate::ids::{AgentId, KeyId, Name, PluginName, TenantId};
use crate::settings::Settings;
use crate::tenants::{
    AgentDefinition, ApprovalRules, Budget, KeyHolder, NewKey, OnUnknown, Precondition, Tenant,
};
use crate::watch::Watch;

/// Arguments of `wardgate serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// Data folder; created if it is missing.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Address to listen on, instead of the setting http.listen; port 0 picks a free port.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Create a demo tenant with an agent and keys, and print them.
    ///
    /// Only for trying things out on this machine, since it prints the keys. A second start prints the same.
    #[arg(long)]
    demo: bool,
    /// Install this component, or every component in this folder, after each build.
    ///
    /// Calls in flight finish with the old build and the next call gets the new one. A broken build leaves the old
    /// one in place. `NAME.grants.toml` beside `NAME.wasm` holds the plugin's grants. Can be repeated.
    #[arg(long, value_name = "PATH")]
    watch: Vec<PathBuf>,
    /// Tenant that --watch installs for, by id or name; optional if there is only one.
    #[arg(long, value_name = "TENANT", requires = "watch")]
    watch_tenant: Option<String>,
    /// Write log lines as JSON.
    #[arg(long)]
    log_json: bool,
    /// Log filter, in the syntax of tracing's EnvFilter.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    log: String,
}

impl Serve {
    /// Serves until SIGTERM or SIGINT.
    pub(super) async fn execute(self, mut settings: Settings) -> anyhow::Result<()> {
        logging::start(&self.log, self.log_json)?;
        raise_file_limit();
        if let Some(listen) = self.listen {
            settings.http.listen = listen;
        }
        let folder = DataFolder::open(&self.data, Clock::system()).await?;
        let listen = settings.http.listen;
        let listener = TcpListener::bind(listen)
            .await
            .with_context(|| format!("cannot listen on {listen}"))?;
        let listening = listener.local_addr()?;
        let gateway = Gateway::build(&folder, settings, listening).await?;
        // Before the address is printed: a caller that has read it may send a signal at once.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let line = if self.demo {
            demo(&folder, listening, &gateway.services).await?
        } else {
            json!({"listen": listening.to_string(), "url": gateway.services.public_url})
        };
        let watching = self.watching(&folder, &gateway.services).await?;
        super::print(&line.to_string())?;
        tracing::info!(%listening, "serving");
        let _watching = watching.map(|watch| {
            let watching = tokio::spawn(async move {
                if let Err(error) = watch.serve().await {
                    tracing::error!(error = format!("{error:#}"), "plugins are not watched");
                }
            });
            tokio_util::task::AbortOnDropHandle::new(watching)
        });
        gateway
            .run(listener, async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                tracing::info!("stopping: no new connections, what runs may end");
            })
            .await
    }

    /// The watcher that the arguments ask for, if any.
    async fn watching(
        &self,
        folder: &DataFolder,
        services: &Services,
    ) -> anyhow::Result<Option<Watch>> {
        if self.watch.is_empty() {
            return Ok(None);
        }
        let tenants = folder.store.tenants().await?;
        let is_watched = |tenant: &&Tenant| match &self.watch_tenant {
            None => tenants.len() == 1,
            Some(text) => tenant.name.as_str() == text || tenant.id.to_string() == *text,
        };
        let tenant = tenants.iter().find(is_watched).with_context(|| match &self.watch_tenant {
            Some(text) => format!("there is no tenant {text:?} to watch for"),
            None if tenants.is_empty() => {
                "there is no tenant to watch for; `wardgate tenant create` or --demo makes one"
                    .to_owned()
            }
            None => "there are several tenants; say which with --watch-tenant".to_owned(),
        })?;
        Ok(Some(Watch::new(services.plugins.clone(), tenant.id, &self.watch)))
    }
}

/// Raises the soft limit on open files to the hard limit. Each connection is an open file, and the usual soft limit
/// of 1,024 is below what the settings allow. The store and plugins need files too, so running out of them is worse
/// than refusing a connection.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "the limit on open files stays as it is");
    }
}

/// Creates the demo tenant, its agent and its keys. All are derived from the folder's key, so that a second start
/// prints the same.
async fn demo(
    folder: &DataFolder,
    listening: SocketAddr,
    services: &Services,
) -> anyhow::Result<serde_json::Value> {
    let key = folder.demo_key();
    let id = |what: &[u8]| {
        let mut bytes = [0; 16];
        for (byte, random) in bytes.iter_mut().zip(key.mac(&[what]).as_bytes()) {
            *byte = *random;
        }
        bytes
    };
    let tenant = TenantId::from_bytes(id(b"tenant"));
    let agent = AgentId::from_bytes(id(b"agent"));
    let store = &folder.store;
    store.create_tenant(tenant, &Name::constant("demo")).await?;
    // An existing agent is left alone: it may have been changed since.
    if store.agent(tenant, agent).await?.is_none() {
        store.put_agent(tenant, agent, &demo_agent(), Precondition::Absent).await?;
    }
    let token = services.webhooks.token(tenant, agent).await?;
    let api_key = key.api_key(&[b"api key"]);
    let operator_key = key.operator_key(&[b"operator key"]);
    for (key, holder, name) in [
        (&api_key, KeyHolder::Tenant(tenant), "demo"),
        (&operator_key, KeyHolder::Operator, "demo operator"),
    ] {
        let (id, name) = (KeyId::random(), name.to_owned());
        store.put_key(NewKey { id, hash: key.hash(), holder, name, expires_at: None }).await?;
    }
    let public_url = &services.public_url;
    let webhook = token.map(|token| services.webhooks.url(&token));
    Ok(json!({
        "listen": listening.to_string(),
        "organization_id": tenant,
        "agent_id": agent,
        "api_key": api_key.reveal(),
        "operator_key": operator_key.reveal(),
        "webhook_url": webhook,
        "task_status_url": format!("{public_url}/api/task_status"),
    }))
}

fn demo_agent() -> AgentDefinition {
    AgentDefinition {
        name: Name::constant("demo"),
        description: Some("Tries things out".to_owned()),
        instructions: "You answer webhooks. Use your tools where they help.".to_owned(),
        model: "offline".to_owned(),
        tools: vec![PluginName::constant("calculator"), PluginName::constant("http-fetch")],
        mapper: None,
        getter: None,
        allow_destructive_tools: false,
        turns_max: None,
        on_unknown: OnUnknown::default(),
        mcp_servers: Vec::new(),
        tool_policies: BTreeMap::new(),
        approvals: ApprovalRules::default(),
        idempotency_arguments: BTreeMap::new(),
        show_images: false,
        output_schema: None,
        budget: Budget::default(),
    }
}
