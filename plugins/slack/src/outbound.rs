//! Responds to Slack's requests, and delivers answers after the run.

use crate::inbound::{Conversation, InboundRequest};
use crate::{ACKNOWLEDGEMENT, API_URL, RESPONSE_TYPE};
use alloc::format;
use alloc::string::String;
use wardgate_sdk::answer::{self, FAILURE_TEXT, RunOutcome};
use wardgate_sdk::egress::Outgoing;
use wardgate_sdk::host::Host;
use wardgate_sdk::json::ObjectBuilder;
use wardgate_sdk::{DotPath, Failure, HttpReply, delivery, json};

/// The longest text after escaping, in UTF-16 units. Slack truncates messages beyond 40,000 characters
/// (`chat.postMessage`, "Truncating content"), and would show half of an escape that it cuts in two.
const TEXT_UTF16_MAX: usize = 39_000;

/// The response to a request. Only slash commands get a text in the response itself; an empty response
/// acknowledges everything else.
pub(crate) fn reply(host: &impl Host) -> Result<HttpReply, Failure> {
    if !matches!(InboundRequest::classify(host), Some(InboundRequest::Command)) {
        return Ok(HttpReply::new(200, ""));
    }
    let (text, response_type) = match RunOutcome::from_task(host) {
        RunOutcome::Pending => (ACKNOWLEDGEMENT.value(host)?, String::from("ephemeral")),
        RunOutcome::Completed(text) => (text, RESPONSE_TYPE.value(host)?),
        RunOutcome::Failed(_) => (FAILURE_TEXT.value(host)?, String::from("ephemeral")),
    };
    if text.is_empty() {
        return Ok(HttpReply::new(200, ""));
    }
    let body = message_object(&text).string("response_type", &response_type).finish();
    Ok(HttpReply::new(200, body).with_header("content-type", "application/json"))
}

pub(crate) fn deliver(host: &impl Host) -> Result<(), Failure> {
    let text = answer::text_to_deliver(host)?;
    if text.is_empty() {
        return Ok(()); // An agent with nothing to say; Slack refuses messages without text.
    }
    let conversation = match InboundRequest::classify(host) {
        Some(InboundRequest::Command) => {
            let url = host
                .scalar("/response_url")
                .ok_or_else(|| Failure::invalid_input("the command has no `response_url`"))?;
            let response_type = match RunOutcome::from_task(host) {
                RunOutcome::Completed(_) => RESPONSE_TYPE.value(host)?,
                _ => String::from("ephemeral"),
            };
            let body = message_object(&text).string("response_type", &response_type).finish();
            let answer = host.send(&Outgoing::post(url, "application/json", body), None)?;
            return delivery::check_response(&answer);
        }
        Some(InboundRequest::Interaction(payload)) => Conversation::from_interaction(&payload),
        _ => Conversation::from_event(host),
    };
    let conversation = conversation
        .ok_or_else(|| delivery::refused("the request came from no channel of Slack"))?;
    let body = message_object(&text)
        .string("channel", &conversation.channel)
        .maybe_string("thread_ts", conversation.thread.as_deref())
        .finish();
    let url = format!("{}/chat.postMessage", API_URL.value(host)?);
    let outgoing = Outgoing::post(url, "application/json; charset=utf-8", body);
    let answer = host.send(&outgoing, Some("bot"))?;
    delivery::check_response(&answer)?;
    check_api_response(&String::from_utf8_lossy(&answer.body))
}

/// Checks the body of the response: Slack reports errors with status 200, too.
fn check_api_response(body: &str) -> Result<(), Failure> {
    let text_at = |path: &str| DotPath::parse(path).ok()?.find_in(body);
    if text_at("ok").as_deref() == Some("true") {
        return Ok(());
    }
    let error = text_at("error").and_then(|error| json::decode_string(&error)).unwrap_or_default();
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

/// The length in UTF-16 units of the longest prefix of a text that fits [`TEXT_UTF16_MAX`] after escaping.
fn unescaped_utf16_max(text: &str) -> usize {
    let (mut remaining, mut units) = (TEXT_UTF16_MAX, 0);
    for character in text.chars() {
        let escaped = match character {
            '&' => "&amp;".len(),
            '<' | '>' => "&lt;".len(),
            other => other.len_utf16(),
        };
        let Some(rest) = remaining.checked_sub(escaped) else { break };
        remaining = rest;
        units += character.len_utf16();
    }
    units
}

/// A message with the agent's text, which may repeat anyone's input. Escaping prevents mentions. Previews
/// are off, so that Slack fetches no URL in it.
fn message_object(text: &str) -> ObjectBuilder {
    let text = answer::truncate_utf16(text, unescaped_utf16_max(text));
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let mut message = ObjectBuilder::new();
    message.string("text", &text).raw("unfurl_links", "false").raw("unfurl_media", "false");
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_as_long_as_slack_takes_once_it_is_escaped() {
        for one in ["x", "<", "&", "\u{1f600}", "a<b&c"] {
            let text = one.repeat(TEXT_UTF16_MAX);
            let body = message_object(&text).finish();
            let sent = DotPath::parse("text").ok().and_then(|path| path.find_in(&body));
            let sent = sent.and_then(|sent| json::decode_string(&sent)).unwrap_or_default();
            let length = sent.encode_utf16().count();
            assert!((TEXT_UTF16_MAX - 10..=TEXT_UTF16_MAX).contains(&length), "{one}: {length}");
        }
        assert!(message_object("short & sweet").finish().contains("short &amp; sweet"));
    }
}
