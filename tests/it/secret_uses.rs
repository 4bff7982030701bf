//! The allowed uses of a secret are set together with its value. A channel or a grants file can bind it for those
//! uses or fewer: without knowing the value, a verification key cannot be turned into a signing key.

use axum::Router;
use serde_json::{Value, json};
use wardgate::tenants::KeyHolder;

use crate::support::web::Web;
use crate::support::{Answer, Gateway};

const VALUE: &str = "a-value-0123456789";

async fn set(gateway: &Gateway, key: &str, body: Value) -> Answer {
    let target = format!("/admin/tenants/{}/secrets/partner", gateway.tenant);
    gateway.request("PUT", &target).key(key).json(&body).send().await
}

/// Applies a channel with this binding of the secret, with this key.
async fn apply(gateway: &Gateway, key: &str, binding: Value) -> Answer {
    let definition = json!({
        "name": "hook", "agent": "tested", "secrets": {"secret": binding},
        "verifier": "speaks-for-a-provider", "mapper": "speaks-for-a-provider",
    });
    let target = format!("/admin/tenants/{}/channels/hook", gateway.tenant);
    gateway.request("PUT", &target).key(key).json(&definition).send().await
}

#[tokio::test]
async fn a_secret_is_bound_for_what_it_was_set_for_and_signs_only_where_that_was_said() {
    let gateway = Gateway::start().await;
    gateway.install("speaks_for_a_provider", "").await;
    gateway.install("uses_secrets", "").await;
    let operator = gateway.operator_key();
    let admin = gateway.new_key(KeyHolder::Admin(gateway.tenant)).await;
    let [verifies, signs] = [json!(["verify"]), json!(["verify", "sign"])]
        .map(|uses| json!({"secret": "partner", "use": uses}));
    let grant = async |line: &str| {
        let call = gateway.admin_request("PUT", "/plugins/uses-secrets/grants");
        call.text("application/toml", line.to_owned()).send().await
    };
    let [grants_verify, grants_sign] = ["verify", "sign"]
        .map(|one| format!("[secrets]\na = {{ secret = \"partner\", use = [\"{one}\"] }}\n"));
    let grants_send = "[credentials.api]\nsecret = \"partner\"\nheader = \"x-key\"\n";

    let kept = set(&gateway, &operator, json!({"value": VALUE})).await.json();
    assert_eq!(
        (&kept["use"], &kept["set_by"]),
        (&json!(["verify", "compare", "send"]), &json!("operator"))
    );
    for by in [&admin, &operator] {
        assert_eq!(apply(&gateway, by, verifies.clone()).await.status, 200);
        let refused = apply(&gateway, by, signs.clone()).await;
        assert_eq!(refused.status, 422, "{}", refused.text);
        let message = refused.detail();
        for part in [
            "[secrets] secret",
            "the secret partner",
            "not for sign",
            "--use verify,compare,sign,send",
        ] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
    assert_eq!(grant(&grants_verify).await.status, 200);
    assert_eq!(grant(grants_send).await.status, 200);
    let refused = grant(&grants_sign).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    assert!(refused.detail().contains("[secrets] a: the secret partner"), "{}", refused.text);

    set(&gateway, &operator, json!({"value": VALUE, "use": ["verify", "sign"]})).await;
    assert_eq!(apply(&gateway, &admin, signs).await.status, 200);
    assert_eq!(grant(&grants_sign).await.status, 200);
    let refused = grant(grants_send).await;
    assert_eq!(refused.status, 422, "{}", refused.text);
    assert!(refused.detail().contains("[credentials.api]: the secret partner"), "{}", refused.text);
    // The uses of a secret that is not set yet cannot be checked.
    let later = json!({"secret": "later", "use": ["sign"]});
    assert_eq!(apply(&gateway, &admin, later).await.status, 200);
}

#[tokio::test]
async fn what_an_operator_lets_a_secret_be_used_for_an_admin_narrows_and_never_widens() {
    let gateway = Gateway::start().await;
    let operator = gateway.operator_key();
    let admin = gateway.new_key(KeyHolder::Admin(gateway.tenant)).await;
    let listed =
        async || gateway.admin_request("GET", "/secrets").expect(200).await.json()[0].clone();
    set(&gateway, &operator, json!({"value": VALUE, "use": ["verify", "compare"]})).await;

    // An admin may set another value and fewer uses.
    let kept = set(&gateway, &admin, json!({"value": "another-value"})).await.json();
    assert_eq!(
        (&kept["use"], &kept["set_by"]),
        (&json!(["verify", "compare"]), &json!("operator"))
    );
    let kept =
        set(&gateway, &admin, json!({"value": "another-value", "use": ["verify"]})).await.json();
    assert_eq!((&kept["use"], &kept["set_by"]), (&json!(["verify"]), &json!("operator")));
    let before = listed().await;
    for more in [json!(["verify", "sign"]), json!(["compare"]), json!(["send"])] {
        let refused = set(&gateway, &admin, json!({"value": "mine", "use": more})).await;
        assert_eq!(refused.status, 403, "{}", refused.text);
        assert!(refused.detail().contains("only an operator"), "{}", refused.text);
        assert_eq!(listed().await, before, "nothing has changed");
    }
    let widened = set(&gateway, &operator, json!({"value": VALUE, "use": ["sign"]})).await.json();
    assert_eq!(widened["use"], json!(["sign"]));

    // An admin may allow any use of a secret that an admin set.
    let partner = format!("/admin/tenants/{}/secrets/partner", gateway.tenant);
    gateway.delete(&partner).key(&admin).expect(204).await;
    let kept = set(&gateway, &admin, json!({"value": "mine"})).await.json();
    assert_eq!(
        (&kept["use"], &kept["set_by"]),
        (&json!(["verify", "compare", "send"]), &json!("admin"))
    );
    let kept = set(&gateway, &admin, json!({"value": "mine", "use": ["sign"]})).await.json();
    assert_eq!(kept["use"], json!(["sign"]));
    // Once an operator has set it, an admin may only narrow its uses.
    set(&gateway, &operator, json!({"value": VALUE})).await;
    assert_eq!(
        set(&gateway, &admin, json!({"value": "mine", "use": ["verify"]})).await.status,
        403
    );
}

#[tokio::test]
async fn a_secret_that_is_narrowed_later_is_not_set_up_for_who_binds_it_for_more() {
    let gateway = Gateway::start().await;
    let operator = gateway.operator_key();
    gateway.install("speaks_for_a_provider", "").await;
    let every = json!(["verify", "compare", "sign", "send"]);
    let narrow =
        async |uses: Value| set(&gateway, &operator, json!({"value": VALUE, "use": uses})).await;
    narrow(every.clone()).await;
    let bound = json!({"secret": "partner", "use": ["compare", "sign"]});
    let url = apply(&gateway, &operator, bound).await.json()["url"].as_str().unwrap().to_owned();
    let hook = url.split_once("/hooks/").map(|(_, id)| format!("/hooks/{id}")).unwrap();
    let sent = async || gateway.post(&hook).header("x-token", VALUE).json(&json!({})).send().await;
    let notes = async || {
        gateway.admin_request("GET", "/channels/hook").expect(200).await.json()["notes"].to_string()
    };
    let grants = "[secrets]\na = { secret = \"partner\", use = [\"sign\", \"verify\"] }\n";
    let agent = gateway.agent_with_tool("uses_secrets", grants).await;
    let signed = async || {
        let ask = json!({"name": "a", "algorithm": "sha256", "message": "m"});
        let answer = agent.ask(json!({"prompt": format!("secret {ask}")})).await;
        answer.report()["tools"][0]["result"].clone()
    };

    assert_eq!(sent().await.status, 200);
    assert!(signed().await["signature"].is_string());
    assert_eq!(notes().await, "[]");

    narrow(json!(["verify", "compare"])).await;
    let refused = sent().await;
    assert_eq!(refused.status, 503, "{}", refused.text);
    assert!(!refused.text.contains("partner"), "strangers learn nothing: {}", refused.text);
    assert_eq!(signed().await["code"], "forbidden");
    assert!(notes().await.contains("the secret partner") && notes().await.contains("not for sign"));

    narrow(every).await;
    assert_eq!(sent().await.status, 200);
    assert!(signed().await["signature"].is_string());
}

#[tokio::test]
async fn a_verifier_that_may_not_compare_is_not_set_up_rather_than_the_sender_wrong() {
    let gateway = Gateway::start().await;
    let operator = gateway.operator_key();
    gateway.install("speaks_for_a_provider", "").await;
    set(&gateway, &operator, json!({"value": VALUE, "use": ["verify"]})).await;
    let url = apply(&gateway, &operator, json!("partner")).await.json()["url"]
        .as_str()
        .unwrap()
        .to_owned();
    let hook = url.split_once("/hooks/").map(|(_, id)| format!("/hooks/{id}")).unwrap();
    let sent = async || gateway.post(&hook).header("x-token", VALUE).json(&json!({})).send().await;
    assert_eq!(sent().await.status, 503);
    set(&gateway, &operator, json!({"value": VALUE, "use": ["compare"]})).await;
    assert_eq!(sent().await.status, 200);
}

#[tokio::test]
async fn a_secret_that_may_not_be_sent_goes_along_with_nothing() {
    let gateway = Gateway::start().await;
    let operator = gateway.operator_key();
    set(&gateway, &operator, json!({"value": VALUE})).await;
    let (seen_by, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let web = Web::serve(Router::new().fallback(async move || seen_by.send(()).unwrap())).await;
    let grants = format!(
        "[[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = {}\nnetworks = [\"127.0.0.0/8\"]\n\
         credentials = [\"api\"]\n[credentials.api]\nsecret = \"partner\"\nheader = \"x-key\"\n",
        web.port
    );
    let agent = gateway.agent_with_tool("calls_egress", &grants).await;
    let call = json!({"url": format!("http://127.0.0.1:{}/", web.port), "credential": "api"});
    let fetched = async || {
        let answer = agent.ask(json!({"prompt": format!("fetch {call}")})).await;
        answer.report()["tools"][0]["result"].clone()
    };
    assert_eq!(fetched().await["status"], 200);
    seen.try_recv().unwrap();
    set(&gateway, &operator, json!({"value": VALUE, "use": ["verify"]})).await;
    let refused = fetched().await;
    assert_eq!(refused["code"], "forbidden", "{refused}");
    assert!(refused["message"].as_str().unwrap().contains("cannot be attached"), "{refused}");
    assert!(seen.try_recv().is_err());
}
