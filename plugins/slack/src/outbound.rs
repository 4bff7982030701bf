//! Responds to Slack's requests, and delivers answers after the run.

use crate::inbound::{Inbound, Place};
use crate::{ACKNOWLEDGEMENT, API_URL, RESPONSE_TYPE};
use alloc::format;
use alloc::string::String;
use wardgate_sdk::answer::{self, Answer, FAILURE_TEXT};
use wardgate_sdk::egress::Outgoing;
use wardgate_sdk::host::Host;
use wardgate_sdk::json::Object;
use wardgate_sdk::{DotPath, Failure, HttpReply, delivery, json};

/// The longest text after escaping, in UTF-16 units. Slack truncates messages beyond 40,000 characters
/// (`chat.postMessage`, "Truncating content"), and would show half of an escape that it cuts in two.
const TEXT_MAX: usize = 39_000;

/// The response to a request. Only slash commands get a text in the response itself; an empty response
/// acknowledges everything else.
pub(crate) fn reply(host: &impl Host) -> Result<HttpReply, Failure> {
    if !matches!(Inbound::read(host), Some(Inbound::Command)) {
        return Ok(HttpReply::new(200, ""));
    }
    let (text, visible) = match answer::read(host) {
        Answer::Pending => (ACKNOWLEDGEMENT.read(host)?, String::from("ephemeral")),
        Answer::Done(text) => (text, RESPONSE_TYPE.read(host)?),
        Answer::Failed(_) => (FAILURE_TEXT.read(host)?, String::from("ephemeral")),
    };
    if text.is_empty() {
        return Ok(HttpReply::new(200, ""));
    }
    let body = message(&text).string("response_type", &visible).finish();
    Ok(HttpReply::new(200, body).with_header("content-type", "application/json"))
}

pub(crate) fn deliver(host: &impl Host) -> Result<(), Failure> {
    let text = answer::to_deliver(host)?;
    if text.is_empty() {
        return Ok(()); // An agent with nothing to say; Slack refuses messages without text.
    }
    let place = match Inbound::read(host) {
        Some(Inbound::Command) => {
            let url = host
                .scalar("/response_url")
                .ok_or_else(|| Failure::invalid_input("the command has no `response_url`"))?;
            let visible = match answer::read(host) {
                Answer::Done(_) => RESPONSE_TYPE.read(host)?,
                _ => String::from("ephemeral"),
            };
            let body = message(&text).string("response_type", &visible).finish();
            let answer = host.send(&Outgoing::post(url, "application/json", body), None)?;
            return delivery::accepted(&answer);
        }
        Some(Inbound::Interaction(payload)) => Place::of_interaction(&payload),
        _ => Place::of_event(host),
    };
    let place =
        place.ok_or_else(|| delivery::refused("the request came from no channel of Slack"))?;
    let body = message(&text)
        .string("channel", &place.channel)
        .maybe_string("thread_ts", place.thread.as_deref())
        .finish();
    let url = format!("{}/chat.postMessage", API_URL.read(host)?);
    let outgoing = Outgoing::post(url, "application/json; charset=utf-8", body);
    let answer = host.send(&outgoing, Some("bot"))?;
    delivery::accepted(&answer)?;
    posted(&String::from_utf8_lossy(&answer.body))
}

/// Checks the body of the response: Slack reports errors with status 200, too.
fn posted(body: &str) -> Result<(), Failure> {
    let at = |path: &str| DotPath::parse(path).ok()?.find_in(body);
    if at("ok").as_deref() == Some("true") {
        return Ok(());
    }
    let error = at("error").and_then(|error| json::text(&error)).unwrap_or_default();
    match error.as_str() {
        "ratelimited" | "rate_limited" => Err(delivery::rate_limited(None)),
        ""
        | "internal_error"
        | "fatal_error"
        | "request_timeout"
        | "service_unavailable"
        | "team_added_to_org" => Err(Failure::upstream(format!("Slack answered `{error}`"))),
        _ => Err(delivery::refused(&error)),
    }
}

/// The length in UTF-16 units of the longest prefix of a text that fits [`TEXT_MAX`] after escaping.
fn unescaped_max(text: &str) -> usize {
    let (mut left, mut units) = (TEXT_MAX, 0);
    for character in text.chars() {
        let escaped = match character {
            '&' => "&amp;".len(),
            '<' | '>' => "&lt;".len(),
            other => other.len_utf16(),
        };
        let Some(rest) = left.checked_sub(escaped) else { break };
        left = rest;
        units += character.len_utf16();
    }
    units
}

/// A message with the agent's text, which may repeat anyone's input. Escaping prevents mentions. Previews
/// are off, so that Slack fetches no URL in it.
fn message(text: &str) -> Object {
    let text = answer::clip(text, unescaped_max(text));
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut message = Object::new();
    message.string("text", &text).raw("unfurl_links", "false").raw("unfurl_media", "false");
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_long_as_slack_takes_once_it_is_escaped() {
        for one in ["x", "<", "&", "\u{1f600}", "a<b&c"] {
            let text = one.repeat(TEXT_MAX);
            let body = message(&text).finish();
            let sent = DotPath::parse("text").ok().and_then(|path| path.find_in(&body));
            let sent = sent.and_then(|sent| json::text(&sent)).unwrap_or_default();
            let length = sent.encode_utf16().count();
            assert!((TEXT_MAX - 10..=TEXT_MAX).contains(&length), "{one}: {length}");
        }
        assert!(message("short & sweet").finish().contains("short &amp; sweet"));
    }
}
