//! Sends answers to Twilio: TwiML in the response, or messages by the REST API.

use crate::inbound::InboundRequest;
use crate::{API_URL, CONVERSATIONS_URL};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use wardgate_sdk::answer::{self, FAILURE_TEXT, RunOutcome};
use wardgate_sdk::egress::Outgoing;
use wardgate_sdk::host::Host;
use wardgate_sdk::{Failure, HttpReply, delivery};

/// The limit of `Body`, in conversations too: "up to 1,600 characters".
const TEXT_MAX: usize = 1600;

/// The most messages that one answer is split into; the rest is dropped. Each message costs money.
const MESSAGES_MAX: usize = 5;

pub(crate) fn reply(host: &impl Host) -> Result<HttpReply, Failure> {
    let text = match RunOutcome::from_task(host) {
        RunOutcome::Pending => String::new(),
        RunOutcome::Completed(text) => text,
        RunOutcome::Failed(_) => FAILURE_TEXT.value(host)?,
    };
    let text = escape_xml(&answer::truncate_utf16(&text, TEXT_MAX));
    let verb = match InboundRequest::from_request(host) {
        // Twilio ignores the response to a conversation's webhook.
        Some(InboundRequest::Conversation(_)) => return Ok(HttpReply::new(200, "")),
        Some(InboundRequest::Call(_)) => "Say",
        Some(InboundRequest::Message) | None => "Message",
    };
    let inner = match text.is_empty() {
        true => String::new(),
        false => format!("<{verb}>{text}</{verb}>"),
    };
    let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response>{inner}</Response>");
    Ok(HttpReply::new(200, body).with_header("content-type", "text/xml; charset=utf-8"))
}

/// Escapes text for XML 1.0, and drops the characters that XML forbids even in escaped form.
fn escape_xml(text: &str) -> String {
    let mut xml = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => xml.push_str("&amp;"),
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '"' => xml.push_str("&quot;"),
            '\'' => xml.push_str("&apos;"),
            '\t' | '\n' | '\r' => xml.push(character),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {}
            _ => xml.push(character),
        }
    }
    xml
}

/// Sends the answer from the number that received the message, or into the conversation.
pub(crate) fn deliver(host: &impl Host) -> Result<(), Failure> {
    let text = answer::text_to_deliver(host)?;
    let destination = match InboundRequest::from_request(host) {
        Some(InboundRequest::Message) => Destination::for_message(host)?,
        Some(InboundRequest::Conversation(conversation)) => {
            Destination::for_conversation(host, &conversation)?
        }
        Some(InboundRequest::Call(_)) => {
            return Err(delivery::refused("a call is answered while it lasts, or not at all"));
        }
        None => return Err(delivery::refused("no speech was recognised")),
    };
    let mut rest = text.as_str();
    for _ in 0..MESSAGES_MAX {
        let (chunk, remaining) = answer::split_at_utf16(rest, TEXT_MAX);
        if chunk.trim().is_empty() {
            return Ok(());
        }
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(&destination.fields)
            .append_pair("Body", chunk)
            .finish();
        let outgoing =
            Outgoing::post(destination.url.clone(), "application/x-www-form-urlencoded", body);
        delivery::check_response(&host.send(&outgoing, Some("account"))?)?;
        rest = remaining;
    }
    Ok(())
}

/// The address of an answer.
struct Destination {
    url: String,
    /// The form fields besides the text.
    fields: Vec<(&'static str, String)>,
}

impl Destination {
    fn for_message(host: &impl Host) -> Result<Self, Failure> {
        let field = |name: &str| {
            host.scalar(&format!("/{name}"))
                .filter(|value| !value.is_empty())
                .ok_or_else(|| Failure::invalid_input(format!("the message has no `{name}`")))
        };
        let account = checked_id("AccountSid", field("AccountSid")?)?;
        let url = format!("{}/2010-04-01/Accounts/{account}/Messages.json", API_URL.value(host)?);
        Ok(Self { url, fields: Vec::from([("To", field("From")?), ("From", field("To")?)]) })
    }

    /// The path of a conversation includes its service, unless that is the default service.
    fn for_conversation(host: &impl Host, conversation: &str) -> Result<Self, Failure> {
        let conversation = checked_id("ConversationSid", conversation.into())?;
        let service = host.scalar("/ChatServiceSid").filter(|service| !service.is_empty());
        let service_path = match service {
            Some(service) => format!("Services/{}/", checked_id("ChatServiceSid", service)?),
            None => String::new(),
        };
        let base = CONVERSATIONS_URL.value(host)?;
        let url = format!("{base}/v1/{service_path}Conversations/{conversation}/Messages");
        Ok(Self { url, fields: Vec::new() })
    }
}

/// Checks that an id is alphanumeric, so that it cannot change the path of the URL.
fn checked_id(name: &str, value: String) -> Result<String, Failure> {
    match value.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        true => Ok(value),
        false => Err(Failure::invalid_input(format!("`{name}` is not an id of Twilio"))),
    }
}
