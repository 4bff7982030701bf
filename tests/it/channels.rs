//! Channels: the plugins that a channel binds verify and map a provider's webhook, respond to it, and deliver the
//! answer.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use wardgate::clock::{Clock, Timestamp};

use crate::support::web::Web;
use crate::support::{Call, Gateway, Setup, poll_until};

const TOKEN: &str = "a token of the provider";

/// Creates a channel with the guest as verifier and mapper and with these members; returns its path.
async fn channel(gateway: &Gateway, more: Value) -> String {
    gateway.store_secret("hook-token", TOKEN, false).await;
    gateway.install("speaks_for_a_provider", "").await;
    gateway.apply_channel(definition(more)).await
}

fn definition(more: Value) -> Value {
    let mut definition = json!({
        "name": "hook", "agent": "tested", "secrets": {"secret": "hook-token"},
        "verifier": "speaks-for-a-provider", "mapper": "speaks-for-a-provider",
    });
    for (name, value) in more.as_object().unwrap() {
        definition[name] = value.clone();
    }
    definition
}

/// A webhook of the provider, with its token.
fn send(gateway: &Gateway, hook: &str, body: Value) -> Call {
    gateway.post(hook).header("x-token", TOKEN).json(&body)
}

/// What the mapper reported in the prompt of a task.
async fn mapper_report(gateway: &Gateway, task: &str) -> Vec<String> {
    let result = gateway.wait_for_end(task).await["result"].as_str().unwrap().to_owned();
    let report: Value = serde_json::from_str(&result).unwrap();
    report["received"].as_str().unwrap().split('|').map(str::to_owned).collect()
}

#[tokio::test]
async fn a_verified_delivery_runs_the_agent_and_a_wrong_one_does_nothing() {
    let gateway = Gateway::start().await;
    let hook = channel(&gateway, json!({})).await;
    let started = send(&gateway, &hook, json!({"text": "hi"})).expect(200).await;
    let task = started.json()["task_id"].as_str().unwrap().to_owned();
    assert_eq!((&started.json()["status"], started.task_id()), (&json!("Started"), task.clone()));
    assert_eq!(mapper_report(&gateway, &task).await[0], "hi");

    let before = gateway.stored_task_count().await;
    for wrong in [None, Some(""), Some("another token of somebody")] {
        let mut call = gateway.post(&hook).json(&json!({"text": "hi"}));
        if let Some(token) = wrong {
            call = call.header("x-token", token);
        }
        let refused = call.expect(401).await;
        assert_eq!(refused.detail(), "the token is wrong");
        assert_eq!(refused.header("x-wardgate-fault"), Some("caller"));
    }
    gateway.post("/hooks/not-a-channel").json(&json!({})).expect(404).await;
    let nobodys = "/hooks/5f0c7a52-58d0-4b6f-8a5c-0d3f6a1b2c3d";
    gateway.post(nobodys).json(&json!({})).expect(404).await;
    assert_eq!(gateway.stored_task_count().await, before);
}

#[tokio::test]
async fn nobody_but_the_verifier_sees_a_credential() {
    let gateway = Gateway::start().await;
    let hook = channel(&gateway, json!({})).await;
    let call =
        send(&gateway, &format!("{hook}?a=1&token=a%20token+of the provider&b=2"), json!({}))
            .header("authorization", "Bearer x")
            .header("cookie", "a=b")
            .header("x-delivery", "d-1");
    let task = call.expect(200).await.task_id();
    let reported = mapper_report(&gateway, &task).await;
    assert_eq!(reported[1], "x-delivery", "no token, no authorization, no cookie");
    assert_eq!(reported[2], r#"{"id":"provider","attributes":null}"#);
    assert_eq!(reported[3], format!("\"http://{}{hook}\"", gateway.listen));
    assert_eq!(reported[4], "a=1&b=2");
    let kept = String::from_utf8_lossy(&gateway.home.database_bytes()).into_owned();
    assert!(!kept.contains(TOKEN) && !kept.contains("a%20token"));
}

#[tokio::test]
async fn a_retried_delivery_starts_no_second_run_once_it_is_verified() {
    let gateway = Gateway::start().await;
    let hook = channel(&gateway, json!({})).await;
    let deliver =
        |text: &str| send(&gateway, &hook, json!({"text": text})).header("x-delivery", "evt_1");
    // An unauthenticated sender who guesses the id does not use it up.
    let stranger = gateway.post(&hook).header("x-delivery", "evt_1").json(&json!({}));
    stranger.expect(401).await;
    let first = deliver("one").expect(200).await;
    assert_eq!(first.header("idempotent-replayed"), None);
    let again = deliver("one, tried again").expect(200).await;
    assert_eq!(again.text, first.text);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("x-dedupe-source"), Some("provider"));
    assert_eq!(again.header("idempotency-mismatch"), None);
    // Without an id, equal bodies are two deliveries.
    let body = json!({"text": "same"});
    let one = send(&gateway, &hook, body.clone()).expect(200).await.task_id();
    assert_ne!(send(&gateway, &hook, body).expect(200).await.task_id(), one);
    // The same id at another channel is another delivery.
    let other = gateway.apply_channel(definition(json!({"name": "other"}))).await;
    let elsewhere = send(&gateway, &other, json!({})).header("x-delivery", "evt_1");
    assert_ne!(elsewhere.expect(200).await.task_id(), first.task_id());
}

#[tokio::test]
async fn with_verification_off_everybody_is_let_in_and_no_id_is_believed() {
    let gateway = Gateway::start().await;
    let hook = channel(&gateway, json!({"verifier": "none"})).await;
    let send = async || {
        let call = gateway.post(&hook).header("x-delivery", "evt_1").json(&json!({"text": "hi"}));
        call.expect(200).await.task_id()
    };
    assert_ne!(send().await, send().await);
    let channel = gateway.admin_request("GET", "/channels/hook").expect(200).await.json();
    assert!(channel["notes"][0].as_str().unwrap().contains("verification is off"), "{channel}");
}

#[tokio::test]
async fn a_mapper_ignores_and_shakes_hands() {
    let gateway = Gateway::start().await;
    let hook = channel(&gateway, json!({})).await;
    let ignored = send(&gateway, &hook, json!({"kind": "ping"})).expect(200).await;
    assert_eq!(ignored.json(), json!({"status": "Ignored"}));
    let body = json!({"kind": "handshake", "challenge": "1158201444"});
    let shaken = send(&gateway, &hook, body).answered_by_a_plugin().expect(200).await;
    assert_eq!(shaken.text, "1158201444");
    // In a GET, the query is the payload.
    let target = format!("{hook}?kind=handshake&challenge=7");
    let by_get = gateway.get(&target).header("x-token", TOKEN).answered_by_a_plugin();
    let by_get = by_get.expect(200).await;
    assert_eq!(by_get.text, "7");
    gateway.get(&target).expect(401).await;
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn an_options_is_for_the_plugins_and_starts_nothing() {
    let gateway = Gateway::start().await;
    let hook = channel(&gateway, json!({})).await;
    let options =
        |body: Value| gateway.request("OPTIONS", &hook).header("x-token", TOKEN).json(&body);
    let body = json!({"kind": "handshake", "challenge": "yes"});
    assert_eq!(options(body).answered_by_a_plugin().expect(200).await.text, "yes");
    options(json!({"text": "run"})).expect(405).await;
    gateway.request("OPTIONS", &hook).json(&json!({})).expect(401).await;
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn a_head_says_whether_there_is_a_channel_and_starts_nothing() {
    let gateway = Gateway::start().await;
    let hook = channel(&gateway, json!({})).await;
    let verified = gateway.request("HEAD", &hook).header("x-token", TOKEN);
    assert_eq!(verified.expect(200).await.text, "");
    gateway.request("HEAD", &hook).expect(200).await;
    gateway.request("HEAD", "/hooks/not-a-channel").expect(404).await;
    gateway.request("HEAD", "/hooks/5f0c7a52-58d0-4b6f-8a5c-0d3f6a1b2c3d").expect(404).await;
    assert_eq!(gateway.stored_task_count().await, 0);
}

#[tokio::test]
async fn a_page_may_post_to_a_channel_and_asks_no_plugin_for_it() {
    let gateway = Gateway::start().await;
    let hook = channel(&gateway, json!({})).await;
    let page =
        |method: &str| gateway.request(method, &hook).header("origin", "https://page.example");
    let asked = page("OPTIONS")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "x-token")
        .expect(200)
        .await;
    assert_eq!(asked.header("access-control-allow-origin"), Some("*"));
    assert_eq!(asked.header("access-control-allow-headers"), Some("x-token"));
    assert!(asked.header("access-control-allow-methods").unwrap().contains("POST"));
    let posted =
        page("POST").header("x-token", TOKEN).json(&json!({"text": "hi"})).expect(200).await;
    assert_eq!(posted.header("access-control-allow-origin"), Some("*"));
    let refused = page("POST").json(&json!({"text": "hi"})).expect(401).await;
    assert_eq!(refused.header("access-control-allow-origin"), Some("*"), "pages read why");
    // A provider's handshake has an origin as well.
    let handshake = page("OPTIONS").header("x-token", TOKEN);
    let handshake = handshake.json(&json!({"kind": "handshake", "challenge": "yes"}));
    assert_eq!(handshake.answered_by_a_plugin().expect(200).await.text, "yes");
    assert_eq!(gateway.stored_task_count().await, 1);
}

#[tokio::test]
async fn bytes_that_are_no_payload_reach_the_plugins_all_the_same() {
    let gateway = Gateway::start().await;
    let hook = channel(&gateway, json!({})).await;
    for (declared, body) in [
        ("application/json", b"{\"text\": \"cut of".as_slice()),
        ("application/x-protobuf", b"\x00\xff\xfe\x80"),
        ("text/xml", b"<a/>"),
    ] {
        let call = gateway.post(&hook).header("x-token", TOKEN).text(declared, body.to_vec());
        let task = call.expect(200).await.task_id();
        assert_eq!(
            mapper_report(&gateway, &task).await[5],
            format!("{} bytes", body.len()),
            "{declared}"
        );
    }
}

#[tokio::test]
async fn a_replier_writes_the_answer_at_once_or_when_the_run_has_ended() {
    let gateway = Gateway::start().await;
    let replier = "speaks-for-a-provider";
    let hook = channel(&gateway, json!({"replier": replier})).await;
    let at_once = send(&gateway, &hook, json!({"text": "a"})).answered_by_a_plugin();
    let at_once = at_once.expect(200).await;
    assert_eq!(at_once.header("content-type"), Some("application/xml"));
    let open = ["pending", "executing", "completed"];
    let expected = open.map(|status| format!("<reply to=\"a\">\"{status}\"</reply>"));
    assert!(expected.contains(&at_once.text), "{}", at_once.text);

    let more = json!({"name": "waits", "replier": replier, "answer": "wait"});
    let waits = gateway.apply_channel(definition(more)).await;
    let answer = send(&gateway, &waits, json!({"text": "b"})).answered_by_a_plugin();
    let answer = answer.expect(200).await;
    assert_eq!(answer.text, "<reply to=\"b\">\"completed\"</reply>");
    assert_eq!(gateway.task(&answer.task_id()).await["status"], "completed");

    let more = json!({"name": "plain", "answer": "wait"});
    let plain = gateway.apply_channel(definition(more)).await;
    let answer = send(&gateway, &plain, json!({"text": "c"})).expect(200).await;
    assert_eq!(answer.json()["status"], "completed");
}

/// The credential and the body of a delivery.
type ReceivedDelivery = (Option<String>, String);

/// A provider that accepts deliveries: those it received, and the statuses of its next responses.
#[derive(Debug, Clone, Default)]
struct Provider {
    received: Arc<Mutex<Vec<ReceivedDelivery>>>,
    next_statuses: Arc<Mutex<Vec<u16>>>,
}

impl Provider {
    async fn serve(&self) -> Web {
        async fn record(
            State(provider): State<Provider>,
            headers: HeaderMap,
            body: String,
        ) -> StatusCode {
            let sent = headers.get("authorization").map(|v| v.to_str().unwrap().to_owned());
            provider.received.lock().unwrap().push((sent, body));
            let status = provider.next_statuses.lock().unwrap().pop().unwrap_or(200);
            StatusCode::from_u16(status).unwrap()
        }
        Web::serve(Router::new().route("/deliver", post(record)).with_state(self.clone())).await
    }

    fn bodies(&self) -> Vec<String> {
        self.received.lock().unwrap().iter().map(|(_, body)| body.clone()).collect()
    }
}

/// Creates a channel that delivers to this server; returns its path.
async fn delivering(gateway: &Gateway, web: &Web) -> String {
    gateway.store_secret("hook-token", TOKEN, false).await;
    gateway.store_secret("bot-token", "xoxb-very-secret", false).await;
    let grants = format!(
        "[[egress]]\nscheme = \"http\"\nhost = \"127.0.0.1\"\nport = {}\nmethods = [\"POST\"]\n\
         networks = [\"127.0.0.0/8\"]\ncredentials = [\"bot\"]\n\
         [credentials.bot]\nsecret = \"bot-token\"\nheader = \"authorization\"\nprefix = \"Bearer \"\n",
        web.port
    );
    gateway.install("speaks_for_a_provider", &grants).await;
    let url = format!("http://127.0.0.1:{}/deliver", web.port);
    let more = json!({
        "replier": "speaks-for-a-provider", "answer": "deliver", "settings": {"deliver-url": url},
    });
    gateway.apply_channel(definition(more)).await
}

async fn delivery(gateway: &Gateway, status: &str) -> Value {
    poll_until("a delivery of this status", async || {
        let target = format!("/deliveries?status={status}");
        let found = gateway.admin_request("GET", &target).expect(200).await.json();
        found.as_array().unwrap().first().cloned()
    })
    .await
}

#[tokio::test]
async fn an_answer_is_delivered_with_the_credential_that_only_the_host_knows() {
    let (gateway, provider) = (Gateway::start().await, Provider::default());
    let web = provider.serve().await;
    let hook = delivering(&gateway, &web).await;
    let sent = send(&gateway, &hook, json!({"text": "hi"})).answered_by_a_plugin();
    let task = sent.expect(200).await.task_id();
    let done = delivery(&gateway, "delivered").await;
    assert_eq!((&done["task"], &done["attempts"]), (&json!(task), &json!(1)));
    let got = provider.received.lock().unwrap().clone();
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].0.as_deref(), Some("Bearer xoxb-very-secret"));
    assert!(got[0].1.starts_with("hi: ") && got[0].1.contains("summary"), "{}", got[0].1);
    // Redelivered by hand.
    gateway.admin_request("POST", &format!("/tasks/{task}/redeliver")).expect(202).await;
    poll_until("a second delivery", async || (provider.bodies().len() == 2).then_some(())).await;
    let unknown = "01a20ad1-2d82-7d96-8c49-130babbf7e73";
    gateway.admin_request("POST", &format!("/tasks/{unknown}/redeliver")).expect(404).await;
}

#[tokio::test]
async fn a_delivery_is_tried_again_later_and_survives_a_restart() {
    let clock = Clock::manual(Timestamp::from_micros(1_800_000_000_000_000));
    let provider = Provider::default();
    let web = provider.serve().await;
    let gateway = Setup::new().clock(&clock).start().await;
    let hook = delivering(&gateway, &web).await;
    *provider.next_statuses.lock().unwrap() = vec![503, 503];
    send(&gateway, &hook, json!({"text": "hi"})).answered_by_a_plugin().expect(200).await;
    let tried = async |gateway: &Gateway, times: u64| {
        poll_until("a try", async || {
            let due = delivery(gateway, "due").await;
            (due["attempts"] == times && due["reason"].is_string()).then_some(due)
        })
        .await
    };
    let first = tried(&gateway, 1).await;
    assert!(first["reason"].as_str().unwrap().contains("the provider is down"), "{first}");
    clock.advance(Duration::from_secs(4));
    let home = gateway.stop().await;
    let gateway = Setup::new().clock(&clock).home(home).start().await;
    assert_eq!(provider.bodies().len(), 1, "not before its pause is over");
    clock.advance(Duration::from_secs(2));
    tried(&gateway, 2).await;
    clock.advance(Duration::from_secs(23));
    assert_eq!(delivery(&gateway, "delivered").await["attempts"], 3);
    assert_eq!(provider.bodies().len(), 3);
}

#[tokio::test]
async fn a_delivery_that_is_refused_is_given_up_and_says_why() {
    let (gateway, provider) = (Gateway::start().await, Provider::default());
    let web = provider.serve().await;
    let hook = delivering(&gateway, &web).await;
    *provider.next_statuses.lock().unwrap() = vec![400];
    send(&gateway, &hook, json!({"text": "hi"})).answered_by_a_plugin().expect(200).await;
    let dead = delivery(&gateway, "dead").await;
    assert_eq!(dead["attempts"], 1);
    assert!(dead["reason"].as_str().unwrap().contains("the provider said 400"), "{dead}");
}

#[tokio::test]
async fn a_channel_file_that_cannot_work_is_refused_with_a_reason() {
    let gateway = Gateway::start().await;
    channel(&gateway, json!({})).await;
    for (more, reason) in [
        (json!({"agent": "nobody"}), "no agent \"nobody\""),
        (json!({"verifier": "calculator"}), "no role verifier"),
        (json!({"verifier": "absent"}), "no plugin absent"),
        (json!({"mapper": "calculator"}), "no role payload-mapper"),
        (json!({"answer": "deliver"}), "needs a replier"),
        (json!({"answer": "later"}), "later"),
        (json!({"settings": {"colour": "red"}}), "/colour: there is no such setting"),
        (
            json!({"verifier": "slack", "mapper": "slack", "settings": {"tolerance": "5"}}),
            "tolerance-seconds",
        ),
        (json!({"verify": false}), "verify"),
    ] {
        let call = gateway.admin_request("PUT", "/channels/hook").json(&definition(more.clone()));
        let refused = call.expect(422).await;
        assert!(refused.detail().contains(reason), "{more}: {}", refused.text);
    }
    let mut without = definition(json!({}));
    without.as_object_mut().unwrap().remove("verifier");
    let refused = gateway.admin_request("PUT", "/channels/hook").json(&without).expect(422).await;
    assert!(refused.detail().contains("verifier"), "{}", refused.text);
    let channel = gateway.admin_request("GET", "/channels/hook").expect(200).await.json();
    assert_eq!(channel["version"], 1, "nothing was changed");
}

#[tokio::test]
async fn a_channel_is_applied_again_switched_off_and_removed() {
    let gateway = Gateway::start().await;
    let hook = channel(&gateway, json!({})).await;
    assert_eq!(gateway.apply_channel(definition(json!({}))).await, hook, "its URL stays");
    assert_eq!(gateway.apply_channel(definition(json!({"enabled": false}))).await, hook);
    send(&gateway, &hook, json!({})).expect(404).await;
    assert_eq!(gateway.apply_channel(definition(json!({}))).await, hook);
    send(&gateway, &hook, json!({})).expect(200).await;
    let listed = gateway.admin_request("GET", "/channels").expect(200).await.json();
    assert_eq!(listed[0]["version"], 3);
    gateway.admin_request("DELETE", "/channels/hook").expect(204).await;
    send(&gateway, &hook, json!({})).expect(404).await;
    gateway.admin_request("DELETE", "/channels/hook").expect(404).await;
}

#[tokio::test]
async fn a_channel_whose_secret_is_missing_lets_nobody_in() {
    let gateway = Gateway::start().await;
    gateway.install("speaks_for_a_provider", "").await;
    let hook = gateway.apply_channel(definition(json!({}))).await;
    let channel = gateway.admin_request("GET", "/channels/hook").expect(200).await.json();
    assert!(channel["notes"][0].as_str().unwrap().contains("no secret hook-token"), "{channel}");
    let refused = gateway.post(&hook).header("x-token", "").json(&json!({})).expect(503).await;
    assert_eq!(refused.detail(), "the channel takes no requests at the moment");
    // Nor does a channel that binds no secret.
    let none = definition(json!({"name": "none", "secrets": {}}));
    let hook = gateway.apply_channel(none).await;
    let refused = gateway.post(&hook).header("x-token", "").json(&json!({})).expect(503).await;
    assert_eq!(refused.detail(), "the channel takes no requests at the moment");
}

#[tokio::test]
async fn while_a_secret_is_rotated_both_values_are_accepted() {
    let gateway = Gateway::start().await;
    let hook = channel(&gateway, json!({})).await;
    let status = async |token: &str| {
        let call = gateway.post(&hook).header("x-token", token).json(&json!({}));
        call.send().await.status
    };
    gateway.store_secret("hook-token", "a newer token", true).await;
    assert_eq!([status(TOKEN).await, status("a newer token").await], [200, 200]);
    gateway.store_secret("hook-token", "the newest token", false).await;
    let now =
        [status(TOKEN).await, status("a newer token").await, status("the newest token").await];
    assert_eq!(now, [401, 401, 200]);
}

#[tokio::test]
async fn a_secret_that_no_plugin_of_the_channel_opens_is_noted_and_so_is_one_that_is_not_bound() {
    let gateway = Gateway::start().await;
    gateway.store_secret("key", "a-key-of-a-provider", false).await;
    let notes = async |secrets: Value| {
        let definition = json!({
            "name": "hook", "agent": gateway.agent, "verifier": "hmac", "mapper": "hmac",
            "answer": "acknowledge", "settings": {"header": "x-sig"}, "secrets": secrets
        });
        let made =
            gateway.admin_request("PUT", "/channels/hook").json(&definition).expect(200).await;
        made.json()["notes"].as_array().unwrap().clone()
    };
    assert_eq!(notes(json!({"secret": "key"})).await, Vec::<Value>::new());
    assert_eq!(notes(json!({"secret": "key", "challenge": "key"})).await, Vec::<Value>::new());
    let noted = notes(json!({"secert": "key"})).await;
    let missing =
        "the plugin hmac opens the secret \"secret\", which the channel's [secrets] do not bind";
    let unread =
        "none of the channel's plugins opens a secret \"secert\"; they open challenge, secret";
    assert_eq!(noted, [missing, unread]);
}
