//! Slack: mentions and slash commands are acknowledged in time and answered where they came from.

use std::time::Duration;

use serde_json::json;

use super::{CREDENTIAL, FORM, JSON, LiveChannel, NOW, clock, escaped, form, hex, hmac};
use crate::support::model_server::{ModelServer, Reply};
use crate::support::{Call, Setup, poll_until};

/// Signs a request as Slack does at this second.
fn by_slack(call: Call, second: i64, content_type: &str, body: String) -> Call {
    let signature = format!("v0={}", hex(&hmac("sha256", &format!("v0:{second}:{body}"))));
    call.header("x-slack-request-timestamp", &second.to_string())
        .header("x-slack-signature", &signature)
        .text(content_type, body)
}

/// The event for a mention of the app in a channel.
fn mention() -> String {
    let event = json!({
        "type": "app_mention", "user": "U061F7AUR", "channel": "C123ABC456",
        "ts": "1800000000.000016", "text": "<@U0LAN0Z89> is 1 &lt; 2 &amp; why?",
    });
    json!({
        "type": "event_callback", "team_id": "T061EG9R6", "event_id": "Ev0MDYGDKJ",
        "event_time": NOW, "event": event,
        "authorizations": [{"team_id": "T061EG9R6", "user_id": "U0LAN0Z89", "is_bot": true}],
    })
    .to_string()
}

/// A slash command.
pub(super) fn command(live: &LiveChannel) -> Call {
    let response_url = format!("{}/commands/T061EG9R6/397700885554/96rGlfmi", live.api.url());
    let fields = [
        ("team_id", "T061EG9R6"),
        ("channel_id", "C123ABC456"),
        ("user_id", "U061F7AUR"),
        ("command", "/ask"),
        ("text", "is 1 &lt; 2?"),
        ("response_url", response_url.as_str()),
        ("trigger_id", "398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"),
    ];
    by_slack(live.post(), NOW, FORM, form(&fields))
}

#[tokio::test]
async fn a_mention_in_slack_is_answered_in_its_thread() {
    let live = LiveChannel::start(Setup::new().clock(&clock()), "slack", "deliver").await;
    let acknowledged = by_slack(live.post(), NOW, JSON, mention()).expect(200).await;
    assert_eq!(acknowledged.text, "");
    let task = acknowledged.task_id();
    let result = live.result(&task).await;
    assert!(result.contains("\"received\":\"is 1 < 2 & why?\""), "{result}");

    let sent = live.delivered(&task).await;
    assert_eq!(sent.request_line, "POST /api/chat.postMessage");
    assert_eq!(sent.header("authorization"), format!("Bearer {CREDENTIAL}"));
    assert_eq!(sent.header("content-type"), "application/json; charset=utf-8");
    let expected = json!({
        "channel": "C123ABC456", "thread_ts": "1800000000.000016", "text": escaped(&result),
        "unfurl_links": false, "unfurl_media": false,
    });
    assert_eq!(sent.json(), expected);
}

#[tokio::test]
async fn a_slash_command_is_answered_at_its_own_url_without_a_credential() {
    let live = LiveChannel::start(Setup::new().clock(&clock()), "slack", "deliver").await;
    let task = command(&live).expect(200).await.task_id();
    let result = live.result(&task).await;
    assert!(result.contains("\"received\":\"is 1 < 2?\""), "{result}");

    let sent = live.delivered(&task).await;
    assert_eq!(sent.request_line, "POST /commands/T061EG9R6/397700885554/96rGlfmi");
    assert!(!sent.headers.contains_key("authorization"), "{sent:?}");
    assert_eq!(sent.header("content-type"), "application/json");
    let expected = json!({
        "text": escaped(&result), "response_type": "ephemeral",
        "unfurl_links": false, "unfurl_media": false,
    });
    assert_eq!(sent.json(), expected);
}

#[tokio::test]
async fn slack_is_acknowledged_while_the_run_goes_on_and_what_it_repeats_starts_no_other() {
    // A response that waited for this model would never arrive.
    let model = ModelServer::start([Reply::Silence]).await;
    let clock = clock();
    let live =
        LiveChannel::start(Setup::new().clock(&clock).model(&model), "slack", "deliver").await;
    let first = by_slack(live.post(), NOW, JSON, mention()).expect(200).await;
    assert_eq!((first.text.as_str(), first.header("idempotent-replayed")), ("", None));
    let task = first.task_id();
    poll_until("the model's turn", async || (model.requests().len() == 1).then_some(())).await;
    assert_eq!(live.gateway.task(&task).await["status"], "executing");

    // After three seconds without a response, Slack sends the event again.
    clock.advance(Duration::from_secs(3));
    let again = by_slack(live.post(), NOW + 3, JSON, mention())
        .header("x-slack-retry-num", "1")
        .header("x-slack-retry-reason", "http_timeout");
    let again = again.expect(200).await;
    assert_eq!((again.text.as_str(), again.task_id()), ("", task.clone()));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("x-dedupe-source"), Some("provider"));
    assert_eq!(live.gateway.stored_task_count().await, 1);
    assert_eq!(live.gateway.task(&task).await["status"], "executing");
    assert_eq!((model.requests().len(), live.api.received_requests().len()), (1, 0));
}
