//! WhatsApp: a message to a business number is answered from that number.

use serde_json::json;

use super::{CREDENTIAL, JSON, LiveChannel, clock, hex, hmac};
use crate::support::Setup;

#[tokio::test]
async fn a_message_to_whatsapp_is_answered_by_the_number_that_it_came_to() {
    let live = LiveChannel::start(Setup::new().clock(&clock()), "whatsapp", "deliver").await;
    let message = json!({
        "from": "16505551234", "id": "wamid.HBgLMTY1MDM4Nzk0MzkVAgASGBQz", "type": "text",
        "timestamp": "1800000000", "text": {"body": "Does it come in another color?"},
    });
    let value = json!({
        "messaging_product": "whatsapp", "messages": [message],
        "metadata": {"phone_number_id": "106540352242922"},
    });
    let entry = json!({"id": "1022901", "changes": [{"field": "messages", "value": value}]});
    let body = json!({"object": "whatsapp_business_account", "entry": [entry]}).to_string();
    let signature = format!("sha256={}", hex(&hmac("sha256", &body)));
    let call = live.post().header("x-hub-signature-256", &signature).text(JSON, body);
    let acknowledged = call.expect(200).await;
    assert_eq!(acknowledged.text, "");
    let task = acknowledged.task_id();
    let result = live.result(&task).await;
    assert!(result.contains("\"received\":\"Does it come in another color?\""), "{result}");

    let sent = live.delivered(&task).await;
    assert_eq!(sent.request_line, "POST /v23.0/106540352242922/messages");
    assert_eq!(sent.header("authorization"), format!("Bearer {CREDENTIAL}"));
    assert_eq!(sent.header("content-type"), "application/json");
    let expected = json!({
        "messaging_product": "whatsapp", "recipient_type": "individual", "to": "16505551234",
        "type": "text", "text": {"preview_url": false, "body": result},
    });
    assert_eq!(sent.json(), expected);
}
