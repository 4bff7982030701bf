//! The admin API: operators manage tenants and keys, a tenant's admin manages that tenant, callers manage nothing.

use std::time::Duration;

use serde_json::{Value, json};
use wardgate::clock::{Clock, Timestamp};
use wardgate::settings::Settings;
use wardgate::tenants::KeyHolder;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Gateway, Setup, poll_until};

/// 2026-01-01T00:00:00Z, in microseconds.
const NEW_YEAR: i64 = 1_767_225_600_000_000;

/// Creates a key with these properties.
async fn new_key(gateway: &Gateway, asked: &Value) -> Value {
    gateway.admin_request("POST", "/keys").json(asked).expect(201).await.json()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[tokio::test]
async fn a_tenant_is_made_read_and_listed() {
    let gateway = Gateway::start().await;
    let operator = gateway.operator_key();
    let create =
        gateway.post("/admin/tenants").key(&operator).json(&json!({"name": "Ümlaut & Co"}));
    let made = create.expect(201).await.json();
    assert_eq!(made["name"], "Ümlaut & Co");
    let target = format!("/admin/tenants/{}", text(&made["id"]));
    assert_eq!(gateway.get(&target).key(&operator).expect(200).await.json(), made);
    let listed = gateway.get("/admin/tenants").key(&operator).expect(200).await.json();
    assert!(listed.as_array().unwrap().contains(&made), "{listed}");
    assert_eq!(listed.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_tenants_name_is_taken_once() {
    let gateway = Gateway::start().await;
    let create = || gateway.post("/admin/tenants").key(&gateway.operator_key());
    create().json(&json!({"name": "twice"})).expect(201).await;
    let again = create().json(&json!({"name": "twice"})).expect(409).await;
    assert!(again.detail().contains("name"), "{}", again.text);
    let listed =
        gateway.get("/admin/tenants").key(&gateway.operator_key()).expect(200).await.json();
    assert_eq!(listed.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_tenant_that_cannot_be_is_refused_with_a_reason() {
    let gateway = Gateway::start().await;
    for (body, status, reason) in [
        (r#"{"name": ""}"#.to_owned(), 422, "is empty"),
        (r#"{"name": " \t"}"#.to_owned(), 422, "is empty"),
        (r#"{"name": "a\nb"}"#.to_owned(), 422, "control character"),
        (json!({"name": "x".repeat(129)}).to_string(), 422, "128 bytes"),
        (r#"{"name": 5}"#.to_owned(), 422, "expected a string"),
        (r#"["a"]"#.to_owned(), 422, "not a JSON object"),
        (r#"{"name": "a", "id": "b"}"#.to_owned(), 422, "unknown field `id`"),
        ("{}".to_owned(), 422, "missing field `name`"),
        (r#"{"name": "a""#.to_owned(), 400, "JSON"),
    ] {
        let call = gateway.post("/admin/tenants").key(&gateway.operator_key());
        let answer = call.text("application/json", body.clone()).expect(status).await;
        assert!(answer.detail().contains(reason), "{body}: {}", answer.text);
    }
    let listed =
        gateway.get("/admin/tenants").key(&gateway.operator_key()).expect(200).await.json();
    assert_eq!(listed.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_key_is_shown_once_and_stored_as_a_hash() {
    let gateway = Gateway::start().await;
    let made = new_key(&gateway, &json!({"name": "the zap"})).await;
    let key = text(&made["key"]).to_owned();
    assert_eq!((&made["role"], &made["expires_at"]), (&json!("caller"), &Value::Null));
    gateway
        .post(&format!("/?agent_id={}", gateway.agent))
        .key(&key)
        .json(&json!({}))
        .expect(200)
        .await;
    let listed = gateway.admin_request("GET", "/keys").expect(200).await;
    let listed_key = |key: &&Value| key["id"] == made["id"];
    let again = listed.json().as_array().unwrap().iter().find(listed_key).cloned().unwrap();
    assert_eq!((&again["name"], again.get("key")), (&json!("the zap"), None));
    assert!(!listed.text.contains(&key), "{}", listed.text);
    let database = gateway.home.database_bytes();
    let is_in = |part: &str| database.windows(part.len()).any(|bytes| bytes == part.as_bytes());
    assert!(is_in("the zap"), "the database is not where this looks for it");
    // Neither the whole key nor the part after the prefix that all keys share.
    let (_, random) = key.split_once('_').unwrap();
    assert!(!is_in(&key) && !is_in(random));
}

#[tokio::test]
async fn a_key_ends_at_its_time() {
    let clock = Clock::manual(Timestamp::from_micros(NEW_YEAR));
    let gateway = Setup::new().clock(&clock).start().await;
    let asked = json!({"expires_at": "2026-01-01T02:00:00+01:00"});
    let (used, unused) = (new_key(&gateway, &asked).await, new_key(&gateway, &asked).await);
    assert_eq!(used["expires_at"], "2026-01-01T01:00:00.000000+00:00");
    let list = |key: &Value| gateway.get("/v1/agents").key(text(&key["key"]));
    clock.advance(Duration::from_secs(3_599));
    list(&used).expect(200).await;
    clock.advance(Duration::from_secs(1));
    list(&unused).expect(403).await;
    // A key that was just looked up stays cached for five seconds.
    poll_until("the end of a key", async || (list(&used).send().await.status == 403).then_some(()))
        .await;
}

#[tokio::test]
async fn a_key_with_a_time_or_role_that_cannot_be_is_not_made() {
    let clock = Clock::manual(Timestamp::from_micros(NEW_YEAR));
    let gateway = Setup::new().clock(&clock).start().await;
    let before = gateway.admin_request("GET", "/keys").expect(200).await.text;
    for (asked, reason) in [
        (json!({"expires_at": "2026-01-01T00:00:00Z"}), "in the future"),
        (json!({"expires_at": "2025-12-31"}), "RFC 3339"),
        (json!({"expires_at": "tomorrow"}), "RFC 3339"),
        (json!({"role": "operator"}), "caller or admin"),
        (json!({"role": "king"}), "unknown variant `king`"),
        (json!({"name": "x".repeat(201)}), "200 characters"),
        (json!({"key": "wgk_of_my_own"}), "unknown field `key`"),
        (json!(["name", "admin"]), "not a JSON object"),
    ] {
        let answer = gateway.admin_request("POST", "/keys").json(&asked).expect(422).await;
        assert!(answer.detail().contains(reason), "{asked}: {}", answer.text);
    }
    let call = gateway.post("/admin/operator-keys").key(&gateway.operator_key());
    let answer = call.json(&json!({"role": "admin"})).expect(422).await;
    assert!(answer.detail().contains("operator"), "{}", answer.text);
    assert_eq!(gateway.admin_request("GET", "/keys").expect(200).await.text, before);
}

#[tokio::test]
async fn a_revoked_key_opens_nothing_from_then_on() {
    let gateway = Gateway::start().await;
    let made = new_key(&gateway, &json!({})).await;
    let target = format!("/?agent_id={}", gateway.agent);
    let ask = || gateway.post(&target).key(text(&made["key"])).json(&json!({"x": 1}));
    ask().expect(200).await;
    let below = format!("/keys/{}", text(&made["id"]));
    assert_eq!(gateway.admin_request("DELETE", &below).expect(204).await.text, "");
    assert_eq!(ask().expect(403).await.text, r#"{"detail":"Invalid API key"}"#);
    assert_eq!(gateway.stored_task_count().await, 1);
    let ended = async || {
        let listed = gateway.admin_request("GET", "/keys").expect(200).await.json();
        let ended = listed.as_array().unwrap().iter().find(|key| key["id"] == made["id"]).cloned();
        text(&ended.unwrap()["revoked_at"]).to_owned()
    };
    // Revoking it again changes nothing, not even `revoked_at`.
    let first = ended().await;
    gateway.admin_request("DELETE", &below).expect(204).await;
    assert_eq!(ended().await, first);
    for nobodys in ["/keys/00000000-0000-4000-8000-000000000000", "/keys/nonsense"] {
        gateway.admin_request("DELETE", nobodys).expect(404).await;
    }
}

#[tokio::test]
async fn an_operators_key_is_made_listed_and_revoked() {
    let gateway = Gateway::start().await;
    let create = gateway.post("/admin/operator-keys").key(&gateway.operator_key());
    let made = create.json(&json!({"name": "night shift"})).expect(201).await.json();
    let (key, id) = (text(&made["key"]), text(&made["id"]));
    assert_eq!(made["role"], "operator");
    let listed = gateway.get("/admin/operator-keys").key(key).expect(200).await;
    assert!(listed.text.contains(id) && !listed.text.contains(key), "{}", listed.text);
    // It does not belong to any tenant.
    assert!(!gateway.admin_request("GET", "/keys").expect(200).await.text.contains(id));
    gateway.admin_request("DELETE", &format!("/keys/{id}")).expect(404).await;
    gateway.request("DELETE", &format!("/admin/operator-keys/{id}")).key(key).expect(204).await;
    gateway.get("/admin/operator-keys").key(key).expect(403).await;
}

/// The statuses for a caller's key, an admin's key and an operator's key. Requests that create something come
/// with each key, and succeed for those that are allowed to.
#[tokio::test]
async fn each_role_may_do_what_is_its_own_and_nothing_else() {
    let gateway = Gateway::start().await;
    let plugin = gateway.install("ignores", "[limits]\n").await;
    let (agent, tenant) = (&gateway.agent, format!("/admin/tenants/{}", gateway.tenant));
    let keys = [
        gateway.new_key(KeyHolder::Tenant(gateway.tenant)).await,
        gateway.new_key(KeyHolder::Admin(gateway.tenant)).await,
        gateway.new_key(KeyHolder::Operator).await,
    ];
    let invocation = json!({"input": {"text": "hi"}});
    let none = Value::Null;
    for (method, target, body, statuses) in [
        ("POST", format!("/?agent_id={agent}"), &json!({"x": 1}), [200, 200, 403]),
        ("GET", "/v1/agents".to_owned(), &none, [200, 200, 403]),
        ("GET", "/agents/list".to_owned(), &none, [200, 200, 403]),
        ("POST", format!("/v1/agents/{agent}/invoke"), &invocation, [200, 200, 403]),
        ("POST", format!("/agent-execution/{agent}"), &invocation, [200, 200, 403]),
        ("GET", "/v1/tasks".to_owned(), &none, [200, 200, 403]),
        ("GET", format!("/api/agent_webhook?id={agent}"), &none, [200, 200, 200]),
        ("GET", tenant.clone(), &none, [403, 200, 200]),
        ("GET", format!("{tenant}/keys"), &none, [403, 200, 200]),
        ("POST", format!("{tenant}/keys"), &json!({"role": "admin"}), [403, 201, 201]),
        ("GET", format!("{tenant}/agents/{agent}"), &none, [403, 200, 200]),
        ("POST", format!("{tenant}/agents/{agent}/enable"), &none, [403, 200, 200]),
        ("GET", format!("{tenant}/agents/{agent}/webhook"), &none, [403, 200, 200]),
        ("GET", format!("{tenant}/plugins"), &none, [403, 200, 200]),
        ("GET", format!("{tenant}/plugins/{plugin}/grants"), &none, [403, 403, 200]),
        ("GET", format!("{tenant}/tasks"), &none, [403, 200, 200]),
        ("GET", "/admin/tenants".to_owned(), &none, [403, 200, 200]),
        ("POST", "/admin/tenants".to_owned(), &json!({"name": "new"}), [403, 403, 201]),
        ("GET", "/admin/operator-keys".to_owned(), &none, [403, 403, 200]),
        ("POST", "/admin/operator-keys".to_owned(), &json!({}), [403, 403, 201]),
    ] {
        for (key, status) in keys.iter().zip(statuses) {
            let call = gateway.request(method, &target).key(key);
            let call = if body.is_null() { call } else { call.json(body) };
            let answer = call.send().await;
            assert_eq!(answer.status, status, "{method} {target}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn tasks_are_listed_read_stopped_and_deleted() {
    let model = ModelServer::start([Reply::Silence]).await;
    let settings = |settings: &mut Settings| model.add_to_settings(settings);
    let mut patient = Setup::new().settings(settings);
    patient = patient.settings(|settings| settings.http.sync_wait_max = Duration::from_secs(60));
    let gateway = patient.start().await;
    let done = gateway.ask(json!({"task_id": "chat", "user_id": "u-1"})).await.task_id();
    let slow = gateway.agent_with(|agent| agent.model = "scripted".to_owned()).await;
    let runs = slow.webhook("&asynchronous=true").json(&json!({})).expect(200).await.task_id();

    let list = async |filter: &str| {
        let page =
            gateway.admin_request("GET", &format!("/tasks{filter}")).expect(200).await.json();
        let items = page["items"].as_array().unwrap().iter();
        items.map(|task| text(&task["id"]).to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list("").await, [runs.clone(), done.clone()]);
    assert_eq!(list("?user_id=u-1").await, [done.as_str()]);
    assert_eq!(list(&format!("?agent_id={}", slow.agent)).await, [runs.as_str()]);
    assert_eq!(list("?page=2&per_page=1").await, [done.as_str()]);
    gateway.admin_request("GET", "/tasks?page=0").expect(422).await;
    gateway.admin_request("GET", "/tasks?status=asleep").expect(422).await;

    let read = gateway.admin_request("GET", "/tasks/chat").expect(200).await.json();
    assert_eq!((&read["id"], &read["status"]), (&json!(done), &json!("completed")));
    let stopped =
        gateway.admin_request("POST", &format!("/tasks/{runs}/stop")).expect(200).await.json();
    assert_eq!(stopped["status"], "stopped");
    assert_eq!(slow.wait_for_end(&runs).await["status"], "stopped");
    gateway.admin_request("DELETE", &format!("/tasks/{done}")).expect(204).await;
    gateway.admin_request("DELETE", &format!("/tasks/{done}")).expect(404).await;
    gateway.get(&format!("/v1/tasks/{done}")).key(&gateway.key).expect(404).await;
    assert_eq!(list("").await, [runs]);
}
