//! Telegram: a message to a bot is answered in its chat.

use serde_json::{Value, json};

use super::{CREDENTIAL, LiveChannel, NOW, SECRET, clock};
use crate::support::{Call, Setup};

/// A user's message to the bot.
pub(super) fn update(live: &LiveChannel) -> Call {
    written(live.post(), 10_000)
}

/// The user's message in an update with this id.
fn written(call: Call, update_id: u64) -> Call {
    let message = json!({
        "message_id": 1365, "date": NOW, "text": "is 1 < 2?",
        "chat": {"id": 1_111_111, "type": "private"},
        "from": {"id": 1_111_111, "is_bot": false, "first_name": "Test"},
    });
    let body = json!({"update_id": update_id, "message": message});
    call.header("x-telegram-bot-api-secret-token", SECRET).json(&body)
}

#[tokio::test]
async fn a_message_to_telegram_is_answered_in_its_chat_with_the_token_in_the_path() {
    let live = LiveChannel::start(Setup::new().clock(&clock()), "telegram", "deliver").await;
    let task = update(&live).expect(200).await.task_id();
    let result = live.result(&task).await;
    assert!(result.contains("\"received\":\"is 1 < 2?\""), "{result}");

    let sent = live.delivered(&task).await;
    assert_eq!(sent.request_line, format!("POST /bot{CREDENTIAL}/sendMessage"));
    assert!(!sent.headers.contains_key("authorization"), "{sent:?}");
    assert_eq!(sent.header("content-type"), "application/json");
    let expected = json!({
        "chat_id": 1_111_111, "text": result, "link_preview_options": {"is_disabled": true},
    });
    assert_eq!(sent.json(), expected);
}

#[tokio::test]
async fn two_bots_of_one_agent_have_a_conversation_each_with_the_same_user() {
    let live = LiveChannel::start(Setup::new().clock(&clock()), "telegram", "acknowledge").await;
    let mut other = live.definition.clone();
    other["name"] = "other".into();
    let other = live.gateway.apply_channel(other).await;
    for (hook, update_id, earlier) in [(&live.hook, 1, 0), (&other, 1, 0), (&live.hook, 2, 1)] {
        let call = live.gateway.post(hook).answered_by_a_plugin();
        let task = written(call, update_id).expect(200).await.task_id();
        let report: Value = serde_json::from_str(&live.result(&task).await).unwrap();
        assert_eq!(report["earlier_messages"].as_u64().unwrap_or(0), earlier, "{hook}: {report}");
    }
}

/// A press of a button under a message of the bot.
fn press(live: &LiveChannel) -> Call {
    let message = json!({"message_id": 1, "date": NOW, "chat": {"id": 7, "type": "private"}});
    let press = json!({
        "id": "4382bfdwdsb323b2d9", "chat_instance": "1", "data": "go", "message": message,
        "from": {"id": 7, "is_bot": false, "first_name": "Test"},
    });
    let body = json!({"update_id": 10_000, "callback_query": press});
    live.post().header("x-telegram-bot-api-secret-token", SECRET).json(&body)
}

#[tokio::test]
async fn a_button_stops_spinning_in_the_response_or_beside_it() {
    let pressed = json!({"callback_query_id": "4382bfdwdsb323b2d9"});
    let live = LiveChannel::start(Setup::new().clock(&clock()), "telegram", "deliver").await;
    let acknowledged = press(&live).expect(200).await;
    let mut method = pressed.clone();
    method["method"] = "answerCallbackQuery".into();
    assert_eq!(acknowledged.json(), method);
    let sent = live.delivered(&acknowledged.task_id()).await;
    assert_eq!(sent.request_line, format!("POST /bot{CREDENTIAL}/sendMessage"));

    let live = LiveChannel::start(Setup::new().clock(&clock()), "telegram", "wait").await;
    let answered = press(&live).expect(200).await.json();
    assert_eq!((&answered["method"], &answered["chat_id"]), (&json!("sendMessage"), &json!(7)));
    let sent = live.api.received_requests();
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!(sent[0].request_line, format!("POST /bot{CREDENTIAL}/answerCallbackQuery"));
    assert_eq!(sent[0].json(), pressed);
}
