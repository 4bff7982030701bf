//! Granted capabilities work; without a grant, a call is refused with a message that names the missing grant.
//! The guests are tools that make the host calls in their arguments and return the results.

mod credentials;
mod folder;
mod folder_costs;
mod values;

use serde_json::{Value, json};
use wardgate::tenants::KeyHolder;

use crate::support::{Client, Gateway};

/// Generous limits for guests that are not tested for time: CPU time is counted in ticks of the clock.
const RELAXED_LIMITS: &str = "[limits]\ncpu_ms = 5000\nwall_ms = 10000\ntool_cpu_ms = 10000\n";

/// An agent whose only plugin is this guest.
async fn agent(gateway: &Gateway, guest: &str, grants: &str) -> Client {
    gateway.agent_with_tool(guest, &format!("{grants}\n{RELAXED_LIMITS}")).await
}

/// Makes the agent call its tool, and returns the tool's result.
async fn tool_result(agent: &Client, tool: &str, arguments: Value) -> Value {
    let answer = agent.ask(json!({"prompt": format!("{tool} {arguments}")})).await;
    let called = answer.report()["tools"][0].clone();
    assert_eq!((&called["name"], &called["is_error"]), (&json!(tool), &json!(false)), "{called}");
    called["result"].clone()
}

const SIGNING: &str = "[secrets]\ngone = \"not-there\"\n\
     signing = { secret = \"webhook\", use = [\"sign\", \"verify\", \"compare\"] }\n";

#[tokio::test]
async fn a_granted_secret_signs_verifies_and_matches_and_no_other_opens() {
    let gateway = Gateway::start().await;
    gateway.store_secret("webhook", "key", false).await;
    gateway.store_secret("other", "another key", false).await;
    let agent = agent(&gateway, "uses_secrets", SIGNING).await;
    let ask = |name: &str, algorithm: &str| {
        json!({"name": name, "algorithm": algorithm, "presented": "key",
               "message": "The quick brown fox jumps over the lazy dog"})
    };
    let used = tool_result(&agent, "secret", ask("signing", "sha256")).await;
    // The well-known HMAC of this sentence under the key `key`.
    assert_eq!(
        used["signature"],
        "f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8"
    );
    for (what, holds) in [("verifies", true), ("verifies_another", false), ("matches", true)] {
        assert_eq!(used[what], holds, "{what}: {used}");
    }
    // The plugin opens neither the tenant's own name of the secret nor the tenant's other secrets.
    for name in ["webhook", "other", "host.key", "", "../signing"] {
        let refused = tool_result(&agent, "secret", ask(name, "sha256")).await;
        assert_eq!(refused["code"], "forbidden", "{refused}");
        let message = refused["message"].as_str().unwrap();
        assert!(
            message.contains("[secrets]") && message.contains("the plugin uses-secrets"),
            "{message}"
        );
    }
    let gone = tool_result(&agent, "secret", ask("gone", "sha256")).await;
    assert_eq!(gone["code"], "forbidden", "{gone}");
    // The tenant's name of the secret and the reason of the refusal are for the operator only.
    assert_eq!(gone["message"], "the secret \"gone\" cannot be used as it is bound");
    let unknown = tool_result(&agent, "secret", ask("signing", "md5")).await;
    assert!(unknown["message"].as_str().unwrap().contains("sha1, sha256, sha512"), "{unknown}");
}

#[tokio::test]
async fn a_secret_that_is_rotated_is_accepted_in_both_values() {
    let gateway = Gateway::start().await;
    gateway.store_secret("webhook", "older", false).await;
    gateway.store_secret("webhook", "newer", true).await;
    let agent = agent(&gateway, "uses_secrets", SIGNING).await;
    for (presented, matches) in [("older", true), ("newer", true), ("oldest", false)] {
        let ask = json!({"name": "signing", "algorithm": "sha256", "presented": presented});
        assert_eq!(tool_result(&agent, "secret", ask).await["matches"], matches, "{presented}");
    }
}

#[tokio::test]
async fn time_and_randomness_are_live_unless_the_grant_says_otherwise() {
    let gateway = Gateway::start().await;
    let agent = agent(&gateway, "tells_time", "").await;
    let number = |seen: &Value, name: &str| seen[name].as_u64().unwrap();
    let first = tool_result(&agent, "time", json!({})).await;
    assert!(number(&first, "passed") > 0, "{first}");
    assert!(number(&first, "second") >= number(&first, "first"), "{first}");
    assert!(number(&first, "first") > 1_700_000_000_000_000, "it is after 2023: {first}");
    let second = tool_result(&agent, "time", json!({})).await;
    assert!(number(&second, "first") > number(&first, "second"));
    assert_ne!(second["random"], first["random"]);
}

#[tokio::test]
async fn frozen_clocks_stand_still_and_fixed_randomness_repeats() {
    let gateway = Gateway::start().await;
    let grants = "clocks = \"frozen\"\nrandom = \"fixed\"";
    let agent = agent(&gateway, "tells_time", grants).await;
    let first = tool_result(&agent, "time", json!({})).await;
    assert_eq!((&first["passed"], &first["second"]), (&json!(0), &first["first"]));
    let second = tool_result(&agent, "time", json!({})).await;
    assert_ne!(second["first"], first["first"], "each call has its own moment");
    assert_eq!(second["random"], first["random"]);
}

#[tokio::test]
async fn a_tenants_admin_cannot_grant() {
    let gateway = Gateway::start().await;
    let name = gateway.install("calls_egress", "").await;
    let key = gateway.new_key(KeyHolder::Admin(gateway.tenant)).await;
    let target = format!("/admin/tenants/{}/plugins/{name}/grants", gateway.tenant);
    let put = gateway.request("PUT", &target).key(&key).body("[secrets]\na = \"b\"\n");
    put.expect(403).await;
}
