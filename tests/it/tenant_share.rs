//! The resources that all plugins of a tenant hold together are bounded, more tightly the more tenants compete: a
//! tenant that has used up its share is refused, and other tenants are not affected.

use serde_json::json;

use wardgate::ids::{PluginName, TenantId};
use wardgate::tenants::AgentDefinition;

use crate::support::{Answer, Client, Gateway, Setup, agent, guest_path, poll_until};

/// The memory limit of one plugin is the limit of the whole tenant; the time limits are generous.
const GRANTS: &str = "[limits]\nmemory_mib = 100\ncpu_ms = 10000\nwall_ms = 600000\n";

async fn in_flight(gateway: &Gateway, plugin: &str) -> u64 {
    let plugins = &gateway.services.plugins;
    let binding = plugins.binding(gateway.tenant, &plugin.parse().unwrap()).await.unwrap();
    binding.stats().snapshot().in_flight
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_shared_by_a_tenants_calls_and_given_back() {
    let setup = Setup::new().settings(|settings| settings.sandbox.tenant_memory_mib_max = 100);
    let gateway = setup.start().await;
    let holds = gateway.agent_with_mapper("holds_memory", GRANTS).await;
    let other = gateway.new_tenant("other").await;
    let mut calculates = agent("theirs");
    calculates.tools = vec!["calculator".parse().unwrap()];
    let other = gateway.new_agent(other, calculates).await;
    // One call holds most of the share for longer than the test runs.
    let hold = || {
        let request = holds.webhook("").json(&json!({"mib": 60, "ms": 600_000})).request;
        tokio::spawn(async move { drop(request.send().await) })
    };
    let mut holding = hold();
    // Whether it already holds the memory shows in the next call that needs as much. If that one comes first, the
    // holding call is the one that is refused, and is started again.
    let refused = poll_until("the share to be used up", async || {
        if holding.is_finished() {
            holding = hold();
        }
        poll_until("the first call", async || {
            let under_way = in_flight(&gateway, "holds-memory").await == 1;
            (under_way || holding.is_finished()).then_some(())
        })
        .await;
        let answer = holds.webhook("").json(&json!({"mib": 60, "ms": 0})).send().await;
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert_eq!(refused.header("x-wardgate-fault"), Some("host"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert!(refused.detail().contains("hold as much memory"), "{}", refused.text);
    // A small call of the same tenant still fits, and so does the other tenant's call.
    holds.webhook("").json(&json!({"mib": 1, "ms": 0})).expect(200).await;
    let prompt = json!({"prompt": "calculate {\"expression\":\"6*7\"}"});
    assert_eq!(other.ask(prompt).await.report()["tools"][0]["result"]["value"], 42);
    // A plugin that exceeds its own limit is still at fault itself.
    let beyond = holds.webhook("").json(&json!({"mib": 200, "ms": 0})).expect(502).await;
    assert!(beyond.detail().contains("100 MiB of memory it is granted"), "{}", beyond.text);
    // The first caller disconnects, which releases its share.
    holding.abort();
    poll_until("the share to be given back", async || {
        let answer = holds.webhook("").json(&json!({"mib": 60, "ms": 0})).send().await;
        (answer.status == 200).then_some(())
    })
    .await;
}

/// Creates a tenant with the guest's tool, and an agent that may call it.
async fn tenant_with(
    gateway: &Gateway,
    name: &str,
    guest: &str,
    grants: &str,
) -> (TenantId, Client) {
    let tenant = gateway.new_tenant(name).await;
    let plugin: PluginName = guest.replace('_', "-").parse().unwrap();
    let component = std::fs::read(guest_path(guest)).unwrap();
    gateway.services.plugins.install(tenant, &plugin, component, Some(grants)).await.unwrap();
    let mut definition = agent(name);
    definition.tools = vec![plugin];
    definition.allow_destructive_tools = true;
    (tenant, gateway.new_agent(tenant, definition).await)
}

/// Calls an agent's tool directly, in a task of its own.
fn operate(
    agent: &Client,
    tool: &str,
    arguments: serde_json::Value,
) -> tokio::task::JoinHandle<Answer> {
    let call = agent.post(&format!("/agents/{}/operations/{tool}", agent.agent));
    let call = call.key(&agent.key).json(&arguments);
    tokio::spawn(async move { call.send().await })
}

async fn in_flight_of(gateway: &Gateway, tenant: TenantId, plugin: &str) -> u64 {
    let plugins = &gateway.services.plugins;
    let binding = plugins.binding(tenant, &plugin.parse().unwrap()).await.unwrap();
    binding.stats().snapshot().in_flight
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_that_sleep_take_no_place_from_what_callers_wait_for_and_leave_some_for_other_tenants()
 {
    const LIMITS: &str = "[limits]\nwall_ms = 40000\ntool_wall_ms = 600000\nconcurrency = 64\n";
    let setup = Setup::new().settings(|settings| {
        settings.sandbox.calls_max = 16;
        settings.queue.runs_per_tenant_max = 8;
    });
    let gateway = setup.start().await;
    let nap = json!({"ms": 600_000});
    let mut napping = Vec::new();
    // The tools have eight slots. Each tenant makes as many calls as it may, and one more.
    for name in ["first", "second", "third"] {
        let (tenant, agent) = tenant_with(&gateway, name, "sleeps_in_tool", LIMITS).await;
        napping.extend((0..8).map(|_| operate(&agent, "nap", nap.clone())));
        poll_until("its tools to be called", async || {
            (in_flight_of(&gateway, tenant, "sleeps-in-tool").await == 8).then_some(())
        })
        .await;
        let beyond = operate(&agent, "nap", nap.clone()).await.unwrap();
        assert_eq!(beyond.status, 429, "as many as runs: {}", beyond.text);
        assert_eq!(beyond.header("retry-after"), Some("1"));
    }
    let (_, honest) = tenant_with(&gateway, "honest", "sleeps_in_tool", LIMITS).await;
    // Calls that a caller waits for have slots of their own, and all of them are free.
    let mappings = (0..8).map(|_| {
        let call = honest.webhook(r#"&params_mapping={"prompt":"a"}"#).json(&json!({"a": "fine"}));
        call.expect(200)
    });
    futures::future::join_all(mappings).await;
    // One slot is left for its tool.
    let answer = operate(&honest, "nap", json!({"ms": 0})).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text);
    napping.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_for_want_of_room_says_whose_room_it_is() {
    const LIMITS: &str = "[limits]\nwall_ms = 40000\ntool_wall_ms = 3000\nconcurrency = 2\n";
    let setup = Setup::new().settings(|settings| settings.sandbox.calls_max = 4);
    let gateway = setup.start().await;
    let (tenant, agent) = tenant_with(&gateway, "greedy", "sleeps_in_tool", LIMITS).await;
    let long = LIMITS.replace("tool_wall_ms = 3000", "tool_wall_ms = 600000");
    let other: PluginName = "sleeps-long".parse().unwrap();
    let component = std::fs::read(guest_path("sleeps_in_tool")).unwrap();
    let long = long.replace("concurrency = 2", "concurrency = 1");
    gateway.services.plugins.install(tenant, &other, component, Some(&long)).await.unwrap();
    let definition = AgentDefinition {
        tools: vec![other],
        allow_destructive_tools: true,
        ..self::agent("naps")
    };
    let naps = gateway.new_agent(tenant, definition).await;
    // Tools have two slots, and a single tenant may use one of them.
    let held = operate(&naps, "nap", json!({"ms": 600_000}));
    let refused = poll_until("the place to be taken", async || {
        let answer = operate(&agent, "nap", json!({"ms": 0})).await.unwrap();
        (answer.status != 200).then_some(answer)
    })
    .await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(
        refused.detail().contains("its tenant's plugins have as many calls in flight"),
        "{}",
        refused.text
    );
    let (_, other) = tenant_with(&gateway, "other", "sleeps_in_tool", LIMITS).await;
    let second = operate(&other, "nap", json!({"ms": 0})).await.unwrap();
    assert_eq!(second.status, 200, "{}", second.text);
    held.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_a_plugin_holds_on_the_hosts_side_are_charged_to_its_tenant() {
    const LIMITS: &str =
        "[limits]\nmemory_mib = 8\nwall_ms = 40000\ntool_wall_ms = 600000\ntool_cpu_ms = 60000\n";
    let setup = Setup::new().settings(|settings| settings.sandbox.tenant_memory_mib_max = 24);
    let gateway = setup.start().await;
    let agent = gateway.agent_with_tool("holds_fields", LIMITS).await;
    let hold = |sets: u64, entries: u64, bytes: u64, ms: u64| {
        let ask = json!({"sets": sets, "entries": entries, "bytes": bytes, "ms": ms});
        operate(&agent, "hold", ask)
    };
    for (entries, bytes) in [(1, 16_000), (3, 4_000), (200, 0)] {
        let held = hold(240, entries, bytes, 0).await.unwrap();
        assert_eq!(held.status, 200, "{}", held.text);
    }
    for (entries, bytes) in [(1, 120_000), (5, 4_000), (1_900, 0)] {
        let refused = hold(1, entries, bytes, 0).await.unwrap();
        assert_eq!(refused.status, 502, "{}", refused.text);
        assert!(refused.detail().contains("bytes of headers"), "{}", refused.text);
    }
    // The plugin's account includes them.
    let state = gateway.admin_request("GET", "/plugins/holds-fields").expect(200).await.json();
    assert!(state["cost"]["memory_bytes_peak"].as_u64() > Some(8 << 20), "{state}");
    // Two calls that hold headers exhaust the tenant's share.
    let holder = async || {
        // It may be refused because of the probing call below; then it is started again.
        while hold(1, 1, 10, 600_000).await.is_ok_and(|answer| answer.status == 503) {}
    };
    let mut holders = std::pin::pin!(futures::future::join(holder(), holder()));
    let refused = poll_until("both to hold theirs", async || {
        let third = hold(1, 1, 10, 0);
        let third = tokio::select! {
            _ = &mut holders => panic!("they hold for longer than any test"),
            third = third => third.unwrap(),
        };
        (third.status != 200).then_some(third)
    })
    .await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(refused.detail().contains("hold as much memory"), "{}", refused.text);
}
