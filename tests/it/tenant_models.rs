//! A tenant brings models of its own, with keys among its own secrets. Its admin reaches no address of the operator's
//! network with them, and no key that the operator has set.

use serde_json::{Value, json};
use wardgate::ids::TenantId;
use wardgate::tenants::KeyHolder;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Answer, Call, Gateway, Setup, agent};

const KEY: &str = "sk-of-the-tenant-0123456789";

/// The definition of a model on this server, with the secret `provider` as its key.
fn definition(server: &ModelServer) -> Value {
    json!({
        "kind": "openai-compatible", "base_url": server.url(), "model": "own-1", "api_key": "provider",
        "price": {"input": 1_000_000, "output": 1_000_000},
    })
}

async fn admin_key(gateway: &Gateway) -> String {
    gateway.new_key(KeyHolder::Admin(gateway.tenant)).await
}

/// A request by the tenant's admin.
fn by_admin(gateway: &Gateway, key: &str, method: &str, path: &str) -> Call {
    gateway.request(method, &format!("/admin/tenants/{}{path}", gateway.tenant)).key(key)
}

async fn set_secret_as_admin(gateway: &Gateway, value: &str) {
    let key = admin_key(gateway).await;
    let call = by_admin(gateway, &key, "PUT", "/secrets/provider");
    call.json(&json!({"value": value})).expect(200).await;
}

async fn ask_with(gateway: &Gateway, model: &str) -> Answer {
    let agent = gateway.agent_with(|agent| agent.model = model.to_owned()).await;
    agent.ask(json!({"prompt": "hello"})).await
}

#[tokio::test]
async fn a_tenants_agent_uses_its_model_with_its_key() {
    let server = ModelServer::start([Reply::Text("from its own")]).await;
    let gateway = Gateway::start().await;
    set_secret_as_admin(&gateway, KEY).await;
    gateway.admin_request("PUT", "/models/mine").json(&definition(&server)).expect(200).await;
    let answer = ask_with(&gateway, "mine").await;
    assert_eq!(answer.json()["result"], "from its own");
    let (request, authorization) = server.requests().remove(0);
    assert_eq!((&request["model"], authorization), (&json!("own-1"), format!("Bearer {KEY}")));
    let thread = gateway.thread(&answer.task_id()).await;
    let turn = thread.iter().find(|message| message["role"] == "assistant").unwrap();
    assert_eq!(turn["metrics"]["cost_micros"], 18);

    let listed = gateway.admin_request("GET", "/models").expect(200).await;
    assert_eq!(listed.json()[0]["definition"]["api_key"], "provider");
    assert!(!listed.text.contains(KEY));
}

#[tokio::test]
async fn a_new_key_a_new_definition_and_a_removal_count_from_the_next_run_on() {
    let server = ModelServer::start([Reply::Text("ok")]).await;
    let gateway = Gateway::start().await;
    set_secret_as_admin(&gateway, KEY).await;
    let put = async |definition: &Value| {
        gateway.admin_request("PUT", "/models/mine").json(definition).expect(200).await;
    };
    put(&definition(&server)).await;
    let agent = gateway.agent_with(|agent| agent.model = "mine".to_owned()).await;
    let ask = async || agent.ask(json!({"prompt": "hello"})).await.json();
    ask().await;
    set_secret_as_admin(&gateway, "sk-the-next-key-0123456789").await;
    ask().await;
    let mut second = definition(&server);
    second["model"] = "own-2".into();
    put(&second).await;
    ask().await;
    let seen: Vec<(String, String)> = server
        .requests()
        .into_iter()
        .map(|(request, key)| (request["model"].as_str().unwrap().to_owned(), key))
        .collect();
    let next = "Bearer sk-the-next-key-0123456789".to_owned();
    assert_eq!(
        seen,
        [
            ("own-1".to_owned(), format!("Bearer {KEY}")),
            ("own-1".to_owned(), next.clone()),
            ("own-2".to_owned(), next),
        ]
    );
    gateway.admin_request("DELETE", "/models/mine").expect(204).await;
    let task = ask().await;
    assert_eq!(task["status"], "failed");
    assert!(task["result"].as_str().unwrap().contains("\"mine\" is not in"), "{task}");
    gateway.admin_request("DELETE", "/models/mine").expect(404).await;
}

#[tokio::test]
async fn its_model_takes_precedence_and_is_no_other_tenants() {
    let (of_gateway, own) = (
        ModelServer::start([Reply::Text("the gateway's")]).await,
        ModelServer::start([Reply::Text("its own")]).await,
    );
    let gateway = Setup::new().model(&of_gateway).start().await;
    set_secret_as_admin(&gateway, KEY).await;
    gateway.admin_request("PUT", "/models/scripted").json(&definition(&own)).expect(200).await;
    assert_eq!(gateway.ask(json!({"prompt": "hello"})).await.json()["result"], "its own");

    let tenant: TenantId = gateway.new_tenant("another").await;
    let mut another = agent("another's");
    another.model = "scripted".to_owned();
    let another = gateway.new_agent(tenant, another).await;
    assert_eq!(another.ask(json!({"prompt": "hello"})).await.json()["result"], "the gateway's");
}

#[tokio::test]
async fn its_fallback_may_be_a_model_of_the_settings() {
    let of_gateway = ModelServer::start([Reply::Text("the gateway's")]).await;
    let own = ModelServer::start([Reply::Error(503, "down")]).await;
    let gateway = Setup::new().model(&of_gateway).start().await;
    set_secret_as_admin(&gateway, KEY).await;
    let mut mine = definition(&own);
    mine["fallback"] = "scripted".into();
    gateway.admin_request("PUT", "/models/mine").json(&mine).expect(200).await;
    assert_eq!(ask_with(&gateway, "mine").await.json()["result"], "the gateway's");
}

#[tokio::test]
async fn an_admins_model_has_a_public_address_with_https() {
    let gateway = Gateway::start().await;
    let key = admin_key(&gateway).await;
    for (base_url, says) in [
        ("http://api.example.com/v1", "not HTTPS"),
        ("https://127.0.0.1/v1", "not public"),
        ("https://0x7f000001/v1", "not public"),
        ("https://[::1]/v1", "not public"),
        ("https://169.254.169.254/", "not public"),
        ("ftp://api.example.com/", "neither http nor https"),
    ] {
        let model = json!({"kind": "anthropic", "base_url": base_url, "model": "m"});
        let call = by_admin(&gateway, &key, "PUT", "/models/mine").json(&model);
        let detail = call.expect(422).await.detail();
        assert!(detail.contains(says), "{base_url}: {detail}");
    }
    // A name is vetted when it is resolved.
    let model = json!({"kind": "anthropic", "base_url": "https://localhost:1/v1", "model": "m"});
    by_admin(&gateway, &key, "PUT", "/models/mine").json(&model).expect(200).await;
    let task = ask_with(&gateway, "mine").await.json();
    assert_eq!(task["status"], "failed");
    let reason = task["result"].as_str().unwrap();
    assert!(reason.contains("not public") && !reason.contains("attempts"), "{reason}");
}

#[tokio::test]
async fn an_admins_model_gets_no_key_that_an_operator_has_set() {
    let server = ModelServer::start([Reply::Text("ok")]).await;
    let gateway = Gateway::start().await;
    gateway.store_secret("provider", KEY, false).await;
    let key = admin_key(&gateway).await;
    let mut model = definition(&server);
    model["base_url"] = "https://api.example.com/v1".into();
    by_admin(&gateway, &key, "PUT", "/models/mine").json(&model).expect(200).await;
    let reason = ask_with(&gateway, "mine").await.json()["result"].as_str().unwrap().to_owned();
    assert!(reason.contains("an operator has set the secret provider"), "{reason}");
    // The operator may hand it to a model.
    gateway.admin_request("PUT", "/models/mine").json(&definition(&server)).expect(200).await;
    assert_eq!(ask_with(&gateway, "mine").await.json()["result"], "ok");
}

#[tokio::test]
async fn a_model_without_a_usable_key_fails_its_runs_and_says_why() {
    let server = ModelServer::start([Reply::Text("ok")]).await;
    let gateway = Gateway::start().await;
    gateway.admin_request("PUT", "/models/mine").json(&definition(&server)).expect(200).await;
    let reason = async || {
        let task = ask_with(&gateway, "mine").await.json();
        assert_eq!(task["status"], "failed", "{task}");
        task["result"].as_str().unwrap().to_owned()
    };
    assert!(reason().await.contains("has no secret provider"));
    let key = admin_key(&gateway).await;
    let secret = json!({"value": KEY, "use": ["verify"]});
    by_admin(&gateway, &key, "PUT", "/secrets/provider").json(&secret).expect(200).await;
    assert!(reason().await.contains("and not for send"));
    let secret = json!({"value": "with\na line break", "use": ["send"]});
    by_admin(&gateway, &key, "PUT", "/secrets/provider").json(&secret).expect(200).await;
    assert!(reason().await.contains("cannot be sent in a header"));
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn definitions_follow_the_rules_of_the_settings() {
    let gateway = Gateway::start().await;
    let of = |field: &str, value: &str| {
        let mut model = json!({"kind": "openai-compatible", "model": "m", "base_url": "https://api.example.com/v1"});
        model[field] = value.into();
        model
    };
    let (with_url, with_header) = (|url| of("base_url", url), |name| of("key_header", name));
    for (name, model, says) in [
        ("mine", json!({"kind": "anthropic", "model": ""}), "models.mine.model is empty"),
        ("mine", json!({"kind": "openai-compatible", "model": "m"}), "base_url is missing"),
        ("mine", json!({"kind": "anthropic", "model": "m", "fallback": "none"}), "no model"),
        ("mine", json!({"kind": "anthropic", "model": "m", "fallback": "mine"}), "leads back"),
        ("mine", json!({"kind": "anthropic", "model": "m", "key": "x"}), "unknown field"),
        ("mine", with_url("https://user:word@api.example.com/v1"), "a user name or a password"),
        ("mine", with_url("https://api.example.com/v1?key=x"), "has a query"),
        ("mine", with_header("host"), "cannot hold a key"),
        ("mine", with_header("Transfer-Encoding"), "cannot hold a key"),
        ("mine", with_header("cookie"), "cannot hold a key"),
        ("offline", json!({"kind": "anthropic", "model": "m"}), "built-in model"),
        ("a%20b", json!({"kind": "anthropic", "model": "m"}), "letters, digits"),
    ] {
        let call = gateway.admin_request("PUT", &format!("/models/{name}")).json(&model);
        let detail = call.expect(422).await.detail();
        assert!(detail.contains(says), "{model}: {detail}");
    }
    let model = json!({"name": "a", "model": "mine"});
    let refused = gateway.admin_request("POST", "/agents").json(&model).expect(422).await;
    assert!(refused.detail().contains("there is no model"), "{}", refused.detail());
}
