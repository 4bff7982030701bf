//! Responses that plugins write: in a browser they cannot act as the gateway, and if one cannot be sent, the error
//! names the plugin.

use serde_json::{Value, json};

use crate::support::{Answer, Call, Client, Gateway};

/// The surfaces on which a plugin can write the response.
struct Surfaces {
    gateway: Gateway,
    agent: Client,
    hook: String,
}

impl Surfaces {
    async fn start() -> Self {
        let gateway = Gateway::start().await;
        let agent = gateway.agent_with_mapper("replies_with", "").await;
        let definition = json!({
            "name": "hook", "agent": "tested", "verifier": "none", "mapper": "replies-with",
            "replier": "replies-with", "answer": "wait",
        });
        let hook = gateway.apply_channel(definition).await;
        Self { gateway, agent, hook }
    }

    /// A call on each surface, and whether its sender is unauthenticated.
    fn calls(&self, payload: &Value) -> [(Call, bool); 4] {
        let mut runs = payload.clone();
        runs["run"] = json!(true);
        [
            (self.agent.webhook("").json(payload), false),
            (self.agent.trigger().json(payload), false),
            (self.gateway.post(&self.hook).json(payload), true),
            (self.gateway.post(&self.hook).json(&runs), true),
        ]
    }

    async fn answers(&self, payload: Value) -> Vec<(Answer, bool)> {
        let mut answers = Vec::new();
        for (call, is_stranger) in self.calls(&payload) {
            answers.push((call.answered_by_a_plugin().send().await, is_stranger));
        }
        answers
    }
}

#[tokio::test]
async fn a_plugins_answer_is_of_no_origin_and_loses_what_would_hold_for_the_gateways() {
    let surfaces = Surfaces::start().await;
    for (name, value, is_kept) in [
        ("x-handshake", "yes", true),
        ("location", "https://example.com/", true),
        ("set-cookie", "session=1; path=/", false),
        ("set_cookie", "session=1; path=/", false),
        ("surrogate-control", "max-age=9", false),
        ("cdn-cache-control", "max-age=9", false),
        ("x-permitted-cross-domain-policies", "all", false),
        ("Set-Cookie", "session=1; path=/", false),
        ("clear-site-data", "\"*\"", false),
        ("service-worker-allowed", "/", false),
        ("refresh", "0; url=/docs", false),
        ("access-control-allow-credentials", "true", false),
        ("strict-transport-security", "max-age=1", false),
        ("content-security-policy-report-only", "default-src *", false),
        ("alt-svc", "h3=\"example.com:443\"", false),
        ("report-to", "{}", false),
        ("x-accel-redirect", "/internal/keys", false),
        ("X-Sendfile", "/etc/passwd", false),
        ("timing-allow-origin", "*", false),
        ("www-authenticate", "Basic realm=\"gateway\"", false),
        ("use-as-dictionary", "match=\"/*\"", false),
        ("no-vary-search", "params", false),
        ("integrity-policy", "blocked-destinations=(script)", false),
    ] {
        for (answer, _) in surfaces.answers(json!({"name": name, "value": value})).await {
            assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html")));
            assert_eq!(answer.header(name).is_some(), is_kept, "{name}");
            for (policy, says) in [
                ("x-content-type-options", "nosniff"),
                ("content-security-policy", "sandbox; default-src 'none'; frame-ancestors 'none'"),
                ("cross-origin-resource-policy", "same-origin"),
            ] {
                assert_eq!(answer.header(policy), Some(says), "{policy} beside {name}");
            }
        }
    }
    // The plugin cannot replace these policies with its own.
    let own = json!({"name": "content-security-policy", "value": "default-src *"});
    for (answer, _) in surfaces.answers(own).await {
        let policy = answer.header("content-security-policy");
        assert_eq!(policy, Some("sandbox; default-src 'none'; frame-ancestors 'none'"));
    }
}

#[tokio::test]
async fn a_status_that_has_no_body_is_sent_without_one() {
    let surfaces = Surfaces::start().await;
    for status in [204, 205, 304] {
        for (answer, _) in surfaces.answers(json!({"status": status})).await {
            assert_eq!((answer.status, answer.text.as_str()), (status, ""));
        }
    }
}

#[tokio::test]
async fn a_reply_that_cannot_be_sent_is_the_plugins_fault_and_names_what_is_wrong() {
    let surfaces = Surfaces::start().await;
    for (payload, what) in [
        (json!({"name": "x-task-id", "value": "1"}), "the header \"x-task-id\" of its reply"),
        (json!({"name": "X-Wardgate-Fault", "value": "1"}), "the header \"X-Wardgate-Fault\""),
        (json!({"name": "content-length", "value": "1"}), "is the gateway's to set"),
        (json!({"name": "two words", "value": "1"}), "has no name of a header"),
        (json!({"name": "x-split", "value": "a\r\nset-cookie: b"}), "no header can have"),
        (json!({"status": 99}), "99 is not the status of a reply"),
        (json!({"status": 101}), "101 is not the status of a reply"),
        (json!({"status": 1_000}), "1000 is not the status of a reply"),
    ] {
        for (answer, is_stranger) in surfaces.answers(payload.clone()).await {
            assert_eq!(answer.header("x-wardgate-retry"), Some("never"), "{payload}");
            let detail = &answer.text;
            if is_stranger {
                // An unauthenticated sender must not learn about the plugin.
                assert_eq!((answer.status, detail.contains("replies-with")), (400, false));
            } else {
                assert_eq!(
                    (answer.status, answer.header("x-wardgate-fault")),
                    (502, Some("guest"))
                );
                assert!(
                    detail.contains("plugin replies-with") && detail.contains(&as_json(what)),
                    "{detail}"
                );
            }
        }
    }
}

/// A text as it appears inside the JSON of an error.
fn as_json(text: &str) -> String {
    json!(text).to_string().trim_matches('"').to_owned()
}

#[tokio::test]
async fn replies_that_cannot_be_sent_count_as_any_other_fault_of_a_plugin() {
    let surfaces = Surfaces::start().await;
    let mut answers = Vec::new();
    for _ in 0..20 {
        let call = surfaces.agent.webhook("").json(&json!({"status": 99}));
        answers.push(call.answered_by_a_plugin().send().await.status);
    }
    assert_eq!((answers.first(), answers.last()), (Some(&502), Some(&503)), "{answers:?}");
}
