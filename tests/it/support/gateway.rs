//! A gateway in this process, built as the program builds it: on a port of its own, with a tenant, a key and an
//! agent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wardgate::clock::Clock;
use wardgate::gateway::DataFolder;
use wardgate::http::Services;
use wardgate::ids::{AgentId, KeyId, PluginName, TenantId};
use wardgate::plugins::PluginUnavailable;
use wardgate::secrets::{PlainSecret, SecretUses};
use wardgate::settings::Settings;
use wardgate::tenants::{
    AgentDefinition, ApprovalRules, Budget, Installer, KeyHolder, NewKey, OnUnknown, Precondition,
};
use wardgate::vault::NewSecret;

use super::model_server::ModelServer;
use super::{Call, Client, Home, guest_path};

/// The grants of plugins in tests that are not about time limits. By default a mapper, getter or verifier has one
/// second of wall time: a call during which the epoch ticks continues at low priority, and on a busy machine that
/// second may pass without it. CPU time is measured per thread, so its default limit stays in force.
const RELAXED_LIMITS: &str = "[limits]\nwall_ms = 40000\n";

/// An agent with the offline model and no tools.
pub(crate) fn agent(name: &str) -> AgentDefinition {
    AgentDefinition {
        name: name.parse().unwrap(),
        description: None,
        instructions: "You answer tests.".to_owned(),
        model: "offline".to_owned(),
        tools: Vec::new(),
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

/// The configuration of a gateway that has not been started.
#[derive(Debug)]
pub(crate) struct Setup {
    settings: Settings,
    /// Whether the settings are checked against the bounds for a settings file.
    is_checked: bool,
    clock: Clock,
    home: Home,
    agent: AgentDefinition,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let mut agent = agent("tested");
        agent.tools = vec!["calculator".parse().unwrap(), "http-fetch".parse().unwrap()];
        let settings = Settings::of_defaults().unwrap();
        Self { settings, is_checked: true, clock: Clock::system(), home: Home::new(), agent }
    }

    pub(crate) fn settings(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(&mut self.settings);
        self
    }

    /// Like [`Setup::settings`], without the bounds for a settings file: for limits that a test could otherwise only
    /// reach with many megabytes.
    pub(crate) fn settings_beyond_bounds(self, change: impl FnOnce(&mut Settings)) -> Self {
        Self { is_checked: false, ..self.settings(change) }
    }

    pub(crate) fn agent(mut self, change: impl FnOnce(&mut AgentDefinition)) -> Self {
        change(&mut self.agent);
        self
    }

    /// Makes the agent use this server's model.
    pub(crate) fn model(self, server: &ModelServer) -> Self {
        self.settings(|settings| server.add_to_settings(settings))
            .agent(|agent| agent.model = "scripted".to_owned())
    }

    pub(crate) fn clock(self, clock: &Clock) -> Self {
        Self { clock: clock.clone(), ..self }
    }

    pub(crate) fn home(self, home: Home) -> Self {
        Self { home, ..self }
    }

    pub(crate) async fn start(self) -> Gateway {
        if self.is_checked {
            self.settings.check().unwrap();
        }
        let folder = DataFolder::open(self.home.path(), self.clock).await.unwrap();
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let listening = listener.local_addr().unwrap();
        let listen = listening.to_string();
        let built = wardgate::gateway::Gateway::build(&folder, self.settings, listening).await;
        let gateway = built.unwrap();
        let services = gateway.services.clone();
        let (stop, stopped) = oneshot::channel::<()>();
        // Dropping the sender stops it too, so no gateway outlives its test.
        let served = tokio::spawn(gateway.run(listener, async { drop(stopped.await) }));
        // A folder that was served before already has its tenant.
        let known = folder.store.tenants().await.unwrap();
        let tenant = match known.iter().find(|tenant| tenant.name.as_str() == "tests") {
            Some(tenant) => tenant.id,
            None => create_tenant(&folder, "tests").await,
        };
        let known = folder.store.agents(tenant).await.unwrap();
        let known = known.iter().find(|agent| agent.definition.name == self.agent.name);
        let id = known.map_or_else(AgentId::random, |agent| agent.id);
        let caller = create_agent(&folder, &listen, tenant, id, &self.agent).await;
        Gateway { caller, tenant, folder, services, home: self.home, stop, served }
    }
}

/// A running gateway; derefs to a [`Client`] of its first agent.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) caller: Client,
    pub(crate) tenant: TenantId,
    pub(crate) folder: DataFolder,
    pub(crate) services: Services,
    pub(crate) home: Home,
    stop: oneshot::Sender<()>,
    served: JoinHandle<anyhow::Result<()>>,
}

impl Deref for Gateway {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.caller
    }
}

impl Gateway {
    pub(crate) async fn start() -> Self {
        Setup::new().start().await
    }

    /// Shuts it down gracefully and returns its folder, which can be served again.
    pub(crate) async fn stop(self) -> Home {
        drop(self.stop);
        self.served.await.unwrap().unwrap();
        self.home
    }

    /// Creates another tenant.
    pub(crate) async fn new_tenant(&self, name: &str) -> TenantId {
        create_tenant(&self.folder, name).await
    }

    /// Creates an API key for this holder.
    pub(crate) async fn new_key(&self, holder: KeyHolder) -> String {
        new_key(&self.folder, holder).await
    }

    /// The operator key of the data folder.
    pub(crate) fn operator_key(&self) -> String {
        self.folder.operator_key().reveal().to_owned()
    }

    /// A request by the operator to the admin API of the first tenant, at this path below the tenant's.
    pub(crate) fn admin_request(&self, method: &str, path: &str) -> Call {
        let target = format!("/admin/tenants/{}{path}", self.tenant);
        self.request(method, &target).key(&self.operator_key())
    }

    /// Creates another agent, with a key of its tenant.
    pub(crate) async fn new_agent(&self, tenant: TenantId, definition: AgentDefinition) -> Client {
        create_agent(&self.folder, &self.listen, tenant, AgentId::random(), &definition).await
    }

    /// Creates another agent of the first tenant: one without tools or plugins, with this change.
    pub(crate) async fn agent_with(&self, change: impl FnOnce(&mut AgentDefinition)) -> Client {
        // Names must be unique within a tenant; no test uses this one.
        let mut definition = agent(&format!("another {}", AgentId::random()));
        change(&mut definition);
        self.new_agent(self.tenant, definition).await
    }

    /// Installs a guest from `tests/guests` under its own name, and returns that name. Without grants, the guest gets
    /// generous time limits.
    pub(crate) async fn install(&self, guest: &str, grants: &str) -> PluginName {
        let grants = if grants.is_empty() { RELAXED_LIMITS } else { grants };
        self.try_install(&guest_path(guest), grants).await.unwrap()
    }

    pub(crate) async fn try_install(
        &self,
        component: &Path,
        grants: &str,
    ) -> Result<PluginName, PluginUnavailable> {
        let stem = component.file_stem().unwrap().to_str().unwrap().replace('_', "-");
        let (name, bytes) = (stem.parse().unwrap(), std::fs::read(component).unwrap());
        let plugins = &self.services.plugins;
        plugins.install(self.tenant, &name, bytes, Some(grants)).await.map(|_| name)
    }

    /// Creates an agent whose mapper is this guest.
    pub(crate) async fn agent_with_mapper(&self, guest: &str, grants: &str) -> Client {
        let mapper = self.install(guest, grants).await;
        self.agent_with(|agent| agent.mapper = Some(mapper)).await
    }

    /// Creates an agent whose getter is this guest.
    pub(crate) async fn agent_with_getter(&self, guest: &str, grants: &str) -> Client {
        let getter = self.install(guest, grants).await;
        self.agent_with(|agent| agent.getter = Some(getter)).await
    }

    /// Creates an agent with this guest's tools, which it may call although they are not declared harmless.
    pub(crate) async fn agent_with_tool(&self, guest: &str, grants: &str) -> Client {
        let tool = self.install(guest, grants).await;
        let change = |agent: &mut AgentDefinition| {
            agent.tools = vec![tool];
            agent.allow_destructive_tools = true;
        };
        self.agent_with(change).await
    }

    /// Stores a secret of the first tenant, with all uses allowed.
    pub(crate) async fn store_secret(&self, name: &str, value: &str, rotate: bool) {
        let value = value.as_bytes().to_vec().into();
        let (uses, by) = (Some(SecretUses::all()), Installer::Operator);
        let secret = NewSecret { value, rotate, uses, by };
        self.folder.vault().put(self.tenant, &name.parse().unwrap(), secret).await.unwrap();
    }

    /// Applies a channel of the first tenant, and returns the path of its webhook URL.
    pub(crate) async fn apply_channel(&self, definition: Value) -> String {
        let path = format!("/channels/{}", definition["name"].as_str().unwrap());
        let channel = self.admin_request("PUT", &path).json(&definition).expect(200).await.json();
        let url = channel["url"].as_str().unwrap().to_owned();
        url.strip_prefix(&format!("http://{}", self.listen)).unwrap().to_owned()
    }

    /// Makes the gateway read grants files that were edited by hand.
    pub(crate) async fn reload_grants(&self) {
        self.services.store.note_change(self.tenant).await.unwrap();
    }

    /// Writes the grants file of a plugin of the first tenant, before its first use.
    pub(crate) fn write_grants(&self, plugin: &str, grants: &str) {
        let path = self.services.plugins.grants_path(self.tenant, &plugin.parse().unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, grants).unwrap();
    }

    /// The number of stored tasks of all tenants.
    pub(crate) async fn stored_task_count(&self) -> i64 {
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(self.home.path().join("wardgate.db"))
            .read_only(true);
        let mut database = options.connect().await.unwrap();
        let count = sqlx::query_scalar("SELECT count(*) FROM tasks").fetch_one(&mut database).await;
        database.close().await.unwrap();
        count.unwrap()
    }
}

/// Gives a tenant's bundled plugins generous time limits, except those that have a grants file already.
pub(super) fn relax_time_limits(grants_path: impl Fn(&PluginName) -> PathBuf) {
    for plugin in wardgate::plugins::bundled() {
        let path = grants_path(&plugin);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        if !path.exists() {
            std::fs::write(path, RELAXED_LIMITS).unwrap();
        }
    }
}

async fn create_tenant(folder: &DataFolder, name: &str) -> TenantId {
    let id = TenantId::random();
    folder.store.create_tenant(id, &name.parse().unwrap()).await.unwrap();
    relax_time_limits(|plugin| folder.grants_path(id, plugin));
    id
}

async fn create_agent(
    folder: &DataFolder,
    listen: &str,
    tenant: TenantId,
    id: AgentId,
    definition: &AgentDefinition,
) -> Client {
    folder.store.put_agent(tenant, id, definition, Precondition::None).await.unwrap();
    let token = folder.webhooks("").token(tenant, id).await.unwrap().unwrap();
    let key = new_key(folder, KeyHolder::Tenant(tenant)).await;
    Client::new(listen, &id.to_string(), &key, token.reveal())
}

async fn new_key(folder: &DataFolder, holder: KeyHolder) -> String {
    let key = PlainSecret::random_api_key().unwrap();
    let (id, name) = (KeyId::random(), "tests".to_owned());
    let new = NewKey { id, hash: key.hash(), holder, name, expires_at: None };
    folder.store.put_key(new).await.unwrap();
    key.reveal().to_owned()
}
