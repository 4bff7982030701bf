//! However many calls a plugin or a tenant has in flight, calls of others complete. Counted, not timed: the calls of
//! the former are still in flight when those of the latter have completed.

use serde_json::json;
use tokio::task::JoinSet;

use super::in_flight;
use crate::support::{Client, Gateway, Setup, agent, poll_until};

/// A gateway with slots for eight calls that callers wait for, and for eight tool calls.
async fn small() -> Gateway {
    Setup::new().settings(|settings| settings.sandbox.calls_max = 16).start().await
}

/// A time limit that is longer than any test waits.
const SLEEPS: &str = "[limits]\nwall_ms = 600000\n";

/// Starts this many calls of the agent, which last until the set is dropped.
fn flood(calls: &mut JoinSet<()>, agent: &Client, number: usize) {
    for _ in 0..number {
        let agent = agent.clone();
        calls.spawn(async move {
            let request = agent.webhook("").json(&json!({"prompt": "spin {}"})).request;
            drop(request.send().await);
        });
    }
}

/// Another tenant's agent, with the bundled calculator.
async fn other_tenant(gateway: &Gateway) -> Client {
    let tenant = gateway.new_tenant("other").await;
    let mut definition = agent("theirs");
    definition.tools = vec!["calculator".parse().unwrap()];
    gateway.new_agent(tenant, definition).await
}

async fn calculates(agent: &Client) {
    let call = agent.webhook(r#"&params_mapping={"prompt":"a.b"}"#);
    let body = json!({"a": {"b": "calculate {\"expression\":\"6*7\"}"}});
    let answer = call.json(&body).expect(200).await;
    assert_eq!(answer.report()["tools"][0]["result"]["value"], 42);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_plugins_of_a_tenant_leave_room_for_another_tenants() {
    let gateway = small().await;
    let other = other_tenant(&gateway).await;
    calculates(&other).await;
    let sleeping = gateway.agent_with_mapper("sleeps", SLEEPS).await;
    let spinning =
        gateway.agent_with_mapper("spin_forever", "[limits]\ncpu_ms = 600000\nwall_ms = 600000\n");
    let spinning = spinning.await;
    let mut calls = JoinSet::new();
    flood(&mut calls, &sleeping, 12);
    flood(&mut calls, &spinning, 12);
    let both =
        async || (in_flight(&gateway, "sleeps").await, in_flight(&gateway, "spin-forever").await);
    poll_until("calls of both plugins", async || (both().await == (12, 12)).then_some(())).await;
    for _ in 0..10 {
        calculates(&other).await;
    }
    assert_eq!(both().await, (12, 12), "they were under way all the time");
    // Calls end when their callers disconnect.
    drop(calls);
    poll_until("the end of calls without callers", async || (both().await == (0, 0)).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_calls_of_a_plugin_leave_room_for_the_tenants_other_plugins() {
    let gateway = small().await;
    let sleeping = gateway.agent_with_mapper("sleeps", &format!("{SLEEPS}concurrency = 2\n")).await;
    let mut calls = JoinSet::new();
    flood(&mut calls, &sleeping, 20);
    poll_until("all the calls", async || (in_flight(&gateway, "sleeps").await == 20).then_some(()))
        .await;
    for _ in 0..10 {
        calculates(&gateway).await;
    }
    assert_eq!(in_flight(&gateway, "sleeps").await, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tools_that_compute_leave_time_for_another_tenants() {
    let gateway = small().await;
    let other = other_tenant(&gateway).await;
    calculates(&other).await;
    let limits = "[limits]\ntool_cpu_ms = 600000\ntool_wall_ms = 600000\n";
    let spinning = gateway.agent_with_tool("spin_in_tool", limits).await;
    let mut calls = JoinSet::new();
    // The tenant may have four calls in flight, and each run needs one to list the tools.
    flood(&mut calls, &spinning, 3);
    let three = async || in_flight(&gateway, "spin-in-tool").await == 3;
    poll_until("three spinning tools", async || three().await.then_some(())).await;
    for _ in 0..5 {
        calculates(&other).await;
    }
    assert!(three().await, "they were under way all the time");
}
