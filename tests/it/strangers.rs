//! Failures that a request from an unverified sender causes count against that sender, never against the plugin that
//! inspects it: the request is rejected, genuine deliveries are accepted, and the sender cannot flood the log.

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use wardgate::clock::{Clock, Timestamp};

use crate::support::{Answer, Gateway, GatewayProcess, Home, Setup, wardgate};

const KEY: &str = "a key of the provider";
const NOW: i64 = 1_800_000_000;

/// The circuit breaker opens after this many consecutive failures.
const QUARANTINE_AFTER: u64 = 3;

/// The integrations that verify a signature over the body: the name, the settings, the text that is signed before the
/// body, and the headers that carry a signature in hex and base64.
#[expect(clippy::type_complexity, reason = "a table of a test")]
const SIGNED: [(&str, &[(&str, &str)], &str, fn(&str, &str) -> Vec<(&'static str, String)>); 7] = [
    ("github", &[], "", |hex, _| {
        vec![("x-hub-signature-256", format!("sha256={hex}")), ("x-github-event", "push".into())]
    }),
    ("slack", &[], "v0:1800000000:", |hex, _| {
        vec![
            ("x-slack-signature", format!("v0={hex}")),
            ("x-slack-request-timestamp", NOW.to_string()),
        ]
    }),
    ("stripe", &[], "1800000000.", |hex, _| {
        vec![("stripe-signature", format!("t={NOW},v1={hex}"))]
    }),
    ("shopify", &[], "", |_, base64| {
        vec![("x-shopify-hmac-sha256", base64.into()), ("x-shopify-topic", "orders/create".into())]
    }),
    ("standard-webhooks", &[], "m1.1800000000.", |_, base64| {
        vec![
            ("webhook-id", "m1".into()),
            ("webhook-timestamp", NOW.to_string()),
            ("webhook-signature", format!("v1,{base64}")),
        ]
    }),
    ("whatsapp", &[], "", |hex, _| vec![("x-hub-signature-256", format!("sha256={hex}"))]),
    ("hmac", &[("header", "x-s"), ("signed", "a{body}")], "a", |hex, _| vec![("x-s", hex.into())]),
];

/// A gateway whose circuit breaker opens after [`QUARANTINE_AFTER`] failures, with a clock that stands still.
async fn gateway() -> Gateway {
    let clock = Clock::manual(Timestamp::from_micros(NOW * 1_000_000));
    let setup = Setup::new().clock(&clock);
    setup.settings(|settings| settings.sandbox.quarantine_after = QUARANTINE_AFTER).start().await
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A JSON object of about this many bytes.
fn body(bytes: usize) -> String {
    format!(r#"{{"a":"{}"}}"#, "x".repeat(bytes))
}

async fn send(gateway: &Gateway, hook: &str, headers: &[(&str, String)], body: String) -> Answer {
    let mut call = gateway.post(hook).answered_by_a_plugin().text("application/json", body);
    for (name, value) in headers {
        call = call.header(name, value);
    }
    call.send().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_forgeries_cut_no_integration_off_and_long_honest_deliveries_get_in() {
    for (integration, settings, before, headers) in SIGNED {
        let gateway = gateway().await;
        let stored = match integration {
            "standard-webhooks" => format!("whsec_{}", base64(KEY.as_bytes())),
            _ => KEY.to_owned(),
        };
        gateway.store_secret("partner", &stored, false).await;
        // A build with debug assertions hashes slowly.
        gateway.write_grants(integration, "[limits]\ncpu_ms = 10000\nwall_ms = 30000\n");
        let settings: Value = settings.iter().map(|(name, value)| (*name, *value)).collect();
        let definition = json!({"name": "hook", "agent": "tested", "verifier": integration,
                                "settings": settings, "secrets": {"secret": "partner"}});
        let hook = gateway.apply_channel(definition).await;
        let forged = headers(&hex(&[7; 32]), &base64(&[7; 32]));
        for _ in 0..=QUARANTINE_AFTER {
            let refused = send(&gateway, &hook, &forged, body(4_300_000)).await;
            assert_eq!(refused.status, 401, "{integration}: {}", refused.text);
        }
        for bytes in [10, 9_000_000] {
            let body = body(bytes);
            let signature = mac(KEY.as_bytes(), &[before.as_bytes(), body.as_bytes()]);
            let signed = headers(&hex(&signature), &base64(&signature));
            let let_in = send(&gateway, &hook, &signed, body).await;
            assert_eq!(let_in.status, 200, "{integration} {bytes}: {}", let_in.text);
        }
    }
}

/// A channel whose verifier copies the body and returns the copy.
async fn copying(gateway: &Gateway) -> String {
    gateway.store_secret("partner", KEY, false).await;
    gateway.install("verifies_by_copy", "[limits]\ncpu_ms = 5000\nwall_ms = 30000\n").await;
    gateway
        .apply_channel(json!({"name": "hook", "agent": "tested", "verifier": "verifies-by-copy",
                        "secrets": {"secret": "partner"}}))
        .await
}

async fn signed(gateway: &Gateway, hook: &str, bytes: usize) -> Answer {
    let body = body(bytes);
    let signature = hex(&mac(KEY.as_bytes(), &[b"v0:", body.as_bytes()]));
    send(gateway, hook, &[("x-signature", signature)], body).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verifier_that_copies_the_body_is_charged_for_what_it_is_handed_and_not_for_what_it_hands_back()
 {
    let gateway = gateway().await;
    let hook = copying(&gateway).await;
    for _ in 0..=QUARANTINE_AFTER {
        let forged =
            send(&gateway, &hook, &[("x-signature", hex(&[7; 32]))], body(9_000_000)).await;
        assert_eq!(forged.status, 401, "{}", forged.text);
    }
    for bytes in [10, 9_000_000] {
        let let_in = signed(&gateway, &hook, bytes).await;
        assert_eq!(let_in.status, 200, "{bytes}: {}", let_in.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_who_makes_a_verifier_crash_or_fill_its_memory_is_refused_and_nobody_else_is() {
    let gateway = gateway().await;
    let hook = copying(&gateway).await;
    for (header, status) in [("x-panic", 400), ("x-fill", 413)] {
        for _ in 0..=QUARANTINE_AFTER {
            let refused = send(&gateway, &hook, &[(header, "1".into())], body(10)).await;
            assert_eq!(refused.status, status, "{}", refused.text);
            assert_eq!(refused.header("x-wardgate-fault"), Some("caller"));
            assert_eq!(refused.detail(), "the request cannot be looked at: it asks too much");
        }
        assert_eq!(signed(&gateway, &hook, 10).await.status, 200, "after {header}");
    }
    let state = gateway.admin_request("GET", "/plugins/verifies-by-copy").expect(200).await.json();
    assert_eq!(state["quarantine"], Value::Null);
    assert_eq!(state["calls"]["refused"], json!({"request-too-much": 2 * (QUARANTINE_AFTER + 1)}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_at_an_open_channel_cuts_no_mapper_off_and_somebody_with_a_key_does() {
    let gateway = gateway().await;
    let agent = gateway.agent_with_mapper("panics_on_demand", "").await;
    let definition = json!({"name": "hook", "agent": "tested", "verifier": "none",
                            "mapper": "panics-on-demand"});
    let hook = gateway.apply_channel(definition).await;
    for _ in 0..=QUARANTINE_AFTER {
        gateway.post(&hook).json(&json!({"crash": true})).expect(400).await;
    }
    gateway.post(&hook).json(&json!({"crash": false})).expect(200).await;
    // The holder of a key is accountable for its requests.
    for _ in 0..QUARANTINE_AFTER {
        agent.trigger().json(&json!({"crash": true})).expect(502).await;
    }
    gateway.post(&hook).json(&json!({"crash": false})).expect(503).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_at_an_open_channel_cuts_no_replier_off_and_is_told_nothing_of_it() {
    let gateway = gateway().await;
    gateway.install("panics_in_reply", "").await;
    let definition = json!({"name": "hook", "agent": "tested", "verifier": "none",
                            "replier": "panics-in-reply", "answer": "wait"});
    let hook = gateway.apply_channel(definition).await;
    let send = |crash: bool| gateway.post(&hook).json(&json!({"crash": crash}));
    for _ in 0..=QUARANTINE_AFTER {
        let refused = send(true).expect(400).await;
        assert_eq!(refused.detail(), "the request cannot be looked at: it asks too much");
        // The run exists: a retry would start another one.
        assert_eq!(refused.header("x-wardgate-retry"), Some("never"));
        assert!(refused.header("x-task-id").is_some());
    }
    assert_eq!(send(false).answered_by_a_plugin().expect(200).await.text, "answered");
    gateway.admin_request("DELETE", "/plugins/panics-in-reply").expect(204).await;
    let gone = send(false).expect(503).await;
    assert_eq!(gone.detail(), "the channel takes no requests at the moment");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_value_is_the_requests_fault_and_the_mapping_and_getting_of_others_goes_on() {
    let gateway = gateway().await;
    let large = json!({"t": "x".repeat(5_000_000)});
    for _ in 0..=QUARANTINE_AFTER {
        let refused = gateway.webhook(r#"&params_mapping={"prompt":"t"}"#).json(&large);
        let refused = refused.expect(413).await;
        assert!(refused.detail().contains("more than the 4194304 bytes"), "{}", refused.text);
        assert_eq!(refused.header("x-wardgate-fault"), Some("caller"));
    }
    // The offline model repeats the prompt, so the result is as large.
    for _ in 0..=QUARANTINE_AFTER {
        let call =
            gateway.webhook("&getter=result").json(&json!({"prompt": "x".repeat(5_000_000)}));
        let refused = call.expect(413).await;
        assert_eq!(refused.header("x-wardgate-retry"), Some("never"), "the run is over");
        assert!(refused.header("x-task-id").is_some());
    }
    let small = gateway.webhook(r#"&params_mapping={"prompt":"t"}&getter=status"#);
    assert_eq!(small.json(&json!({"t": "fine"})).expect(200).await.text, "\"completed\"");
}

#[tokio::test]
async fn a_channel_that_is_not_set_up_says_so_to_its_operator_and_nothing_to_strangers() {
    let gateway = gateway().await;
    for (channel, secrets) in
        [("missing", json!({"secret": "absent"})), ("misspelt", json!({"sceret": "absent"}))]
    {
        let definition = json!({"name": channel, "agent": "tested", "verifier": "github",
                                "secrets": secrets});
        let hook = gateway.apply_channel(definition).await;
        let headers = [("x-hub-signature-256", format!("sha256={}", hex(&[7; 32])))];
        let refused = send(&gateway, &hook, &headers, body(10)).await;
        assert_eq!(refused.status, 503, "{}", refused.text);
        assert_eq!(refused.header("retry-after"), Some("60"));
        assert_eq!(refused.header("x-wardgate-fault"), Some("policy"));
        let reported =
            json!({"detail": "the channel takes no requests at the moment", "retry": "safe"});
        assert_eq!(refused.json(), reported);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_hears_of_refused_strangers_once_a_minute_and_not_once_a_request() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &[]);
    let file = home.write(
        "hook.toml",
        "name = \"hook\"\nagent = \"demo\"\nverifier = \"github\"\nmapper = \"github\"\n\
         answer = \"acknowledge\"\n[secrets]\nsecret = \"absent\"\n",
    );
    let arguments = ["channel", "apply", file.to_str().unwrap()];
    let applied = wardgate(&[&arguments[..], &["--data", home.path().to_str().unwrap()]].concat());
    let message = String::from_utf8(applied.stdout).unwrap();
    let at = message.find("/hooks/").unwrap_or_else(|| panic!("{message}"));
    let hook = message[at..].split_whitespace().next().unwrap().to_owned();
    for _ in 0..20 {
        let call = gateway.post(&hook).header("x-hub-signature-256", "sha256=00");
        call.json(&json!({})).expect(503).await;
    }
    let (_, log) = gateway.terminate();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(
        warnings.iter().filter(|line| line.contains("could not look at")).count(),
        1,
        "{log}"
    );
    assert!(warnings.iter().all(|line| !line.contains("a request failed")), "{log}");
    assert!(log.contains("the tenant has no secret absent"), "{log}");
}
