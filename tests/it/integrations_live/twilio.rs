//! Twilio: a message to a number or in a conversation is answered by the API or in the response; its signature is
//! valid for one URL only.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::{CREDENTIAL, FORM, LiveChannel, clock, escaped, form, hmac};
use crate::support::{Call, Setup};

/// The fields of a message, sorted by name.
const MESSAGE: [(&str, &str); 5] = [
    ("AccountSid", "AC0123456789abcdef0123456789abcdef"),
    ("Body", "is 1 < 2 & \"why\"?"),
    ("From", "+14017122661"),
    ("MessageSid", "SM11"),
    ("To", "+15558675310"),
];

/// Signs these fields, which are sorted by name, for this URL as Twilio does.
fn by_twilio(call: Call, url: &str, fields: &[(&str, &str)]) -> Call {
    let signed: String = fields.iter().flat_map(|(name, value)| [*name, *value]).collect();
    let signature = STANDARD.encode(hmac("sha1", &format!("{url}{signed}")));
    call.header("x-twilio-signature", &signature)
        .header("i-twilio-idempotency-token", "a4-token")
        .text(FORM, form(fields))
}

/// A user's message to the number.
pub(super) fn message(live: &LiveChannel) -> Call {
    by_twilio(live.post(), &live.gateway.url(&live.hook), &MESSAGE)
}

#[tokio::test]
async fn a_message_to_twilio_is_answered_from_the_number_that_it_came_to() {
    let live = LiveChannel::start(Setup::new().clock(&clock()), "twilio", "deliver").await;
    let task = message(&live).expect(200).await.task_id();
    let result = live.result(&task).await;
    assert!(result.contains("is 1 < 2 & "), "{result}");

    let sent = live.delivered(&task).await;
    let account = "AC0123456789abcdef0123456789abcdef";
    assert_eq!(sent.request_line, format!("POST /2010-04-01/Accounts/{account}/Messages.json"));
    assert_eq!(sent.header("authorization"), format!("Basic {CREDENTIAL}"));
    assert_eq!(sent.header("content-type"), FORM);
    let expected = [("To", "+14017122661"), ("From", "+15558675310"), ("Body", result.as_str())];
    assert_eq!(sent.body, form(&expected));
}

#[tokio::test]
async fn a_message_to_twilio_is_answered_in_the_response_where_the_channel_waits() {
    let live = LiveChannel::start(Setup::new().clock(&clock()), "twilio", "wait").await;
    let answered = message(&live).expect(200).await;
    assert_eq!(answered.header("content-type"), Some("text/xml; charset=utf-8"));
    let result = live.result(&answered.task_id()).await;
    assert!(result.contains("is 1 < 2 & "), "{result}");
    let text = escaped(&result).replace('"', "&quot;").replace('\'', "&apos;");
    let twiml = format!("<Response><Message>{text}</Message></Response>");
    assert_eq!(answered.text, format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{twiml}"));
    let deliveries = live.gateway.admin_request("GET", "/deliveries").expect(200).await.json();
    assert_eq!((deliveries, live.api.received_requests().len()), (json!([]), 0));
}

/// A message in a conversation.
fn in_conversation(
    live: &LiveChannel,
    id: &str,
    message: &str,
    author: &str,
    source: &str,
) -> Call {
    let fields = [
        ("AccountSid", "AC0123456789abcdef0123456789abcdef"),
        ("Author", author),
        ("Body", "what did I say?"),
        ("ChatServiceSid", "IS1"),
        ("ConversationSid", id),
        ("EventType", "onMessageAdded"),
        ("MessageSid", message),
        ("Source", source),
    ];
    by_twilio(live.post(), &live.gateway.url(&live.hook), &fields)
}

#[tokio::test]
async fn conversations_of_twilio_are_apart_and_the_agent_does_not_hear_itself() {
    let live = LiveChannel::start(Setup::new().clock(&clock()), "twilio", "deliver").await;
    let first = in_conversation(&live, "CH1", "IM1", "+14017122661", "SMS").expect(200).await;
    assert_eq!(first.text, "");
    let task = first.task_id();
    let result = live.result(&task).await;
    let sent = live.delivered(&task).await;
    assert_eq!(sent.request_line, "POST /v1/Services/IS1/Conversations/CH1/Messages");
    assert_eq!(sent.header("authorization"), format!("Basic {CREDENTIAL}"));
    assert_eq!(sent.body, form(&[("Body", result.as_str())]));

    let own = in_conversation(&live, "CH1", "IM2", "system", "API").expect(200).await;
    assert_eq!(own.json(), json!({"status": "Ignored"}));
    for (id, message, earlier) in [("CH2", "IM3", 0), ("CH1", "IM4", 1)] {
        let call = in_conversation(&live, id, message, "+16665550100", "SMS");
        let result = live.result(&call.expect(200).await.task_id()).await;
        let report: Value = serde_json::from_str(&result).unwrap();
        assert_eq!(report["earlier_messages"].as_u64().unwrap_or(0), earlier, "{id}: {report}");
    }
}

#[tokio::test]
async fn what_twilio_signs_for_one_url_opens_no_other() {
    let live = LiveChannel::start(Setup::new().clock(&clock()), "twilio", "wait").await;
    let mut other = live.definition.clone();
    other["name"] = "other".into();
    let other = live.gateway.apply_channel(other).await;
    let send = |to: &str, signed_for: &str| {
        let call = live.gateway.post(to).answered_by_a_plugin();
        by_twilio(call, &live.gateway.url(signed_for), &MESSAGE)
    };
    for (to, signed_for) in [(&live.hook, &other), (&other, &live.hook)] {
        let refused = send(to, signed_for).expect(401).await;
        assert_eq!(refused.detail(), "the signature does not match");
    }
    assert_eq!(live.gateway.stored_task_count().await, 0);
    send(&live.hook, &live.hook).expect(200).await;
    send(&other, &other).expect(200).await;
    assert_eq!(live.gateway.stored_task_count().await, 2);
}
