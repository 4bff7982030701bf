//! A plugin that was built against `wardgate:plugin@0.1.0` works as long as that version is supported. The component
//! is a file that is never rebuilt (tests/guests/frozen). The tests call each of its roles, and together the roles
//! call every function of the interface at that version.

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Method};
use axum::routing::post;
use serde_json::{Value, json};
use wardgate::ids::{PluginDigest, RequestId};
use wardgate::request::{IncomingRequest, Payload};
use wardgate::sandbox::{Binding, Mapped, PluginError, Subject};

use crate::support::Gateway;
use crate::support::web::Web;

/// The digest of the component, as in its README.
const DIGEST: &str = "sha256:08c53d78008b2f7417c28c8f41393c11d9bfe387038256c07a929887de854f56";

const SECRET: &[u8] = b"00112233445566778899aabbccddeeff";
const BODY: &str = r#"{"text":"hello","list":[1,2]}"#;
/// HMAC-SHA256 of `BODY`, computed by Python's `hmac`: with the secret's text as the key, and with the bytes that it
/// encodes in hexadecimal.
const SIGNATURE: &str = "e3419307dcdd3562a5cf1e7e44555447cf931a733f167957632363e5eee85dc3";
const DECODED: &str = "f3826eb638b1b4d74dd6039f1f16e58e7733d8b28174e0ad01908b1d50801ba6";

const GRANTS: &str = "[settings]\ndeliver-to = \"http://127.0.0.1:PORT/sink\"\n\
    [secrets]\nsigning = { secret = \"frozen-key\", encoding = \"ENCODING\", \
    use = [\"verify\", \"sign\", \"compare\"] }\n[key-value]\nbytes = 4096\n\
    [[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = PORT\nmethods = [\"POST\"]\n\
    path = \"/sink\"\nnetworks = [\"127.0.0.0/8\"]\n[limits]\nwall_ms = 40000\n";

/// Installs the component with all the grants that it needs.
async fn frozen(gateway: &Gateway, port: u16) -> Arc<Binding> {
    frozen_with(gateway, port, "text").await
}

/// Like [`frozen`], with the secret bound in this encoding.
async fn frozen_with(gateway: &Gateway, port: u16, encoding: &str) -> Arc<Binding> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("guests/frozen/0.1.0/plugin.wasm");
    let component = std::fs::read(path).unwrap();
    assert_eq!(PluginDigest::of(&component).to_string(), DIGEST, "it is never built again");
    let secret = std::str::from_utf8(SECRET).unwrap();
    gateway.store_secret("frozen-key", secret, false).await;
    let (name, plugins) = ("frozen".parse().unwrap(), &gateway.services.plugins);
    let grants = GRANTS.replace("PORT", &port.to_string()).replace("ENCODING", encoding);
    plugins.install(gateway.tenant, &name, component, Some(&grants)).await.unwrap();
    plugins.binding(gateway.tenant, &name).await.unwrap()
}

/// The subject of a call: this request, and a task that has ended.
fn about(gateway: &Gateway, headers: &[(&'static str, &str)]) -> Subject {
    let body = Bytes::from_static(BODY.as_bytes());
    let headers =
        headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let request = IncomingRequest {
        method: Method::POST,
        path: "/hook".to_owned(),
        query: "a=1".to_owned(),
        headers: headers.collect::<HeaderMap>(),
        payload: Payload::parse(body.clone()).unwrap(),
        body,
        unreadable: None,
    };
    let task = r#"{"id":"t-1","status":"completed","result":{"deep":[true]}}"#;
    let task = Payload::parse(Bytes::from_static(task.as_bytes())).unwrap();
    Subject {
        request: Some(Arc::new(request)),
        task: Some(Arc::new(task)),
        ..Subject::new(gateway.tenant, gateway.agent.parse().unwrap(), RequestId::next())
    }
}

#[tokio::test]
async fn a_plugin_of_0_1_0_verifies() {
    let gateway = Gateway::start().await;
    let plugin = frozen(&gateway, 1).await;
    let signed = [("x-signature", SIGNATURE), ("x-sender", "somebody")];
    let principal = plugin.verify(about(&gateway, &signed)).await.value.unwrap();
    assert_eq!(principal.id.as_deref(), Some("somebody"));
    assert_eq!(principal.attributes, Some(json!({"frozen": true})));
    let forged = [("x-signature", &*SIGNATURE.replace('5', "6"))];
    let Err(PluginError::Failure(failure)) = plugin.verify(about(&gateway, &forged)).await.value
    else {
        panic!("it trusts a signature that is not good");
    };
    assert_eq!(failure.code, "unauthorized");
}

#[tokio::test]
async fn a_plugin_of_0_1_0_maps_and_gets() {
    let gateway = Gateway::start().await;
    let plugin = frozen(&gateway, 1).await;
    let subject = about(&gateway, &[("x-delivery", "d-7")]);
    let called = plugin.map_payload(subject, Some(r#"{"prompt":"text"}"#.to_owned())).await;
    let Mapped::Run { params, context, delivery_id } = called.value.unwrap() else {
        panic!("it starts a run");
    };
    assert_eq!(params, [("prompt".to_owned(), "hello".to_owned())]);
    assert_eq!(delivery_id.as_deref(), Some("d-7"));
    let context: Value = serde_json::from_str(context.unwrap().text()).unwrap();
    let expected = json!({
        "method": "POST", "path": "/hook", "query": "a=1", "headers": 1, "body": BODY.len(),
        "list": [1, 2], "spec": {"prompt": "text"}, "has_task": true, "request_id": true,
        "tenant": gateway.tenant.to_string(), "in_time": true, "name": "frozen",
    });
    assert_eq!(context, expected);
    assert!(called.logs.iter().any(|line| line.contains("mapping")), "{:?}", called.logs);
    let got = plugin.get_value(about(&gateway, &[]), "/result/deep".to_owned()).await;
    assert_eq!(got.value.unwrap().as_deref(), Some("[true]"));
    let none = plugin.get_value(about(&gateway, &[]), "/nothing".to_owned()).await;
    assert_eq!(none.value.unwrap(), None);
}

#[tokio::test]
async fn a_plugin_of_0_1_0_replies_and_delivers() {
    let sink = post(async |headers: HeaderMap, body: String| {
        assert_eq!(
            (headers["x-frozen"].to_str().unwrap(), body.as_str()),
            ("0.1.0", "\"completed\"")
        );
    });
    let web = Web::serve(Router::new().route("/sink", sink)).await;
    let gateway = Gateway::start().await;
    let plugin = frozen(&gateway, web.port).await;
    let reply = plugin.reply(about(&gateway, &[])).await.value.unwrap();
    assert_eq!((reply.status.as_u16(), &*reply.body), (201, b"\"completed\"".as_slice()));
    assert_eq!((reply.headers.len(), reply.headers["x-frozen"].as_bytes()), (1, &b"0.1.0"[..]));
    plugin.deliver(about(&gateway, &[])).await.value.unwrap();
}

#[tokio::test]
async fn a_plugin_of_0_1_0_gives_tools() {
    let gateway = Gateway::start().await;
    let plugin = frozen(&gateway, 1).await;
    let tools = plugin.list_tools(about(&gateway, &[])).await.value.unwrap();
    let names: Vec<_> = tools.iter().map(|tool| (tool.name.as_str(), tool.destructive)).collect();
    assert_eq!(names, [("sign", false), ("keep", false), ("settings", false)]);
    let call = async |name: &str| -> Value {
        let subject = about(&gateway, &[]);
        let called = plugin.call_tool(subject, name.to_owned(), BODY.to_owned()).await;
        serde_json::from_str(&called.value.unwrap()).unwrap()
    };
    // The binding decides how the secret is decoded, whatever encoding the plugin requests.
    let signed = call("sign").await;
    assert_eq!(signed, json!({"signature": SIGNATURE, "decoded": SIGNATURE, "matches": true}));
    for calls in 1..3 {
        let expected = json!({"calls": calls, "last": "kept", "gone": false, "keys": "calls last"});
        assert_eq!(call("keep").await, expected);
    }
    assert_eq!(call("settings").await, json!({"deliver-to": "http://127.0.0.1:1/sink"}));
}

#[tokio::test]
async fn a_plugin_of_0_1_0_has_the_key_that_its_binding_decodes() {
    let gateway = Gateway::start().await;
    let plugin = frozen_with(&gateway, 1, "hex").await;
    let called = plugin.call_tool(about(&gateway, &[]), "sign".to_owned(), BODY.to_owned()).await;
    let signed: Value = serde_json::from_str(&called.value.unwrap()).unwrap();
    assert_eq!(signed, json!({"signature": DECODED, "decoded": DECODED, "matches": false}));
}

#[tokio::test]
async fn a_plugin_of_0_1_0_says_what_settings_it_takes() {
    let gateway = Gateway::start().await;
    let plugin = frozen(&gateway, 1).await;
    let schema = plugin.config_schema(about(&gateway, &[])).await.value.unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(schema["properties"]["deliver-to"]["type"], "string");
    let check = async |settings: &str| {
        plugin.check_config(about(&gateway, &[]), settings.to_owned()).await.value.unwrap()
    };
    assert!(check(r#"{"deliver-to":"x"}"#).await.is_empty());
    let wrong = check("{}").await;
    assert_eq!(
        (wrong[0].pointer.as_str(), wrong[0].message.as_str()),
        ("/deliver-to", "it is missing")
    );
}
