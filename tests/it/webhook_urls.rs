//! An agent's webhook URL is created once and stays valid until its tenant rotates or revokes it (row D5).

use serde_json::{Value, json};
use tokio::task::JoinSet;
use wardgate::ids::AgentId;
use wardgate::tenants::Precondition;

use crate::support::{Call, Client, Gateway, GatewayProcess, Home, Setup, agent};

/// The path of the webhook URL in an answer; the port changes with a restart.
fn path(answer: &Value) -> String {
    let url = answer["webhook_url"].as_str().unwrap_or_else(|| panic!("no URL: {answer}"));
    let at = url.find("/api/webhooks/agents/").unwrap();
    url[at..].to_owned()
}

fn ask(caller: &Client) -> Call {
    caller.get(&format!("/api/agent_webhook?id={}", caller.agent))
}

fn rotate(caller: &Client) -> Call {
    caller.post(&format!("/api/agent_webhook/rotate?id={}", caller.agent)).key(&caller.key)
}

fn revoke(caller: &Client) -> Call {
    let target = format!("/api/agent_webhook?id={}", caller.agent);
    caller.request("DELETE", &target).key(&caller.key)
}

#[tokio::test]
async fn d5_the_url_is_the_same_however_often_and_by_whomever_it_is_asked_for() {
    let gateway = Gateway::start().await;
    let first = ask(&gateway).key(&gateway.key).expect(200).await.json();
    assert_eq!(first["success"], true);
    assert_eq!(path(&first), format!("/api/webhooks/agents/{}", gateway.token));
    let operator = gateway.operator_key();
    for _ in 0..5 {
        for key in [&gateway.key, &operator] {
            assert_eq!(ask(&gateway).key(key).expect(200).await.json(), first);
            let bearer = ask(&gateway).header("authorization", &format!("Bearer {key}"));
            assert_eq!(bearer.expect(200).await.json(), first);
        }
    }
    gateway.post(&path(&first)).json(&json!({"x": 1})).expect(200).await;
}

#[tokio::test]
async fn the_url_begins_with_the_public_one() {
    let public = |settings: &mut wardgate::settings::Settings| {
        settings.http.public_url = "https://gateway.example/below/".to_owned();
    };
    let gateway = Setup::new().settings(public).start().await;
    let asked = ask(&gateway).key(&gateway.key).expect(200).await.json();
    let url = format!("https://gateway.example/below/api/webhooks/agents/{}", gateway.token);
    assert_eq!(asked["webhook_url"], url);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d5_who_asks_first_at_the_same_time_gets_the_same_url() {
    let gateway = Gateway::start().await;
    // Unlike the agents of the fixtures, this one has no token yet.
    let id = AgentId::random();
    let store = &gateway.folder.store;
    store.put_agent(gateway.tenant, id, &agent("new"), Precondition::Absent).await.unwrap();
    let mut asked = JoinSet::new();
    for _ in 0..20 {
        let call = gateway.get(&format!("/api/agent_webhook?id={id}")).key(&gateway.key);
        asked.spawn(async move { path(&call.expect(200).await.json()) });
    }
    let urls = asked.join_all().await;
    assert!(urls.iter().all(|url| *url == urls[0]), "{urls:?}");
    gateway.post(&urls[0]).json(&json!({"x": 1})).expect(200).await;
    // 256 bits in base64url, different for each agent.
    let (_, token) = urls[0].rsplit_once('/').unwrap();
    assert!(token.len() >= 43 && token != gateway.token, "{token}");
}

#[tokio::test]
async fn d5_rotating_ends_the_old_url_at_once_and_the_new_one_works() {
    let gateway = Gateway::start().await;
    let mut old = path(&ask(&gateway).key(&gateway.key).expect(200).await.json());
    for _ in 0..3 {
        gateway.post(&old).json(&json!({"x": 1})).expect(200).await;
        let new = path(&rotate(&gateway).expect(200).await.json());
        assert_ne!(new, old);
        let ended = gateway.post(&old).json(&json!({"x": 1})).expect(404).await;
        assert_eq!(ended.json(), json!({"success": false, "message": "Agent not found"}));
        gateway.post(&new).json(&json!({"x": 1})).expect(200).await;
        assert_eq!(path(&ask(&gateway).key(&gateway.key).expect(200).await.json()), new);
        old = new;
    }
    assert_eq!(gateway.stored_task_count().await, 6);
}

#[tokio::test]
async fn d5_a_revoked_url_is_gone_until_it_is_rotated() {
    let gateway = Gateway::start().await;
    gateway.trigger().json(&json!({"x": 1})).expect(200).await;
    for _ in 0..2 {
        assert_eq!(revoke(&gateway).expect(200).await.json(), json!({"success": true}));
        gateway.trigger().json(&json!({"x": 1})).expect(404).await;
        let none = ask(&gateway).key(&gateway.key).expect(404).await.json();
        assert_eq!(none["success"], false);
        assert!(none["message"].as_str().unwrap().contains("rotate"), "{none}");
    }
    // On the admin API, an agent without a URL is not an error.
    let admin_path = format!("/agents/{}/webhook", gateway.agent);
    let seen = gateway.admin_request("GET", &admin_path).expect(200).await.json();
    assert_eq!(seen, json!({"url": null}));
    let new = path(&rotate(&gateway).expect(200).await.json());
    assert!(!new.ends_with(&gateway.token));
    gateway.post(&new).json(&json!({"x": 1})).expect(200).await;
    gateway.trigger().json(&json!({"x": 1})).expect(404).await;
}

#[tokio::test]
async fn d5_the_admins_routes_and_docsgpts_are_of_one_url() {
    let gateway = Gateway::start().await;
    let admin_path = format!("/agents/{}/webhook", gateway.agent);
    let shown = ask(&gateway).key(&gateway.key).expect(200).await.json();
    let seen = gateway.admin_request("GET", &admin_path).expect(200).await.json();
    assert_eq!(seen["url"], shown["webhook_url"]);
    let new =
        gateway.admin_request("POST", &format!("{admin_path}/rotate")).expect(200).await.json();
    let shown = ask(&gateway).key(&gateway.key).expect(200).await.json();
    assert_eq!(new["url"], shown["webhook_url"]);
    gateway.trigger().json(&json!({"x": 1})).expect(404).await;
    gateway.post(&path(&shown)).json(&json!({"x": 1})).expect(200).await;
    gateway.admin_request("DELETE", &admin_path).expect(204).await;
    gateway.post(&path(&shown)).json(&json!({"x": 1})).expect(404).await;
    ask(&gateway).key(&gateway.key).expect(404).await;
}

#[tokio::test]
async fn d5_urls_are_the_same_after_a_restart() {
    let gateway = Gateway::start().await;
    let rotated = gateway.agent_with(|_| {}).await;
    let revoked = gateway.agent_with(|_| {}).await;
    let url = path(&rotate(&rotated).expect(200).await.json());
    revoke(&revoked).expect(200).await;
    let (first, home) = (gateway.token.clone(), gateway.stop().await);

    let gateway = Setup::new().home(home).start().await;
    let here = |caller: &Client| Client { listen: gateway.listen.clone(), ..caller.clone() };
    assert_eq!(gateway.token, first);
    gateway.trigger().json(&json!({"x": 1})).expect(200).await;
    let (rotated, revoked) = (here(&rotated), here(&revoked));
    assert_eq!(path(&ask(&rotated).key(&rotated.key).expect(200).await.json()), url);
    gateway.post(&url).json(&json!({"x": 1})).expect(200).await;
    rotated.trigger().json(&json!({"x": 1})).expect(404).await;
    ask(&revoked).key(&revoked.key).expect(404).await;
    revoked.trigger().json(&json!({"x": 1})).expect(404).await;
}

#[tokio::test]
async fn d5_who_may_not_know_the_url_is_told_why_in_docsgpts_shape() {
    let gateway = Gateway::start().await;
    let nobodys = "/api/agent_webhook?id=00000000-0000-4000-8000-000000000000";
    for (call, status, message) in [
        (ask(&gateway), 401, "API key not specified"),
        (ask(&gateway).key("wrong"), 403, "Invalid API key"),
        (ask(&gateway).header("authorization", "Basic eDp5"), 401, "API key not specified"),
        (gateway.get("/api/agent_webhook").key(&gateway.key), 400, "ID is required"),
        (gateway.get("/api/agent_webhook?id=").key(&gateway.key), 400, "ID is required"),
        (gateway.get(nobodys).key(&gateway.key), 404, "Agent not found"),
        (gateway.get("/api/agent_webhook?id=x").key(&gateway.key), 404, "Agent not found"),
        (gateway.get("/api/agent_webhook?id=x").key("wrong"), 403, "Invalid API key"),
    ] {
        let answer = call.expect(status).await;
        assert_eq!(answer.json(), json!({"success": false, "message": message}));
    }
    // The key is accepted in a header only, because URLs end up in logs.
    let in_query = format!("/api/agent_webhook?id={}&x-api-key={}", gateway.agent, gateway.key);
    gateway.get(&in_query).expect(401).await;
}

#[tokio::test]
async fn d5_a_head_says_nothing_and_changes_nothing() {
    let gateway = Gateway::start().await;
    let target = format!("/api/agent_webhook?id={}", gateway.agent);
    let head = gateway.request("HEAD", &target).key(&gateway.key).expect(200).await;
    assert_eq!(head.text, "");
    gateway.request("HEAD", &target).expect(401).await;
    // Only POST rotates.
    let rotating = format!("/api/agent_webhook/rotate?id={}", gateway.agent);
    for method in ["HEAD", "GET", "PUT", "DELETE"] {
        gateway.request(method, &rotating).key(&gateway.key).expect(405).await;
    }
    gateway.trigger().json(&json!({"x": 1})).expect(200).await;
}

#[tokio::test]
async fn d5_no_url_that_was_shown_is_in_logs_or_the_database() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &["--log", "trace"]);
    let mut urls = vec![path(&ask(&gateway).key(&gateway.key).expect(200).await.json())];
    for _ in 0..2 {
        urls.push(path(&rotate(&gateway).expect(200).await.json()));
    }
    for url in &urls {
        gateway.post(url).json(&json!({"x": 1})).send().await;
        gateway.get(url).send().await;
    }
    revoke(&gateway).expect(200).await;
    gateway.post(&urls[2]).json(&json!({"x": 1})).expect(404).await;
    let database = home.database_bytes();
    let (status, logs) = tokio::task::spawn_blocking(move || gateway.terminate()).await.unwrap();
    assert!(status.success() && logs.contains("DEBUG"), "the log was not talkative");
    for url in urls {
        let (_, token) = url.rsplit_once('/').unwrap();
        assert!(!logs.contains(token), "a token is in the log");
        let is_stored = database.windows(token.len()).any(|part| part == token.as_bytes());
        assert!(!is_stored, "a token is in the database");
    }
}
