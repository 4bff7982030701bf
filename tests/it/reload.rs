//! A plugin is replaced or removed while calls are in flight: those calls end on the build that they started with,
//! and the next call uses what is installed then.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use wardgate::ids::PluginDigest;

use crate::support::web::Web;
use crate::support::{Answer, Client, Gateway, Home, Setup, guest_path, poll_until};

/// The plugin name of the guest that sends a request first.
const NAME: &str = "fetches-first";

/// A server that reports each request, and responds only once it is released.
struct GatedServer {
    web: Web,
    arrivals: UnboundedReceiver<()>,
    gate: Arc<Semaphore>,
}

impl GatedServer {
    async fn start() -> Self {
        let (sender, arrivals) = unbounded_channel();
        let gate = Arc::new(Semaphore::new(0));
        let closed = Arc::clone(&gate);
        let server = Router::new().fallback(get(async move || {
            sender.send(()).unwrap();
            drop(closed.acquire().await.unwrap());
            "hello"
        }));
        Self { web: Web::serve(server).await, arrivals, gate }
    }

    /// Grants that allow requests to this server, and waiting longer than any test.
    fn grants(&self) -> String {
        format!(
            "[[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = {}\n\
             networks = [\"127.0.0.0/8\"]\n[limits]\ncpu_ms = 5000\nwall_ms = 60000\n",
            self.web.port
        )
    }

    /// Starts a call whose mapper sends a request to the server, and returns once the request has arrived.
    async fn start_call(&mut self, agent: &Client) -> JoinHandle<Answer> {
        let agent = agent.clone();
        let body = json!({"url": format!("http://127.0.0.1:{}/", self.web.port)});
        let call = tokio::spawn(async move { agent.ask(body).await });
        poll_until("the mapper's request", async || self.arrivals.try_recv().ok()).await;
        call
    }

    fn release(&self) {
        self.gate.add_permits(1);
    }
}

fn build(guest: &str) -> Vec<u8> {
    std::fs::read(guest_path(guest)).unwrap()
}

async fn in_flight(gateway: &Gateway) -> u64 {
    let plugins = &gateway.services.plugins;
    let binding = plugins.binding(gateway.tenant, &NAME.parse().unwrap()).await.unwrap();
    binding.stats().snapshot().in_flight
}

#[tokio::test]
async fn a_call_in_flight_ends_on_its_build_and_the_next_gets_the_new_one() {
    let (gateway, mut server) = (Gateway::start().await, GatedServer::start().await);
    let agent = gateway.agent_with_mapper("fetches_first", &server.grants()).await;
    let first = server.start_call(&agent).await;
    assert_eq!(in_flight(&gateway).await, 1);

    let (plugins, name) = (&gateway.services.plugins, NAME.parse().unwrap());
    plugins.install(gateway.tenant, &name, build("panics_on_demand"), None).await.unwrap();
    let second = agent.ask(json!({})).await;
    assert_eq!(second.report()["received"], "well", "the next call gets the new build");
    assert_eq!(in_flight(&gateway).await, 1, "the first is still under way");

    server.release();
    let first = first.await.unwrap();
    assert_eq!(first.report()["received"], "hello", "the first ends on the old one");
    assert_eq!(in_flight(&gateway).await, 0);
    // And the trace of each call names its build.
    for (answer, guest) in [(first, "fetches_first"), (second, "panics_on_demand")] {
        let thread = agent.thread(&answer.task_id()).await;
        let digest = PluginDigest::of(&build(guest)).to_string();
        assert_eq!(thread[0]["mapping"]["digest"], digest, "{guest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_flight_outlives_its_plugin_and_the_next_is_refused() {
    // A separate cache, because other tests need the code that this test deletes.
    let home = Home::new();
    home.detach_code_cache();
    let (gateway, mut server) = (Setup::new().home(home).start().await, GatedServer::start().await);
    let agent = gateway.agent_with_mapper("fetches_first", &server.grants()).await;
    let first = server.start_call(&agent).await;

    let (plugins, name) = (&gateway.services.plugins, NAME.parse().unwrap());
    assert!(plugins.remove(gateway.tenant, &name).await.unwrap());
    let refused = agent.webhook("").json(&json!({})).expect(500).await;
    assert_eq!(refused.header("x-wardgate-fault"), Some("host"));
    assert_eq!(refused.detail(), "no plugin fetches-first is installed");

    server.release();
    assert_eq!(first.await.unwrap().report()["received"], "hello");
    assert_eq!(gateway.stored_task_count().await, 1, "of the first, and of nothing else");
}
