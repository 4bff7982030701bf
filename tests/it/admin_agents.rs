//! Agent definitions in the admin API: validated as a whole, updated under optimistic locking, and disabled
//! immediately.

use serde_json::{Value, json};
use tokio::task::JoinSet;
use wardgate::settings::Settings;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Answer, Call, Client, Gateway, Setup};

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

async fn create(gateway: &Gateway, definition: &Value) -> Answer {
    gateway.admin_request("POST", "/agents").json(definition).expect(201).await
}

/// The path of the agent below that of its tenant.
fn agent_path(made: &Answer) -> String {
    format!("/agents/{}", text(&made.json()["id"]))
}

#[tokio::test]
async fn an_agent_is_made_from_json_and_works_at_once() {
    let gateway = Gateway::start().await;
    let definition = json!({"name": "sums", "instructions": "Sum.", "tools": ["calculator"]});
    let made = create(&gateway, &definition).await;
    let agent = made.json();
    assert_eq!((&agent["version"], &agent["enabled"]), (&json!(1), &json!(true)));
    assert_eq!(agent["definition"]["model"], "offline");
    assert_eq!(made.header("etag"), Some("\"1\""));
    let read = gateway.admin_request("GET", &agent_path(&made)).expect(200).await;
    assert_eq!((read.json(), read.header("etag")), (agent.clone(), Some("\"1\"")));
    let target = format!("/?agent_id={}", text(&agent["id"]));
    let body = json!({"prompt": "calculate {\"expression\":\"6*7\"}"});
    let answer = gateway.post(&target).key(&gateway.key).json(&body).expect(200).await;
    assert_eq!(answer.report()["tools"][0]["result"]["value"], 42);
    let webhook =
        gateway.admin_request("GET", &format!("{}/webhook", agent_path(&made))).expect(200).await;
    let url = text(&webhook.json()["url"]).to_owned();
    let (_, token) = url.rsplit_once('/').unwrap();
    let hook = format!("/api/webhooks/agents/{token}");
    gateway.post(&hook).json(&json!({"x": 1})).expect(200).await;
}

#[tokio::test]
async fn an_agent_is_made_from_toml_as_it_is_from_json() {
    let gateway = Gateway::start().await;
    let toml = "name = \"a\"\ninstructions = \"Sum.\"\ntools = [\"calculator\"]\nturns_max = 3\n";
    let call =
        gateway.admin_request("POST", "/agents").text("application/toml; charset=utf-8", toml);
    let of_toml = call.expect(201).await.json()["definition"].clone();
    let mut same = json!({"name": "b", "instructions": "Sum.", "turns_max": 3});
    same["tools"] = json!(["calculator"]);
    let mut of_json = create(&gateway, &same).await.json()["definition"].clone();
    of_json["name"] = json!("a");
    assert_eq!(of_toml, of_json);
}

#[tokio::test]
async fn a_description_that_is_wrong_is_refused_with_a_reason_and_makes_nothing() {
    let gateway = Gateway::start().await;
    let before = gateway.admin_request("GET", "/agents").expect(200).await.text;
    let target = format!("/agents/{}", gateway.agent);
    for (definition, reason) in [
        (json!({"name": "a", "modell": "offline"}), "unknown field `modell`"),
        (json!({"name": "a", "model": "gpt-9"}), "no model \"gpt-9\""),
        (json!({"name": "a", "tools": ["absent"]}), "no plugin absent"),
        (json!({"name": "a", "mapper": "absent"}), "no plugin absent"),
        (json!({"name": "a", "getter": "absent"}), "no plugin absent"),
        (json!({"name": "a", "tools": ["Not A Name"]}), "plugin name"),
        (json!({"name": ""}), "is empty"),
        (json!({"instructions": "x"}), "missing field `name`"),
        (json!(["a"]), "not a JSON object"),
    ] {
        for (method, below) in [("POST", "/agents"), ("PUT", target.as_str())] {
            let answer = gateway.admin_request(method, below).json(&definition).expect(422).await;
            assert!(answer.detail().contains(reason), "{definition}: {}", answer.text);
        }
    }
    let toml =
        gateway.admin_request("POST", "/agents").text("application/toml", "name = \"a\"\nx = 1\n");
    assert!(toml.expect(422).await.detail().contains("unknown field `x`"));
    gateway.admin_request("POST", "/agents").text("application/json", "{").expect(400).await;
    assert_eq!(gateway.admin_request("GET", "/agents").expect(200).await.text, before);
}

#[tokio::test]
async fn a_name_belongs_to_one_agent_of_a_tenant() {
    let gateway = Gateway::start().await;
    create(&gateway, &json!({"name": "first"})).await;
    let second = agent_path(&create(&gateway, &json!({"name": "second"})).await);
    for (method, below) in [("POST", "/agents"), ("PUT", second.as_str())] {
        let taken =
            gateway.admin_request(method, below).json(&json!({"name": "first"})).expect(409).await;
        assert!(taken.detail().contains("name"), "{}", taken.text);
    }
    let named = gateway.admin_request("GET", "/agents?name=first").expect(200).await.json();
    assert_eq!(named.as_array().unwrap().len(), 1);
    // Another tenant may use the same name.
    let other = gateway.new_tenant("other").await;
    let elsewhere = gateway.post(&format!("/admin/tenants/{other}/agents"));
    elsewhere.key(&gateway.operator_key()).json(&json!({"name": "first"})).expect(201).await;
}

#[tokio::test]
async fn a_change_holds_for_the_version_that_was_read() {
    let gateway = Gateway::start().await;
    let path = agent_path(&create(&gateway, &json!({"name": "a"})).await);
    let put = |text: &str| {
        gateway.admin_request("PUT", &path).json(&json!({"name": "a", "instructions": text}))
    };
    let second = put("two").header("if-match", "\"1\"").expect(200).await;
    assert_eq!((second.header("etag"), &second.json()["version"]), (Some("\"2\""), &json!(2)));
    for stale in ["\"1\"", "\"3\"", "nonsense", ""] {
        let refused = put("lost").header("if-match", stale).expect(412).await;
        assert!(!refused.detail().is_empty());
    }
    let now = gateway.admin_request("GET", &path).expect(200).await.json();
    assert_eq!(now["definition"]["instructions"], "two");
    // Without `if-match`, or with `*`, any version is updated.
    assert_eq!(put("three").expect(200).await.header("etag"), Some("\"3\""));
    assert_eq!(put("four").header("if-match", "*").expect(200).await.header("etag"), Some("\"4\""));
    let nobodys = gateway.admin_request("PUT", "/agents/00000000-0000-4000-8000-000000000000");
    nobodys.json(&json!({"name": "b"})).expect(404).await;
}

#[tokio::test]
async fn a_description_that_is_the_one_of_now_changes_nothing() {
    let gateway = Gateway::start().await;
    let definition = json!({"name": "a", "tools": ["calculator"]});
    let made = create(&gateway, &definition).await;
    for _ in 0..3 {
        let same =
            gateway.admin_request("PUT", &agent_path(&made)).json(&definition).expect(200).await;
        assert_eq!((same.json(), same.header("etag")), (made.json(), Some("\"1\"")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_changes_of_one_version_exactly_one_is_made() {
    let gateway = Gateway::start().await;
    let path = agent_path(&create(&gateway, &json!({"name": "a"})).await);
    let mut changes = JoinSet::new();
    for number in 0..20 {
        let definition = json!({"name": "a", "instructions": format!("of {number}")});
        let call =
            gateway.admin_request("PUT", &path).header("if-match", "\"1\"").json(&definition);
        changes.spawn(async move { (number, call.send().await) });
    }
    let answers = changes.join_all().await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|(_, a)| a.status == 200);
    assert!(refused.iter().all(|(_, answer)| answer.status == 412), "{refused:?}");
    let [(number, _)] = made.as_slice() else { panic!("not one was made: {made:?}") };
    let now = gateway.admin_request("GET", &path).expect(200).await.json();
    assert_eq!(now["version"], 2);
    assert_eq!(now["definition"]["instructions"], format!("of {number}"));
}

/// A request on each route that starts a run of the agent, and whether its errors have DocsGPT's format.
fn starts(caller: &Client) -> Vec<(Call, bool)> {
    let agent = &caller.agent;
    let invocation = json!({"input": {"text": "hi"}});
    let invoke = |target: String| caller.post(&target).key(&caller.key).json(&invocation);
    let hook = format!("/api/webhooks/agents/{}?x=1", caller.token);
    let tool = caller.post(&format!("/agents/{agent}/operations/calculate")).key(&caller.key);
    vec![
        (caller.webhook("").json(&json!({"x": 1})), false),
        (caller.webhook("&asynchronous=true").json(&json!({"x": 1})), false),
        (caller.trigger().json(&json!({"x": 1})), true),
        (caller.get(&hook), true),
        (invoke(format!("/v1/agents/{agent}/invoke")), false),
        (invoke(format!("/v1/agents/{agent}/invoke/async")), false),
        (invoke(format!("/v1/agents/{agent}/invoke/stream")), false),
        (invoke(format!("/agent-execution/{agent}")), false),
        (tool.json(&json!({"expression": "1+1"})), false),
    ]
}

#[tokio::test]
async fn a_disabled_agent_starts_nothing_until_it_is_enabled_again() {
    let gateway = Gateway::start().await;
    // Afterwards the keys and tokens are cached, so that the refusals below do not come from a fresh look-up.
    for (call, _) in starts(&gateway) {
        call.expect(200).await;
    }
    let stored = gateway.stored_task_count().await;
    let switch =
        |how: &str| gateway.admin_request("POST", &format!("/agents/{}/{how}", gateway.agent));
    assert_eq!(switch("disable").expect(200).await.json()["enabled"], false);
    for (call, of_docsgpt) in starts(&gateway) {
        let answer = call.expect(403).await.json();
        let message = if of_docsgpt { &answer["message"] } else { &answer["detail"] };
        assert_eq!(message, "Agent is disabled", "{answer}");
    }
    assert_eq!(gateway.stored_task_count().await, stored);
    assert_eq!(switch("enable").expect(200).await.json()["enabled"], true);
    for (call, _) in starts(&gateway) {
        call.expect(200).await;
    }
}

#[tokio::test]
async fn what_was_accepted_before_an_agent_was_disabled_runs_to_its_end() {
    let model = ModelServer::start([Reply::Held(&Reply::Text("said in the end"))]).await;
    // One run at a time: the second one has not started when the agent is disabled.
    let settings = |settings: &mut Settings| {
        model.add_to_settings(settings);
        settings.queue.runs_per_tenant_max = 1;
    };
    let setup = Setup::new().settings(settings).agent(|agent| agent.model = "scripted".to_owned());
    let gateway = setup.start().await;
    let mut accepted = Vec::new();
    for _ in 0..2 {
        let call = gateway.webhook("&asynchronous=true").json(&json!({"x": 1}));
        accepted.push(call.expect(200).await.task_id());
    }
    model.wait_for_requests(1).await;
    gateway.admin_request("POST", &format!("/agents/{}/disable", gateway.agent)).expect(200).await;
    model.release(2);
    for id in accepted {
        let task = gateway.wait_for_end(&id).await;
        assert_eq!(
            (&task["status"], &task["result"]),
            (&json!("completed"), &json!("said in the end"))
        );
    }
}

#[tokio::test]
async fn an_agent_that_could_never_work_is_refused_with_the_reason() {
    let gateway = Gateway::start().await;
    for (asked, reason) in [
        (json!({"name": "a", "mapper": "calculator"}), "no role payload-mapper"),
        (json!({"name": "a", "getter": "dot-mapper"}), "no role response-getter"),
        (json!({"name": "a", "tools": ["dot-mapper"]}), "no role toolbox"),
        (json!({"name": "a", "tools": ["calculator", "calculator"]}), "calculator twice"),
        (json!({"name": "a", "turns_max": 0}), "turns_max"),
        (json!({"name": "a", "budget": {"tokens_max": 0}}), "budget.tokens_max"),
        (json!({"name": "a", "budget": {"tokens": 1}}), "tokens"),
        (json!({"name": "a", "instructions": "x".repeat(300_000)}), "256 KiB"),
        (json!({"name": gateway.agent}), "looks like an id"),
    ] {
        let answer = gateway.admin_request("POST", "/agents").json(&asked).expect(422).await;
        assert!(answer.detail().contains(reason), "{}", answer.text);
    }
}
