//! Agents as callers see them, and direct calls of their tools.

use serde_json::{Value, json};

use crate::support::{Answer, Gateway, Setup, agent, poll_until};

async fn get(gateway: &Gateway, target: &str) -> Answer {
    gateway.get(target).key(&gateway.key).expect(200).await
}

#[tokio::test]
async fn agents_are_listed_page_by_page_oldest_first() {
    let gateway = Gateway::start().await;
    let mut ids = vec![gateway.agent.clone()];
    for _ in 0..4 {
        ids.push(gateway.agent_with(|_| {}).await.agent);
    }
    gateway.new_agent(gateway.new_tenant("stranger").await, agent("theirs")).await;
    let mut seen = Vec::new();
    for (page, length) in [(1, 2), (2, 2), (3, 1), (4, 0), (u32::MAX, 0)] {
        let target = format!("/v1/agents?page={page}&per_page=2");
        let answer = get(&gateway, &target).await;
        assert_eq!(answer.text, get(&gateway, target.trim_start_matches("/v1")).await.text);
        let mut answer = answer.json();
        let items = answer["items"].take();
        let expected =
            json!({"items": null, "total": 5, "page": page, "per_page": 2, "total_pages": 3});
        assert_eq!(answer, expected);
        assert_eq!(items.as_array().unwrap().len(), length);
        seen.extend(items.as_array().unwrap().iter().map(|item| item["id"].clone()));
    }
    assert_eq!(seen, ids);
    let all = get(&gateway, "/v1/agents").await.json();
    assert_eq!((&all["page"], &all["per_page"]), (&json!(1), &json!(20)), "the defaults");
    assert_eq!(get(&gateway, "/agents/list").await.json(), all["items"], "the SDK's list");
}

#[tokio::test]
async fn a_page_that_cannot_be_is_422() {
    let gateway = Gateway::start().await;
    for path in [
        "/v1/agents",
        "/v1/tasks",
        &format!("/agent-execution/executions/history/{}", gateway.agent),
    ] {
        for query in ["page=0", "page=-1", "page=x", "per_page=0", "per_page=101", "per_page="] {
            let call = gateway.get(&format!("{path}?{query}")).key(&gateway.key);
            let answer = call.expect(422).await;
            assert!(!answer.detail().is_empty());
        }
        get(&gateway, &format!("{path}?per_page=100")).await;
    }
}

#[tokio::test]
async fn an_agent_whose_plugin_cannot_say_what_it_has_is_shown_with_the_reason() {
    let gateway = Gateway::start().await;
    let whole = get(&gateway, &format!("/v1/agents/{}", gateway.agent)).await.json();
    assert_eq!(whole.get("tools_missing"), None);
    let floods = gateway.agent_with_tool("floods_tools", "").await;
    let shown = get(&gateway, &format!("/v1/agents/{}", floods.agent)).await.json();
    assert_eq!((&shown["tools"], &shown["graph"][0]["name"]), (&json!([]), &json!("floods-tools")));
    let call = floods.post(&format!("/agents/{}/operations/any", floods.agent)).key(&floods.key);
    let message = call.json(&json!({})).expect(502).await.detail();
    assert_eq!(shown["tools_missing"], message.as_str(), "as a call of one of its tools says");
}

#[tokio::test]
async fn a_toolbox_that_is_cut_off_may_be_called_again_later() {
    let change =
        |settings: &mut wardgate::settings::Settings| settings.sandbox.quarantine_after = 1;
    let gateway = Setup::new().settings(change).start().await;
    let floods = gateway.agent_with_tool("floods_tools", "").await;
    let target = format!("/agents/{}/operations/any", floods.agent);
    let call = || floods.post(&target).key(&floods.key).json(&json!({}));
    call().expect(502).await;
    let cut_off = call().expect(503).await;
    assert_eq!(cut_off.header("x-wardgate-retry"), Some("safe"), "{}", cut_off.text);
    assert_eq!(cut_off.header("retry-after"), Some("30"), "{}", cut_off.text);
    assert!(cut_off.detail().contains("floods-tools"), "{}", cut_off.text);
}

#[tokio::test]
async fn an_agent_has_what_clients_need_and_no_secret() {
    let gateway = Gateway::start().await;
    let answer = get(&gateway, &format!("/v1/agents/{}", gateway.agent)).await;
    assert_eq!(get(&gateway, &format!("/agents/{}", gateway.agent)).await.text, answer.text);
    for secret in [&gateway.key, &gateway.token, "x-api-key"] {
        assert!(!answer.text.contains(secret), "{}", answer.text);
    }
    let seen = answer.json();
    for name in
        "id name organization_id webhook_url unique_name icon instructions status created_at \
         framework model_provider model_name tools graph"
            .split(' ')
    {
        assert!(!seen[name].is_null(), "{name}: {seen}");
    }
    assert_eq!((&seen["id"], &seen["name"]), (&json!(gateway.agent), &json!("tested")));
    assert_eq!(seen["organization_id"], gateway.tenant.to_string());
    assert_eq!(
        seen["instructions"],
        json!({"role": [], "goal": [], "general": "You answer tests."})
    );
    assert_eq!((&seen["status"], &seen["model_name"]), (&json!("ACTIVE"), &json!("offline")));
    let url = seen["webhook_url"].as_str().unwrap();
    assert_eq!(url, gateway.url(&format!("/?agent_id={}&asynchronous=false", gateway.agent)));

    let items = seen["graph"].as_array().expect("the graph is an array");
    let kinds: Vec<_> = items.iter().map(|item| (&item["item_id"], &item["type"])).collect();
    let tool = json!("tool");
    assert_eq!(kinds, [(&json!("calculator"), &tool), (&json!("http-fetch"), &tool)]);
    let calculate = &seen["tools"][0];
    assert_eq!((&calculate["id"], &calculate["name"]), (&json!("calculate"), &json!("calculate")));
    assert_eq!(calculate["parameters"]["properties"]["expression"]["type"], "string");
    assert_eq!(calculate["method"], "POST");
}

#[tokio::test]
async fn the_webhook_url_of_an_agent_works() {
    let gateway = Gateway::start().await;
    let seen = get(&gateway, &format!("/v1/agents/{}", gateway.agent)).await.json();
    let (_, target) = seen["webhook_url"].as_str().unwrap().split_once(&gateway.listen).unwrap();
    let call = gateway.post(target).key(&gateway.key).json(&json!({"prompt": "hello"}));
    assert_eq!(call.expect(200).await.json()["status"], "completed");
}

#[tokio::test]
async fn an_agent_that_cannot_run_is_shown_all_the_same() {
    let gateway = Gateway::start().await;
    let broken = gateway.agent_with(|agent| agent.tools = vec!["absent".parse().unwrap()]).await;
    let seen = get(&gateway, &format!("/v1/agents/{}", broken.agent)).await.json();
    assert_eq!((&seen["tools"], &seen["graph"][0]["item_id"]), (&json!([]), &json!("absent")));

    let id = gateway.agent.parse().unwrap();
    gateway.folder.store.enable_agent(gateway.tenant, id, false).await.unwrap();
    let seen = get(&gateway, &format!("/v1/agents/{}", gateway.agent)).await.json();
    assert_eq!(seen["status"], "INACTIVE");
    let refused = gateway.invoke("invoke", "hello").expect(403).await;
    assert!(refused.detail().contains("disabled"), "{}", refused.text);
    let target = format!("/agents/{}/operations/calculate", gateway.agent);
    gateway.post(&target).key(&gateway.key).json(&json!({"expression": "1"})).expect(403).await;
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn a_tool_is_called_directly_in_every_shape_of_arguments() {
    let gateway = Gateway::start().await;
    let target = format!("/agents/{}/operations/calculate", gateway.agent);
    let arguments = json!({"expression": "6*7"});
    for body in [
        arguments.clone(),
        json!({"parameters": arguments}),
        json!({"body_params": arguments, "query_params": {}, "path_params": {}, "headers": {}}),
    ] {
        let answer = gateway.post(&target).key(&gateway.key).json(&body).expect(200).await;
        assert_eq!(answer.json()["value"], 42);
    }
    assert_eq!(gateway.stored_task_count().await, 0, "no run comes of it");
}

#[tokio::test]
async fn a_tool_call_that_cannot_be_is_refused_with_its_reason() {
    let gateway = Gateway::start().await;
    let call = |tool: &str, body: &'static str| {
        let target = format!("/agents/{}/operations/{tool}", gateway.agent);
        gateway.post(&target).key(&gateway.key).text("application/json", body)
    };
    call("no_such_tool", "{}").expect(404).await;
    call("calculate", "no JSON").expect(400).await;
    call("calculate", "[]").expect(422).await;
    for (body, what) in
        [("{}", "expression"), ("", "expression"), (r#"{"expression":"6*"}"#, "position 3")]
    {
        let answer = call("calculate", body).send().await;
        assert!((400..500).contains(&answer.status), "{} {}", answer.status, answer.text);
        assert_eq!(answer.header("x-wardgate-fault"), Some("caller"));
        assert!(answer.detail().contains(what), "{}", answer.text);
    }
}

#[tokio::test]
async fn whoever_waits_for_a_tool_while_the_gateway_stops_is_told_so() {
    let gateway = Gateway::start().await;
    let grants = "[limits]\ntool_cpu_ms = 600000\ntool_wall_ms = 600000\n";
    let agent = gateway.agent_with_tool("spin_in_tool", grants).await;
    let target = format!("/agents/{}/operations/spin", agent.agent);
    let call = gateway.post(&target).key(&gateway.key).json(&json!({}));
    let waiting = tokio::spawn(async move { call.expect(503).await });
    let plugins = &gateway.services.plugins;
    let plugin = plugins.binding(gateway.tenant, &"spin-in-tool".parse().unwrap()).await.unwrap();
    let in_flight = || plugin.stats().snapshot().in_flight;
    poll_until("the tool", async || (in_flight() == 1).then_some(())).await;
    // As on SIGTERM, when most of the drain time is over.
    gateway.services.shutdown_deadline.cancel();
    let answer = waiting.await.unwrap();
    assert!(answer.detail().contains("the tool has not ended yet"), "{}", answer.text);
    assert_eq!(answer.header("x-wardgate-retry"), Some("never"), "it may have had effects");
    poll_until("it to be stopped", async || (in_flight() == 0).then_some(())).await;
}

#[tokio::test]
async fn a_destructive_tool_is_refused_unless_the_agent_opts_in() {
    let gateway = Gateway::start().await;
    let opted_in = gateway.agent_with_tool("destructive_tool", "").await;
    let careful =
        gateway.agent_with(|agent| agent.tools = vec!["destructive-tool".parse().unwrap()]).await;
    let call = |agent: &str| {
        let target = format!("/agents/{agent}/operations/wipe");
        gateway.post(&target).key(&gateway.key).json(&json!({}))
    };
    let refused = call(&careful.agent).expect(403).await;
    assert!(refused.detail().contains("allow_destructive_tools"), "{}", refused.text);
    assert_eq!(call(&opted_in.agent).expect(200).await.json(), json!({"wiped": true}));
    let seen = get(&gateway, &format!("/v1/agents/{}", careful.agent)).await.json();
    assert_eq!(seen["tools"][0]["destructive"], Value::Bool(true), "clients can see it");
}
