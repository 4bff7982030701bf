//! The immediate acknowledgement to a provider never contains the agent's answer.

use super::slack::command;
use super::telegram::update;
use super::twilio::message;
use super::{LiveChannel, clock};
use crate::support::{Call, Setup};

#[tokio::test]
async fn an_acknowledgement_is_never_the_answer_however_late_it_is() {
    type Sends = fn(&LiveChannel) -> Call;
    let cases: [(&str, Sends, &str); 3] = [
        (
            "slack",
            command,
            concat!(
                r#"{"text":"One moment.","unfurl_links":false,"#,
                r#""unfurl_media":false,"response_type":"ephemeral"}"#
            ),
        ),
        ("telegram", update, r#"{"chat_id":1111111,"method":"sendChatAction","action":"typing"}"#),
        ("twilio", message, r#"<?xml version="1.0" encoding="UTF-8"?><Response></Response>"#),
    ];
    for (integration, send, acknowledgement) in cases {
        let live = LiveChannel::start(Setup::new().clock(&clock()), integration, "deliver").await;
        let first = send(&live).expect(200).await;
        assert_eq!(first.text, acknowledgement, "{integration}");
        live.delivered(&first.task_id()).await;
        // The provider retries. If this acknowledgement contained the answer, the user would get it twice.
        let again = send(&live).expect(200).await;
        assert_eq!(again.header("idempotent-replayed"), Some("true"), "{integration}");
        assert_eq!(again.text, acknowledgement, "{integration}");
        let happened = (live.gateway.stored_task_count().await, live.api.received_requests().len());
        assert_eq!(happened, (1, 1), "{integration}");
    }
}
