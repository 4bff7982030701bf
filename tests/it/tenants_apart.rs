//! For a tenant, resources of other tenants do not exist, even if they have the same names.

use serde_json::{Value, json};
use wardgate::ids::TenantId;
use wardgate::settings::Settings;
use wardgate::tenants::Precondition;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Client, EVENT_TIMEOUT, Gateway, Setup, agent, guest_path};

/// A gateway with a second tenant, whose agent has the same name as the first one's.
async fn two() -> (Gateway, TenantId, Client) {
    let gateway = Gateway::start().await;
    let other = gateway.new_tenant("other").await;
    let caller = gateway.new_agent(other, agent("tested")).await;
    (gateway, other, caller)
}

#[tokio::test]
async fn a_key_opens_the_agents_of_its_tenant_only() {
    let (gateway, _, other) = two().await;
    for (agent, key, status) in [
        (&gateway.agent, &gateway.key, 200),
        (&other.agent, &other.key, 200),
        (&gateway.agent, &other.key, 403),
        (&other.agent, &gateway.key, 403),
    ] {
        let call = gateway.post(&format!("/?agent_id={agent}")).key(key).json(&json!({"x": 1}));
        let answer = call.expect(status).await;
        if status == 403 {
            assert_eq!(answer.text, r#"{"detail":"Invalid API key"}"#);
        }
    }
    assert_eq!(gateway.stored_task_count().await, 2);
}

#[tokio::test]
async fn tasks_and_traces_of_another_tenant_do_not_exist() {
    let (gateway, _, other) = two().await;
    let id = gateway.ask(json!({"prompt": "mine"})).await.task_id();
    let unknown = "00000000-0000-4000-8000-000000000000";
    for target in [format!("/v1/tasks/{id}"), format!("/v1/tasks/{id}/thread")] {
        gateway.get(&target).key(&gateway.key).expect(200).await;
        let foreign = gateway.get(&target).key(&other.key).expect(404).await;
        let absent = gateway.get(&target.replace(&id, unknown)).key(&other.key).expect(404).await;
        assert_eq!(foreign.text, absent.text, "the two cannot be told apart");
        gateway.get(&target).expect(401).await;
        gateway.get(&target).key("wrong").expect(403).await;
        // On this route the key is accepted in the header only.
        gateway.get(&format!("{target}?x-api-key={}", gateway.key)).expect(401).await;
    }
}

#[tokio::test]
async fn a_webhook_runs_its_own_agent() {
    let (gateway, other_id, other) = two().await;
    assert_ne!(gateway.token, other.token);
    let id = other.trigger().json(&json!({"x": 1})).expect(200).await.task_id();
    let task = other.wait_for_end(&id).await;
    assert_eq!(task["organization_id"], other_id.to_string());
    assert_eq!(task["agent_id"], other.agent);
}

#[tokio::test]
async fn plugins_of_one_name_are_each_tenants_own() {
    let (gateway, other_id, _) = two().await;
    let plugins = &gateway.services.plugins;
    let install = async |tenant, guest: &str| {
        let bytes = std::fs::read(guest_path(guest)).unwrap();
        plugins.install(tenant, &"hook".parse().unwrap(), bytes, None).await.unwrap();
    };
    install(gateway.tenant, "ignores").await;
    let mut hooked = agent("hooked");
    hooked.mapper = Some("hook".parse().unwrap());
    let first = gateway.new_agent(gateway.tenant, hooked.clone()).await;
    let second = gateway.new_agent(other_id, hooked).await;

    let ignored: Value = json!({"status": "Ignored"});
    assert_eq!(first.webhook("").json(&json!({})).expect(200).await.json(), ignored);
    // The first tenant's plugin is not installed for the second.
    let absent = second.webhook("").json(&json!({})).expect(500).await;
    assert!(absent.detail().contains("no plugin hook is installed"), "{}", absent.text);
    install(other_id, "replies_now").await;
    second.webhook("").json(&json!({})).answered_by_a_plugin().expect(202).await;
    assert_eq!(first.webhook("").json(&json!({})).expect(200).await.json(), ignored);
}

#[tokio::test]
async fn an_agents_id_cannot_be_taken_over() {
    let (gateway, other_id, _) = two().await;
    let id = gateway.agent.parse().unwrap();
    let taken =
        gateway.folder.store.put_agent(other_id, id, &agent("taken"), Precondition::None).await;
    assert!(taken.is_err());
    assert_eq!(
        gateway.ask(json!({"prompt": "still mine"})).await.report()["received"],
        "still mine"
    );
}

#[tokio::test]
async fn a_tenant_with_room_for_one_run_gets_through_its_backlog() {
    let model = ModelServer::start([Reply::Held(&Reply::Text("done"))]).await;
    let settings = |settings: &mut Settings| {
        model.add_to_settings(settings);
        settings.queue.runs_per_tenant_max = 1;
    };
    let gateway = Setup::new().settings(settings).start().await;
    // The first run is held, so that all others are queued when it ends.
    let held = gateway.agent_with(|agent| agent.model = "scripted".to_owned()).await;
    let mut accepted = vec![held.start_run("first").await];
    model.wait_for_requests(1).await;
    for number in 0..100 {
        let call = gateway.webhook("&asynchronous=true").json(&json!({"prompt": number}));
        accepted.push(call.expect(200).await.task_id());
    }
    model.release(1);
    // Without wake-ups, polling for tasks once a second would take longer.
    let all = async {
        for id in accepted {
            assert_eq!(gateway.wait_for_end(&id).await["status"], "completed");
        }
    };
    tokio::time::timeout(EVENT_TIMEOUT, all)
        .await
        .expect("a run that ends makes room for the next one");
}
