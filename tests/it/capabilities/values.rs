//! Key-value storage of plugins: private to each plugin, persistent across calls, and limited by its grants.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{agent, tool_result};
use crate::support::{Gateway, Setup, agent as definition, guest_path};

const KEEPS: &str = "[key-value]\nbytes = 1000000";

#[tokio::test]
async fn values_outlive_calls_and_the_gateway() {
    let gateway = Gateway::start().await;
    let agent = agent(&gateway, "keeps_values", KEEPS).await;
    let put = json!({"do": [["set", "a", "one"], ["set", "b", "two"], ["delete", "b"]]});
    tool_result(&agent, "values", put).await;
    let ask = json!({"do": [["get", "a"], ["exists", "b"], ["get", "b"], ["keys"]]});
    let kept = json!(["one", false, null, ["a"]]);
    assert_eq!(tool_result(&agent, "values", ask.clone()).await, kept);
    let named = json!({"bucket": "default", "do": [["get", "a"]]});
    assert_eq!(tool_result(&agent, "values", named).await, json!(["one"]), "the same bucket");
    let gateway = Setup::new().home(gateway.stop().await).start().await;
    let again = gateway.agent_with(|agent| {
        agent.tools = vec!["keeps-values".parse().unwrap()];
        agent.allow_destructive_tools = true;
    });
    assert_eq!(tool_result(&again.await, "values", ask).await, kept);
}

#[tokio::test]
async fn values_are_bounded_in_size_and_number() {
    let gateway = Gateway::start().await;
    let agent = agent(&gateway, "keeps_values", KEEPS).await;
    let long = "k".repeat(513);
    let ask = json!({"do": [
        ["fill", "large", 262_145], ["set", long, "x"], ["set", "", "x"], ["set", "a\0b", "x"],
        ["fill", "1", 262_144], ["fill", "2", 262_144], ["fill", "3", 262_144], ["fill", "4", 262_144],
        ["increment", "1", 1], ["keys"],
    ]});
    let actual = tool_result(&agent, "values", ask).await;
    assert!(actual[0]["error"].as_str().unwrap().contains("256 KiB"), "{actual}");
    for place in 1..4 {
        assert!(actual[place]["error"].as_str().unwrap().contains("1 to 512 bytes"), "{actual}");
    }
    assert_eq!((&actual[4], &actual[5], &actual[6]), (&Value::Null, &Value::Null, &Value::Null));
    let full = actual[7]["error"].as_str().unwrap();
    assert!(full.contains("1000000 bytes it is granted"), "{full}");
    assert!(actual[8]["error"].as_str().unwrap().contains("not a number"), "{actual}");
    assert_eq!(actual[9], json!(["1", "2", "3"]));

    // Operation 1,001 of a call is refused. The next call has 1,000 again.
    let many = json!({"times": 1_001, "do": [["exists", "1"]]});
    let last = tool_result(&agent, "values", many).await;
    assert!(last[0]["error"].as_str().unwrap().contains("1000 operations"), "{last}");
    assert_eq!(
        tool_result(&agent, "values", json!({"do": [["exists", "1"]]})).await,
        json!([true])
    );
}

#[tokio::test]
async fn the_values_of_another_plugin_or_tenant_cannot_be_reached() {
    let gateway = Gateway::start().await;
    let first = agent(&gateway, "keeps_values", KEEPS).await;
    tool_result(&first, "values", json!({"do": [["set", "a", "mine"]]})).await;
    let nothing = json!([null, []]);
    let ask = json!({"do": [["get", "a"], ["keys"]]});

    // The same component under another name of the same tenant.
    let component = std::fs::read(guest_path("keeps_values")).unwrap();
    let plugins = &gateway.services.plugins;
    let twin = "twin".parse().unwrap();
    let grants = Some(KEEPS);
    plugins.install(gateway.tenant, &twin, component.clone(), grants).await.unwrap();
    let second = gateway.agent_with(|agent| {
        agent.tools = vec![twin];
        agent.allow_destructive_tools = true;
    });
    assert_eq!(tool_result(&second.await, "values", ask.clone()).await, nothing);

    // And under the same name at another tenant.
    let tenant = gateway.new_tenant("another").await;
    let name = "keeps-values".parse().unwrap();
    plugins.install(tenant, &name, component, grants).await.unwrap();
    let mut theirs = definition("theirs");
    theirs.tools = vec![name];
    theirs.allow_destructive_tools = true;
    let theirs = gateway.new_agent(tenant, theirs).await;
    assert_eq!(tool_result(&theirs, "values", ask).await, nothing);

    for bucket in ["other", "Default", "../keeps-values", "twin"] {
        let ask = json!({"bucket": bucket, "do": [["keys"]]});
        assert_eq!(tool_result(&first, "values", ask).await, json!({"error": "no-such-store"}));
    }
}

#[tokio::test]
async fn without_a_grant_there_are_no_values() {
    let gateway = Gateway::start().await;
    let agent = agent(&gateway, "keeps_values", "").await;
    let ask = json!({"do": [["keys"]]});
    assert_eq!(tool_result(&agent, "values", ask).await, json!({"error": "access-denied"}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_calls_at_once_count_to_fifty() {
    let gateway = Gateway::start().await;
    let agent = Arc::new(agent(&gateway, "keeps_values", KEEPS).await);
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let agent = Arc::clone(&agent);
        calls.spawn(async move {
            tool_result(&agent, "values", json!({"do": [["increment", "n", 1]]})).await[0].as_u64()
        });
    }
    let mut seen: Vec<_> = calls.join_all().await.into_iter().map(Option::unwrap).collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..=50).collect::<Vec<_>>(), "each call got a number of its own");
    let ask = json!({"do": [["get", "n"]]});
    assert_eq!(tool_result(&agent, "values", ask).await, json!(["50"]));
}
