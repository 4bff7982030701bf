//! Telegram: a message to a bot, answered in its chat.

use serde_json::json;

use super::{CREDENTIAL, Live, NOW, SECRET, clock};
use crate::support::{Call, Setup};

/// Somebody writes to a bot of Telegram.
pub(super) fn update(live: &Live) -> Call {
    let message = json!({
        "message_id": 1365, "date": NOW, "text": "is 1 < 2?",
        "chat": {"id": 1_111_111, "type": "private"},
        "from": {"id": 1_111_111, "is_bot": false, "first_name": "Test"},
    });
    let body = json!({"update_id": 10_000, "message": message});
    live.post().header("x-telegram-bot-api-secret-token", SECRET).json(&body)
}

#[tokio::test]
async fn a_message_to_telegram_is_answered_in_its_chat_with_the_token_in_the_path() {
    let live = Live::start(Setup::new().clock(&clock()), "telegram", "deliver").await;
    let task = update(&live).expect(200).await.task_id();
    let result = live.result(&task).await;
    assert!(result.contains("\"received\":\"is 1 < 2?\""), "{result}");

    let sent = live.delivered(&task).await;
    assert_eq!(sent.line, format!("POST /bot{CREDENTIAL}/sendMessage"));
    assert!(!sent.headers.contains_key("authorization"), "{sent:?}");
    assert_eq!(sent.header("content-type"), "application/json");
    let expected = json!({
        "chat_id": 1_111_111, "text": result, "link_preview_options": {"is_disabled": true},
    });
    assert_eq!(sent.json(), expected);
}
