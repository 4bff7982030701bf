//! Servers that are called with access tokens: of the client itself, or by a refresh token that is rotated.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{ECHO, gateway, notes, put};
use crate::support::Gateway;
use crate::support::mcp_server::{McpServer, Revision};
use crate::support::model_server::{ModelServer, Reply};
use crate::support::oauth_server::OauthServer;

/// Stores the secrets of an OAuth client, and a server that is called with its tokens.
async fn put_with_oauth(gateway: &Gateway, server: &McpServer, oauth: &OauthServer, more: Value) {
    for (name, value) in [("client", "secret-of-the-client"), ("refresh", "refresh-0-of-oauth")] {
        let path = format!("/secrets/{name}");
        gateway.admin_request("PUT", &path).json(&json!({"value": value})).expect(200).await;
    }
    let mut auth = json!({
        "type": "oauth2", "token_url": oauth.token_url(), "client_id": "gateway",
        "client_secret": "client",
    });
    auth.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    put(gateway, "crm", json!({"url": server.url(), "auth": auth})).await;
}

#[tokio::test]
async fn a_token_of_the_client_is_for_its_server_and_is_kept() {
    let call = Reply::Tool("crm__repeat_key", r#"{"text":""}"#);
    let model = ModelServer::start([call, Reply::Text("done")]).await;
    let (server, oauth) =
        (McpServer::start(Revision::WithSessions).await, OauthServer::start().await);
    let (gateway, agent) = gateway(&model, &server).await;
    put_with_oauth(&gateway, &server, &oauth, json!({"scope": "read write"})).await;
    server.require("Bearer access-1-of-oauth");
    for _ in 0..2 {
        let answer = agent.ask(json!({"prompt": "x"})).await;
        assert_eq!(answer.json()["status"], "completed");
        let seen = json!([gateway.thread(&answer.task_id()).await, model.requests()]).to_string();
        assert!(!seen.contains("of-oauth"), "a server that repeats the token: {seen}");
    }
    let requests = oauth.requests();
    let [(authorization, form)] = &requests[..] else { panic!("one request: {requests:?}") };
    // gateway:secret-of-the-client
    assert_eq!(authorization, "Basic Z2F0ZXdheTpzZWNyZXQtb2YtdGhlLWNsaWVudA==");
    assert_eq!(form["grant_type"], "client_credentials");
    assert_eq!((&*form["resource"], &*form["scope"]), (server.url().as_str(), "read write"));
    let agent =
        gateway.get(&format!("/v1/agents/{}", agent.agent)).key(&agent.key).expect(200).await;
    assert_eq!(agent.json()["graph"][0]["settings"]["mcp_settings"]["auth_type"], "oauth2");
}

#[tokio::test]
async fn fifty_runs_with_a_token_that_is_refused_cause_one_refresh() {
    let model =
        ModelServer::start([Reply::ByTurn(Arc::new(vec![ECHO, Reply::Text("done")]))]).await;
    let (server, oauth) = (McpServer::start(Revision::Stateless).await, OauthServer::start().await);
    let (gateway, agent) = gateway(&model, &server).await;
    put_with_oauth(&gateway, &server, &oauth, json!({"refresh_token": "refresh"})).await;
    agent.ask(json!({"prompt": "x"})).await;
    assert_eq!(oauth.requests().len(), 1);
    // The server ends it before its time.
    server.require("Bearer access-2-of-oauth");
    let runs = (0..50).map(|_| agent.ask(json!({"prompt": "x"})));
    for answer in futures::future::join_all(runs).await {
        assert_eq!(answer.json()["status"], "completed");
    }
    assert_eq!(server.requests_of("tools/call").len(), 51, "no call is made twice");
    let requests = oauth.requests();
    let used: Vec<_> = requests.iter().map(|(_, form)| form["refresh_token"].as_str()).collect();
    assert_eq!(used, ["refresh-0-of-oauth", "refresh-1-of-oauth"]);
    // The newest is kept for the next process.
    let vault = gateway.services.vault.clone();
    let name = "refresh".parse().unwrap();
    let opened = vault.open(gateway.tenant, [&name]).await.unwrap();
    assert_eq!(opened.secrets[&name].versions.newest(), Some(b"refresh-2-of-oauth".as_slice()));
    let clear = b"of-oauth";
    assert!(!gateway.home.database_bytes().windows(clear.len()).any(|part| part == clear));
}

#[tokio::test]
async fn an_authorization_server_that_denies_is_named_without_its_words() {
    let model = ModelServer::start([Reply::Text("done")]).await;
    let (server, oauth) = (McpServer::start(Revision::Stateless).await, OauthServer::start().await);
    let (gateway, agent) = gateway(&model, &server).await;
    put_with_oauth(&gateway, &server, &oauth, json!({"scope": "denied"})).await;
    let answer = agent.ask(json!({"prompt": "x"})).await;
    let notes = notes(&agent, &answer.task_id()).await;
    let why =
        "its authorization server grants no token: it answers with HTTP status 400 (invalid_grant)";
    assert!(notes.contains(why) && !notes.contains("secret-of"), "{notes}");
    assert_eq!(server.requests().len(), 0, "nothing is sent without a token");
}
