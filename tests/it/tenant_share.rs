//! What all plugins of a tenant hold together is bounded: a tenant that has used up its share is told so, and
//! no other tenant notices.

use serde_json::json;

use crate::support::{Gateway, Setup, agent, until};

/// So much memory for each plugin as all of its tenant have together, and time enough.
const GRANTS: &str = "[limits]\nmemory_mib = 100\ncpu_ms = 10000\nwall_ms = 600000\n";

async fn in_flight(gateway: &Gateway, plugin: &str) -> u64 {
    let plugins = &gateway.handles.plugins;
    let binding = plugins.binding(gateway.tenant, &plugin.parse().unwrap()).await.unwrap();
    binding.account().statement().in_flight
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_shared_by_a_tenants_calls_and_given_back() {
    let setup = Setup::new().settings(|settings| settings.sandbox.tenant_memory_mib_max = 100);
    let gateway = setup.start().await;
    let holds = gateway.with_mapper("holds_memory", GRANTS).await;
    let other = gateway.new_tenant("other").await;
    let mut calculates = agent("theirs");
    calculates.tools = vec!["calculator".parse().unwrap()];
    let other = gateway.new_agent(other, calculates).await;
    // One call holds most of the share, for longer than this test.
    let hold = || {
        let request = holds.webhook("").json(&json!({"mib": 60, "ms": 600_000})).request;
        tokio::spawn(async move { drop(request.send().await) })
    };
    let mut holding = hold();
    // Whether it holds it already is seen by the next one that wants as much; where that one was first, it is
    // the one that holds which is refused, and has to try again.
    let refused = until("the share to be used up", async || {
        if holding.is_finished() {
            holding = hold();
        }
        until("the first call", async || {
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
    // A small one of the same tenant has room, and so has the other tenant's.
    holds.webhook("").json(&json!({"mib": 1, "ms": 0})).expect(200).await;
    let prompt = json!({"prompt": "calculate {\"expression\":\"6*7\"}"});
    assert_eq!(other.ask(prompt).await.report()["tools"][0]["result"]["value"], 42);
    // What is its own fault stays its own fault.
    let beyond = holds.webhook("").json(&json!({"mib": 200, "ms": 0})).expect(502).await;
    assert!(beyond.detail().contains("100 MiB of memory it is granted"), "{}", beyond.text);
    // The caller of the first hangs up: its share is there again.
    holding.abort();
    until("the share to be given back", async || {
        let answer = holds.webhook("").json(&json!({"mib": 60, "ms": 0})).send().await;
        (answer.status == 200).then_some(())
    })
    .await;
}
