//! Channels without a particular provider: one whose settings describe the signature, and one without verification.

use serde_json::json;

use super::{JSON, LIMITS, SECRET, clock, hex, hmac};
use crate::support::{GatewayProcess, Home, Setup, wardgate};

#[tokio::test]
async fn what_a_recipe_signs_for_one_url_opens_no_other() {
    const BODY: &str = r#"{"text":"hi"}"#;
    let gateway = Setup::new().clock(&clock()).start().await;
    gateway.store_secret("provider", SECRET, false).await;
    gateway.write_grants("hmac", LIMITS);
    let apply = async |name: &str| {
        let settings = json!({"header": "x-signature", "signed": "{method} {url}\n{body}"});
        let definition = json!({
            "name": name, "agent": "tested", "verifier": "hmac", "mapper": "hmac",
            "settings": settings, "secrets": {"secret": "provider"},
        });
        gateway.apply_channel(definition).await
    };
    let (one, other) = (apply("one").await, apply("other").await);
    let send = |to: &str, signed_for: &str| {
        let signed = hmac("sha256", &format!("POST {}\n{BODY}", gateway.url(signed_for)));
        gateway.post(to).header("x-signature", &hex(&signed)).text(JSON, BODY)
    };
    for (to, signed_for) in [(&one, &other), (&other, &one)] {
        let refused = send(to, signed_for).expect(401).await;
        assert_eq!(refused.detail(), "the signature does not match");
    }
    assert_eq!(gateway.stored_task_count().await, 0);
    send(&one, &one).expect(200).await;
    send(&other, &other).expect(200).await;
    assert_eq!(gateway.stored_task_count().await, 2);
}

#[tokio::test]
async fn verification_that_is_switched_off_is_told_to_the_log_once() {
    let home = Home::new();
    let gateway = GatewayProcess::serve(&home, &[]);
    let file = home.write("open.toml", "name = \"open\"\nagent = \"demo\"\nverifier = \"none\"\n");
    let (file, data) = (file.to_str().unwrap(), home.path().to_str().unwrap());
    let applied = wardgate(&["channel", "apply", file, "--data", data]);
    let message = String::from_utf8([applied.stdout, applied.stderr].concat()).unwrap();
    assert!(applied.status.success() && message.contains("verification is off"), "{message}");
    let (_, id) = message.split_once("/hooks/").unwrap();
    let id = id.split_whitespace().next().unwrap();
    for _ in 0..2 {
        let call = gateway.post(&format!("/hooks/{id}")).json(&json!({"text": "hi"}));
        let task = call.expect(200).await.task_id();
        assert_eq!(gateway.wait_for_end(&task).await["status"], "completed");
    }

    let (status, log) = tokio::task::spawn_blocking(move || gateway.terminate()).await.unwrap();
    assert!(status.success());
    let result: Vec<_> =
        log.lines().filter(|line| line.contains("verification is switched off")).collect();
    assert_eq!(result.len(), 1, "{log}");
    for part in ["WARN", id, "name=open"] {
        assert!(result[0].contains(part), "{part}: {}", result[0]);
    }
}
