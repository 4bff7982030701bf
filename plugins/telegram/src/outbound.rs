//! Sends answers to Telegram: in the response to an update, and by requests to the Bot API.

use crate::update::{Place, Update};
use crate::{API_URL, TYPING};
use alloc::format;
use alloc::string::String;
use wardgate_sdk::answer::{self, Answer, FAILURE_TEXT};
use wardgate_sdk::egress::{self, Outgoing};
use wardgate_sdk::host::Host;
use wardgate_sdk::json::Object;
use wardgate_sdk::{DotPath, Failure, HttpReply, delivery};

/// `sendMessage`: "1-4096 characters after entities parsing", counted in UTF-16 units.
const TEXT_MAX: usize = 4096;

/// The most messages that one answer is split into; the rest is dropped.
const MESSAGES_MAX: usize = 10;

/// The timeout of the request that stops a button's spinner. The agent's answer waits for it.
const PRESS_MS: u32 = 400;

/// The response to an update. It can hold one request to the Bot API: the answer, else the one that stops a
/// button's spinner, else the typing indicator.
pub(crate) fn reply(host: &impl Host) -> Result<HttpReply, Failure> {
    let Some(update) = Update::read(host) else { return Ok(HttpReply::new(200, "")) };
    let (place, press) = (update.place(host), update.press(host));
    let text = match answer::read(host) {
        Answer::Pending => None,
        Answer::Done(text) => Some(text),
        Answer::Failed(_) => Some(FAILURE_TEXT.read(host)?),
    };
    let is_pending = text.is_none();
    let body = match (text.filter(|text| !text.is_empty()), &place, press) {
        (Some(text), Some(place), press) => {
            if let Some(press) = press {
                // The answer is sent even if Telegram refuses this, or a grant is missing.
                let _ =
                    send(host, "answerCallbackQuery", answered(&press).finish(), Some(PRESS_MS));
            }
            let text = answer::clip(&text, TEXT_MAX);
            message(place, &text).string("method", "sendMessage").finish()
        }
        (_, _, Some(press)) => answered(&press).string("method", "answerCallbackQuery").finish(),
        (None, Some(place), None)
            if is_pending && place.shows_typing() && TYPING.read(host)? == "yes" =>
        {
            place.request().string("method", "sendChatAction").string("action", "typing").finish()
        }
        _ => return Ok(HttpReply::new(200, "")),
    };
    Ok(HttpReply::new(200, body).with_header("content-type", "application/json"))
}

/// Sends the answer into the conversation of the update.
pub(crate) fn deliver(host: &impl Host) -> Result<(), Failure> {
    let text = answer::to_deliver(host)?;
    let place = Update::read(host)
        .and_then(|update| update.place(host))
        .ok_or_else(|| delivery::refused("the update came from no conversation"))?;
    let mut rest = text.as_str();
    for _ in 0..MESSAGES_MAX {
        let (piece, behind) = answer::split(rest, TEXT_MAX);
        if piece.trim().is_empty() {
            return Ok(()); // Telegram refuses messages without text.
        }
        let answer = send(host, "sendMessage", message(&place, piece).finish(), None)?;
        if answer.status == 429 {
            let seconds = DotPath::parse("parameters.retry_after")
                .ok()
                .and_then(|path| path.find_in(&String::from_utf8_lossy(&answer.body)));
            return Err(delivery::rate_limited(seconds.as_deref()));
        }
        delivery::accepted(&answer)?;
        rest = behind;
    }
    Ok(())
}

fn send(
    host: &impl Host,
    method: &str,
    body: String,
    timeout_ms: Option<u32>,
) -> Result<egress::Answer, Failure> {
    // The gateway replaces the word CREDENTIAL with the token; a plugin never sees it.
    let url = format!("{}/botCREDENTIAL/{method}", API_URL.read(host)?);
    let outgoing = Outgoing { timeout_ms, ..Outgoing::post(url, "application/json", body) };
    host.send(&outgoing, Some("bot"))
}

/// A plain-text message. Previews are off, because Telegram would fetch any URL that an agent writes.
fn message(place: &Place, text: &str) -> Object {
    let mut object = place.request();
    object.string("text", text).raw("link_preview_options", r#"{"is_disabled":true}"#);
    object
}

/// The parameters of `answerCallbackQuery`, which acknowledges the press of a button.
fn answered(press: &str) -> Object {
    let mut object = Object::new();
    object.string("callback_query_id", press);
    object
}
