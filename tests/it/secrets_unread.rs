//! Host calls on a secret reveal nothing about its bytes: the binding determines prefix, encoding and uses, and
//! everything that a plugin tries has the same outcome.

use serde_json::{Value, json};
use wardgate::tenants::KeyHolder;

use crate::support::{Client, Gateway};

/// Secrets in the formats of providers.
const SECRETS: [&str; 6] = [
    "9f86d081884c7d659a2feaa0c55ad015",
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "v1,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "123456789:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw",
    "correct horse battery staple",
];

/// Ways to bind a secret.
const BINDINGS: [&str; 5] = [
    "\"partner\"",
    "{ secret = \"partner\", use = [\"sign\", \"verify\", \"compare\"] }",
    "{ secret = \"partner\", prefix = \"whsec_\", encoding = \"base64\", use = [\"sign\", \"verify\"] }",
    "{ secret = \"partner\", encoding = \"hex\", use = [\"sign\", \"verify\", \"compare\"] }",
    "{ secret = \"partner\", use = [] }",
];

/// The distinct outcomes of the guest's attempts, and the count of each.
async fn outcomes(agent: &Client, guess: &str) -> Vec<(String, u64)> {
    let prompt = format!("probe {}", json!({"guess": guess}));
    let report = agent.ask(json!({"prompt": prompt})).await.report();
    let reported = report["tools"][0]["result"].as_object().unwrap_or_else(|| panic!("{report}"));
    reported.iter().map(|(outcome, times)| (outcome.clone(), times.as_u64().unwrap())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_tries_every_prefix_and_encoding_sees_one_outcome() {
    let gateway = Gateway::start().await;
    gateway.install("probes_secret", "").await;
    let limits = "[limits]\ntool_cpu_ms = 20000\n";
    for binding in BINDINGS {
        let grants = format!("[secrets]\nsigning = {binding}\n{limits}");
        gateway
            .admin_request("PUT", "/plugins/probes-secret/grants")
            .text("application/toml", grants)
            .expect(200)
            .await;
        let agent = gateway.agent_with(|agent| {
            agent.tools = vec!["probes-secret".parse().unwrap()];
            agent.allow_destructive_tools = true;
        });
        let agent = agent.await;
        for secret in SECRETS {
            gateway.store_secret("partner", secret, false).await;
            // The guess is the secret itself: even a plugin that knows the secret learns nothing from pieces of it.
            let found = outcomes(&agent, secret).await;
            assert_eq!(found.len(), 1, "{binding} {secret}: {found:?}");
            assert!(found[0].1 > 600, "{found:?}");
        }
    }
}

#[tokio::test]
async fn a_use_that_the_binding_does_not_name_is_refused() {
    let gateway = Gateway::start().await;
    gateway.store_secret("partner", "key", false).await;
    let used = async |uses: &str| -> Value {
        let binding = format!("{{ secret = \"partner\"{uses} }}");
        let agent =
            gateway.agent_with_tool("uses_secrets", &format!("[secrets]\na = {binding}\n")).await;
        let ask = json!({"name": "a", "algorithm": "sha256", "message": "m", "presented": "key"});
        let answer = agent.ask(json!({"prompt": format!("secret {ask}")})).await;
        answer.report()["tools"][0]["result"].clone()
    };
    let all = used(", use = [\"sign\", \"verify\", \"compare\"]").await;
    assert_eq!((&all["verifies"], &all["matches"]), (&json!(true), &json!(true)), "{all}");
    let forged = used("").await;
    assert_eq!(forged["code"], "forbidden", "nothing signs unless its binding says so: {forged}");
    assert!(forged["message"].as_str().unwrap().contains("use = [\"sign\"]"), "{forged}");
    let unverified = used(", use = [\"sign\"]").await;
    assert!(unverified["message"].as_str().unwrap().contains("use = [\"verify\"]"), "{unverified}");
    let uncompared = used(", use = [\"sign\", \"verify\"]").await;
    assert_eq!(uncompared["matches"], false, "{uncompared}");
}

#[tokio::test]
async fn prefixes_are_a_short_list_so_that_a_tenants_admin_cannot_try_them_out() {
    let gateway = Gateway::start().await;
    let admin = gateway.new_key(KeyHolder::Admin(gateway.tenant)).await;
    let target = format!("/admin/tenants/{}/channels/hook", gateway.tenant);
    let apply = async |binding: Value| {
        let definition = json!({"name": "hook", "agent": "tested", "verifier": "hmac",
                                "settings": {"header": "x-s"}, "secrets": {"secret": binding}});
        gateway.request("PUT", &target).key(&admin).json(&definition).send().await
    };
    for good in [
        json!("partner"),
        json!({"secret": "partner"}),
        json!({"secret": "partner", "prefix": "whsec_", "encoding": "base64"}),
        json!({"secret": "partner", "prefix": "v1,whsec_", "use": ["verify"]}),
    ] {
        let applied = apply(good.clone()).await;
        assert_eq!(applied.status, 200, "{}", applied.text);
        assert_eq!(
            applied.json()["definition"]["secrets"]["secret"],
            match &good {
                Value::Object(table) if table.len() == 1 => json!("partner"),
                good => good.clone(),
            }
        );
    }
    for wrong in [
        json!({"secret": "partner", "prefix": "w"}),
        json!({"secret": "partner", "prefix": ""}),
        json!({"secret": "partner", "encoding": "base32"}),
        json!({"secret": "partner", "use": ["read"]}),
        json!({"secret": "partner", "uses": ["verify"]}),
        json!({"prefix": "whsec_"}),
    ] {
        let refused = apply(wrong.clone()).await;
        assert_eq!(refused.status, 422, "{wrong}: {}", refused.text);
        assert!(refused.detail().contains("only `secret` is required"), "{}", refused.text);
    }
}
