//! Tools of plugins without an agent: those that the operator publishes, with the grants that they have.

use serde_json::json;
use wardgate::tenants::KeyHolder;

use super::{LEGACY, STATELESS, call, error, failure, listed, result, text};
use crate::support::{Client, Gateway, guest_path};

const PUBLISHED: &str = "publish-tools = true\n";

#[tokio::test]
async fn a_tool_is_callable_once_the_operator_publishes_it() {
    let gateway = Gateway::start().await;
    let sum = call("calculator__calculate", &json!({"expression": "6*7"}));
    let (code, _) = error(&gateway, STATELESS, "tools/call", sum.clone()).await;
    assert_eq!((code, listed(&gateway).await), (-32602, vec!["tested".to_owned()]));

    let admin = gateway.new_key(KeyHolder::Admin(gateway.tenant)).await;
    let grants = "/plugins/calculator/grants";
    let put = gateway.admin_request("PUT", grants).text("application/toml", PUBLISHED);
    assert_eq!(put.key(&admin).send().await.status, 400, "two keys");
    let path = format!("/admin/tenants/{}{grants}", gateway.tenant);
    let put = gateway.request("PUT", &path).text("application/toml", PUBLISHED).key(&admin);
    assert_eq!(put.send().await.status, 403, "an admin grants nothing");
    let put = gateway.admin_request("PUT", grants).text("application/toml", PUBLISHED);
    put.expect(200).await;

    assert_eq!(listed(&gateway).await, ["tested", "calculator__calculate"]);
    for revision in LEGACY.into_iter().chain([STATELESS]) {
        let answer = result(&gateway, revision, "tools/call", sum.clone()).await;
        assert_eq!(text(&answer), r#"{"expression":"6*7","value":42}"#, "{revision}");
    }
    let list = result(&gateway, STATELESS, "tools/list", json!({})).await;
    assert_eq!(list["tools"][1]["annotations"]["readOnlyHint"], true);
    let wrong = call("calculator__calculate", &json!({"expression": "6*"}));
    let wrong = result(&gateway, STATELESS, "tools/call", wrong).await;
    assert!(failure(&wrong).starts_with("calculator__calculate: "), "{wrong}");
    let (code, _) =
        error(&gateway, STATELESS, "tools/call", call("calculator__x", &json!({}))).await;
    assert_eq!(code, -32602);
    assert_eq!(gateway.recent_tasks().await.len(), 0, "no run was needed");

    // Published for this tenant only.
    let other = gateway.new_tenant("others").await;
    let key = gateway.new_key(KeyHolder::Tenant(other)).await;
    let stranger = Client::new(&gateway.listen, "", &key, "");
    assert_eq!(listed(&stranger).await, [""; 0]);
    assert_eq!(error(&stranger, STATELESS, "tools/call", sum).await.0, -32602);
}

#[tokio::test]
async fn what_an_admin_installs_in_its_place_is_not_published() {
    let gateway = Gateway::start().await;
    gateway.write_grants("calculator", PUBLISHED);
    gateway.reload_grants().await;
    assert_eq!(listed(&gateway).await, ["tested", "calculator__calculate"]);
    let admin = gateway.new_key(KeyHolder::Admin(gateway.tenant)).await;
    let component = std::fs::read(guest_path("destructive_tool")).unwrap();
    let path = format!("/admin/tenants/{}/plugins/calculator", gateway.tenant);
    let form = reqwest::multipart::Form::new()
        .part("component", reqwest::multipart::Part::bytes(component));
    gateway.request("PUT", &path).key(&admin).multipart(form).expect(200).await;
    assert_eq!(listed(&gateway).await, ["tested"]);
}

#[tokio::test]
async fn a_published_tool_has_no_more_than_its_grants() {
    let gateway = Gateway::start().await;
    gateway.write_grants("http-fetch", PUBLISHED);
    gateway.reload_grants().await;
    let fetch = call("http-fetch__http_fetch", &json!({"url": "https://example.com/"}));
    assert_eq!(listed(&gateway).await, ["tested", "http-fetch__http_fetch"]);
    let denied = result(&gateway, STATELESS, "tools/call", fetch).await;
    assert!(failure(&denied).contains("no grant"), "{denied}");
}
