//! Sends answers to Telegram: in the response to an update, and by requests to the Bot API.

use crate::update::{Conversation, Update};
use crate::{API_URL, TYPING};
use alloc::format;
use alloc::string::String;
use wardgate_sdk::answer::{self, FAILURE_TEXT, RunOutcome};
use wardgate_sdk::egress::{self, Outgoing};
use wardgate_sdk::host::Host;
use wardgate_sdk::json::ObjectBuilder;
use wardgate_sdk::{DotPath, Failure, HttpReply, delivery};

/// `sendMessage`: "1-4096 characters after entities parsing", counted in UTF-16 units.
const TEXT_MAX: usize = 4096;

/// The most messages that one answer is split into; the rest is dropped.
const MESSAGES_MAX: usize = 10;

/// The timeout of the request that stops a button's spinner. The agent's answer waits for it.
const CALLBACK_QUERY_TIMEOUT_MS: u32 = 400;

/// The response to an update. It can hold one request to the Bot API: the answer, else the one that stops a
/// button's spinner, else the typing indicator.
pub(crate) fn reply(host: &impl Host) -> Result<HttpReply, Failure> {
    let Some(update) = Update::from_request(host) else { return Ok(HttpReply::new(200, "")) };
    let (conversation, query_id) = (update.conversation(host), update.callback_query_id(host));
    let text = match RunOutcome::from_task(host) {
        RunOutcome::Pending => None,
        RunOutcome::Completed(text) => Some(text),
        RunOutcome::Failed(_) => Some(FAILURE_TEXT.value(host)?),
    };
    let is_pending = text.is_none();
    let body = match (text.filter(|text| !text.is_empty()), &conversation, query_id) {
        (Some(text), Some(conversation), query_id) => {
            if let Some(query_id) = query_id {
                // The answer is sent even if Telegram refuses this, or a grant is missing.
                let _ = call_bot_api(
                    host,
                    "answerCallbackQuery",
                    callback_query_params(&query_id).finish(),
                    Some(CALLBACK_QUERY_TIMEOUT_MS),
                );
            }
            let text = answer::truncate_utf16(&text, TEXT_MAX);
            message_params(conversation, &text).string("method", "sendMessage").finish()
        }
        (_, _, Some(query_id)) => {
            callback_query_params(&query_id).string("method", "answerCallbackQuery").finish()
        }
        (None, Some(conversation), None)
            if is_pending && conversation.shows_typing() && TYPING.value(host)? == "yes" =>
        {
            conversation
                .address()
                .string("method", "sendChatAction")
                .string("action", "typing")
                .finish()
        }
        _ => return Ok(HttpReply::new(200, "")),
    };
    Ok(HttpReply::new(200, body).with_header("content-type", "application/json"))
}

/// Sends the answer into the conversation of the update.
pub(crate) fn deliver(host: &impl Host) -> Result<(), Failure> {
    let text = answer::text_to_deliver(host)?;
    let conversation = Update::from_request(host)
        .and_then(|update| update.conversation(host))
        .ok_or_else(|| delivery::refused("the update came from no conversation"))?;
    let mut rest = text.as_str();
    for _ in 0..MESSAGES_MAX {
        let (chunk, remaining) = answer::split_at_utf16(rest, TEXT_MAX);
        if chunk.trim().is_empty() {
            return Ok(()); // Telegram refuses messages without text.
        }
        let answer =
            call_bot_api(host, "sendMessage", message_params(&conversation, chunk).finish(), None)?;
        if answer.status == 429 {
            let seconds = DotPath::parse("parameters.retry_after")
                .ok()
                .and_then(|path| path.find_in(&String::from_utf8_lossy(&answer.body)));
            return Err(delivery::rate_limited(seconds.as_deref()));
        }
        delivery::check_response(&answer)?;
        rest = remaining;
    }
    Ok(())
}

fn call_bot_api(
    host: &impl Host,
    method: &str,
    body: String,
    timeout_ms: Option<u32>,
) -> Result<egress::Answer, Failure> {
    // The gateway replaces the word CREDENTIAL with the token; a plugin never sees it.
    let url = format!("{}/botCREDENTIAL/{method}", API_URL.value(host)?);
    let outgoing = Outgoing { timeout_ms, ..Outgoing::post(url, "application/json", body) };
    host.send(&outgoing, Some("bot"))
}

/// A plain-text message. Previews are off, because Telegram would fetch any URL that an agent writes.
fn message_params(conversation: &Conversation, text: &str) -> ObjectBuilder {
    let mut object = conversation.address();
    object.string("text", text).raw("link_preview_options", r#"{"is_disabled":true}"#);
    object
}

/// The parameters of `answerCallbackQuery`, which acknowledges the press of a button.
fn callback_query_params(query_id: &str) -> ObjectBuilder {
    let mut object = ObjectBuilder::new();
    object.string("callback_query_id", query_id);
    object
}
