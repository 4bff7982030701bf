//! The test site: a gateway that runs as in the program, with honest and hostile tenants.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use wardgate::http::Services;
use wardgate::ids::{AgentId, KeyId, TenantId};
use wardgate::secrets::PlainSecret;
use wardgate::tenants::{Installer, KeyHolder, NewKey, Precondition};
use wardgate::vault::NewSecret;

use super::honest::RequestKind;
use super::hostile::Load;
use super::{Attack, HONEST, TENANTS, sink};
use crate::bench_gateway::{BenchGateway, TELEGRAM};
use crate::mapping::{encoded_spec, serve_ours};

/// The honest tenants' kinds of requests, in the order of [`Testbed::request_kinds`].
pub(super) const KINDS: [&str; 4] = ["accept", "mapping", "list", "hook"];

/// Number of a hostile tenant's plugins whose tool sleeps, and of connections that call each. By default, a tenant
/// may have 128 calls in flight and a plugin 64.
const SLEEPERS: usize = 3;
const SLEEPER_CONNECTIONS: usize = 48;

/// Number of a hostile tenant's calls that hold fields. Each holds 28 MB unless it is refused, and eight tenants must
/// fit into the memory of a small machine.
const HOLDERS: usize = 8;

/// Number of a hostile tenant's connections that send bodies or list tasks.
const SENDERS: usize = 6;

const LONG_BYTES: usize = 9_000_000;
const MIDDLING_BYTES: usize = 87_000;

/// How long the gateway may take to complete the tasks that an attack has left.
const SETTLED_MAX: Duration = Duration::from_secs(15);

const SLEEPS: &str = include_str!("sleeps_in_tool.wat");
const HOLDS_FIELDS: &str = include_str!("holds_fields_in_tool.wat");

const HOOK_TOKEN: &str = "a-token-of-the-provider";

/// A tenant with its address, its agents, and a key that may call them.
struct Party {
    from: [u8; 4],
    tenant: TenantId,
    agents: Vec<AgentId>,
    key: PlainSecret,
}

pub(super) struct Testbed {
    address: SocketAddr,
    /// The address of the control without the gateway.
    sink: SocketAddr,
    /// The address at which mappings are resolved and no task is created.
    mapping: SocketAddr,
    http: reqwest::Client,
    honest: Party,
    /// An honest tenant with exactly twenty tasks.
    reader: Party,
    hook: String,
    hostile: Vec<Party>,
    stop: oneshot::Sender<()>,
    served: JoinHandle<anyhow::Result<()>>,
    _folder: TempDir,
}

impl Testbed {
    /// Creates a gateway with the maximum number of hostile tenants, each equipped for the attack. The inner error is
    /// the reason why the gateway rejects the equipment.
    pub(super) async fn make(attack: Attack) -> anyhow::Result<Result<Self, String>> {
        let runs_max = wardgate::settings::Settings::of_defaults()?.queue.runs_max;
        let bench = BenchGateway::make(runs_max).await?;
        let mapping = serve_ours(&bench).await?;
        let services = bench.gateway.services.clone();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let BenchGateway { gateway, tenant, agent, key, folder } = bench;
        let served = tokio::spawn(gateway.run(listener, async { drop(stopped.await) }));
        let honest = Party { from: HONEST, tenant, agents: vec![agent], key };
        let reader = party(&services, HONEST, "reader").await?;
        let http = wardgate::tls::http_client().no_proxy().build()?;
        let sink = sink::start(folder.path(), long_body(LONG_BYTES).len())?;
        let mut testbed = Self {
            address,
            sink,
            mapping,
            http,
            hook: String::new(),
            honest,
            reader,
            hostile: Vec::new(),
            stop,
            served,
            _folder: folder,
        };
        testbed.hook = testbed.new_hook(&services).await?;
        for _ in 0..20 {
            testbed.ask(&testbed.reader, TELEGRAM.to_owned()).await?;
        }
        for number in 0..TENANTS.into_iter().max().unwrap_or_default() {
            let [a, b, c, d] = HONEST;
            let from = [a, b, c, d + 1 + u8::try_from(number)?];
            let mut hostile = party(&services, from, &format!("hostile-{number}")).await?;
            let components = match attack {
                Attack::SleepingTools => vec![SLEEPS; SLEEPERS],
                Attack::HeldFields => vec![HOLDS_FIELDS],
                Attack::LongBodies | Attack::Sink | Attack::MiddlingBodies | Attack::LongLists => {
                    Vec::new()
                }
            };
            for (place, text) in components.into_iter().enumerate() {
                if let Err(refused) = install_tool(&services, &mut hostile, place, text).await? {
                    testbed.stop().await?;
                    return Ok(Err(refused));
                }
            }
            if attack == Attack::LongLists {
                testbed.ask(&hostile, long_body(LONG_BYTES)).await?;
            }
            testbed.hostile.push(hostile);
        }
        Ok(Ok(testbed))
    }

    /// The requests of the honest tenants.
    pub(super) fn request_kinds(&self) -> Vec<RequestKind> {
        let (honest, key) = (&self.honest, self.honest.key.reveal());
        let agent = honest.agents.first().map(ToString::to_string).unwrap_or_default();
        let fixed = |request: Vec<u8>| -> Arc<dyn Fn() -> Vec<u8> + Send + Sync> {
            Arc::new(move || request.clone())
        };
        let post = |query: &str| {
            let target = format!("/?agent_id={agent}{query}");
            [&head("POST", &target, key, TELEGRAM.len()), TELEGRAM.as_bytes()].concat()
        };
        let accept = fixed(post("&asynchronous=true"));
        let mapping = fixed(post(&format!("&params_mapping={}", encoded_spec())));
        let list = fixed(head("GET", "/v1/tasks", self.reader.key.reveal(), 0));
        let hook = self.hook.clone();
        let hook: Arc<dyn Fn() -> Vec<u8> + Send + Sync> = Arc::new(move || update(&hook));
        let addresses = [self.address, self.mapping, self.address, self.address];
        let request_kinds = addresses.into_iter().zip([accept, mapping, list, hook]);
        request_kinds.map(|(address, request)| RequestKind { address, request }).collect()
    }

    /// The loads of this number of hostile tenants.
    pub(super) fn loads(&self, attack: Attack, tenants: usize) -> Vec<Load> {
        let is_long = matches!(attack, Attack::LongBodies | Attack::Sink);
        let bytes = if is_long { LONG_BYTES } else { MIDDLING_BYTES };
        // All tenants send the same bytes.
        let long = Bytes::from(long_body(bytes));
        let mut loads = Vec::new();
        for party in self.hostile.iter().take(tenants) {
            let key = party.key.reveal();
            let mut add = |method: &str, target: &str, body: &Bytes, connections: usize| {
                let head = head(method, target, key, body.len()).into();
                let address = if attack == Attack::Sink { self.sink } else { self.address };
                let (from, body) = (party.from, body.clone());
                loads.push(Load { from, address, head, body, connections });
            };
            let nothing = Bytes::from_static(b"{}");
            let mut agents = party.agents.iter();
            let agent = agents.next().map(ToString::to_string).unwrap_or_default();
            match attack {
                Attack::SleepingTools => agents.for_each(|agent| {
                    let target = format!("/agents/{agent}/operations/sleep");
                    add("POST", &target, &nothing, SLEEPER_CONNECTIONS);
                }),
                Attack::HeldFields => agents.for_each(|agent| {
                    let target = format!("/agents/{agent}/operations/hold");
                    add("POST", &target, &nothing, HOLDERS);
                }),
                Attack::LongBodies | Attack::Sink | Attack::MiddlingBodies => {
                    let target = format!("/?agent_id={agent}&asynchronous=true");
                    add("POST", &target, &long, SENDERS);
                }
                Attack::LongLists => add("GET", "/v1/tasks", &Bytes::new(), SENDERS),
            }
        }
        loads
    }

    /// Waits until no task of the attack is pending or executing. False if that takes too long.
    pub(super) async fn wait_until_idle(&self) -> anyhow::Result<bool> {
        let begun = Instant::now();
        for party in &self.hostile {
            for status in ["pending", "executing"] {
                while self.count(party, status).await? > 0 {
                    if begun.elapsed() > SETTLED_MAX {
                        return Ok(false);
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        // Until the gateway has noticed closed connections.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Ok(true)
    }

    /// Stops the gateway and deletes its folder.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        drop(self.stop);
        self.served.await?
    }

    async fn count(&self, party: &Party, status: &str) -> anyhow::Result<u64> {
        let url = format!("http://{}/v1/tasks?per_page=1&status={status}", self.address);
        let answer = self.http.get(url).header("x-api-key", party.key.reveal()).send().await?;
        let page: Value = serde_json::from_str(&answer.text().await?)?;
        page.get("total").and_then(Value::as_u64).context("a page of tasks")
    }

    /// Runs a task of the party's first agent to its end.
    async fn ask(&self, party: &Party, body: String) -> anyhow::Result<()> {
        let agent = party.agents.first().context("an agent")?;
        let url = format!("http://{}/?agent_id={agent}", self.address);
        let call = self.http.post(url).header("x-api-key", party.key.reveal());
        let answer = call.header("content-type", "application/json").body(body).send().await?;
        anyhow::ensure!(answer.status() == 200, "a run was answered {}", answer.status());
        answer.bytes().await?;
        Ok(())
    }

    /// Creates a channel of the honest tenant with Telegram's verifier, and returns the path of its hook.
    async fn new_hook(&self, services: &Services) -> anyhow::Result<String> {
        let tenant = self.honest.tenant;
        let token = NewSecret {
            value: HOOK_TOKEN.as_bytes().to_vec().into(),
            rotate: false,
            uses: None,
            by: Installer::Operator,
        };
        services.vault.put(tenant, &"hook-token".parse()?, token).await?;
        let operator = new_key(services, KeyHolder::Operator).await?;
        let url = format!("http://{}/admin/tenants/{tenant}/channels/hook", self.address);
        let definition = json!({
            "name": "hook", "agent": "bench", "secrets": { "secret": "hook-token" },
            "verifier": "telegram", "mapper": "telegram",
        });
        let call = self.http.put(url).header("x-api-key", operator.reveal());
        let call = call.header("content-type", "application/json").body(definition.to_string());
        let answer = call.send().await?.text().await?;
        let channel: Value = serde_json::from_str(&answer)?;
        let url = channel.get("url").and_then(Value::as_str).with_context(|| answer.clone())?;
        let at = url.find("/hooks/").context("a hook's URL")?;
        Ok(url.get(at..).unwrap_or_default().to_owned())
    }
}

/// Installs another plugin for a party and creates an agent with its tool. The inner error is the reason why the
/// plugin is rejected.
async fn install_tool(
    services: &Services,
    party: &mut Party,
    place: usize,
    text: &str,
) -> anyhow::Result<Result<(), String>> {
    let (name, component) = (format!("tool-{place}"), wat::parse_str(text)?);
    let plugins = &services.plugins;
    if let Err(refused) = plugins.install(party.tenant, &name.parse()?, component, None).await {
        return Ok(Err(refused.to_string()));
    }
    let definition = json!({ "name": name, "tools": [name], "allow_destructive_tools": true });
    party.agents.push(new_agent(services, party.tenant, &definition).await?);
    Ok(Ok(()))
}

async fn party(services: &Services, from: [u8; 4], name: &str) -> anyhow::Result<Party> {
    let tenant = TenantId::random();
    services.store.create_tenant(tenant, &name.parse()?).await?;
    let agents = vec![new_agent(services, tenant, &json!({ "name": name })).await?];
    let key = new_key(services, KeyHolder::Tenant(tenant)).await?;
    Ok(Party { from, tenant, agents, key })
}

async fn new_agent(
    services: &Services,
    tenant: TenantId,
    definition: &Value,
) -> anyhow::Result<AgentId> {
    let (id, definition) = (AgentId::random(), serde_json::from_value(definition.clone())?);
    services.store.put_agent(tenant, id, &definition, Precondition::Absent).await?;
    Ok(id)
}

async fn new_key(services: &Services, holder: KeyHolder) -> anyhow::Result<PlainSecret> {
    let key = PlainSecret::random_api_key()?;
    let (id, name) = (KeyId::random(), "shares".to_owned());
    let new = NewKey { id, hash: key.hash(), holder, name, expires_at: None };
    services.store.put_key(new).await?;
    Ok(key)
}

fn head(method: &str, target: &str, key: &str, length: usize) -> Vec<u8> {
    format!(
        "{method} {target} HTTP/1.1\r\nhost: bench\r\nx-api-key: {key}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
    .into_bytes()
}

/// A message to a Telegram bot, from another chat each time: a repeated message would not start a run.
fn update(hook: &str) -> Vec<u8> {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let from = json!({ "id": number, "is_bot": false, "first_name": "Ada" });
    let message = json!({
        "message_id": 1, "date": 1_769_647_246, "text": "is everything well?", "from": from,
        "chat": { "id": number, "type": "private" },
    });
    let body = json!({ "update_id": number, "message": message }).to_string();
    format!(
        "POST {hook} HTTP/1.1\r\nhost: bench\r\nx-telegram-bot-api-secret-token: {HOOK_TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A JSON object of this many bytes.
fn long_body(bytes: usize) -> String {
    let around = r#"{"text":""}"#.len();
    format!(r#"{{"text":"{}"}}"#, "x".repeat(bytes.saturating_sub(around)))
}
