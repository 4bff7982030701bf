//! What Twilio is answered: TwiML in the response, or a message through the REST API.

use crate::API_URL;
use alloc::format;
use alloc::string::String;
use wardgate_sdk::answer::{self, Answer, FAILURE_TEXT};
use wardgate_sdk::egress::Outgoing;
use wardgate_sdk::host::Host;
use wardgate_sdk::{Failure, HttpReply, delivery};

/// `Body` of a message: "up to 1,600 characters".
const TEXT_MAX: usize = 1600;

/// How many messages one answer may become. Each of them costs money.
const MESSAGES_MAX: usize = 5;

pub(crate) fn reply(host: &impl Host) -> Result<HttpReply, Failure> {
    let text = match answer::read(host) {
        Answer::Pending => String::new(),
        Answer::Done(text) => text,
        Answer::Failed(_) => FAILURE_TEXT.read(host)?,
    };
    let text = escaped(&answer::clip(&text, TEXT_MAX));
    let verb = if host.scalar("/Body").is_some() { "Message" } else { "Say" };
    let inner = match text.is_empty() {
        true => String::new(),
        false => format!("<{verb}>{text}</{verb}>"),
    };
    let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response>{inner}</Response>");
    Ok(HttpReply::new(200, body).with_header("content-type", "text/xml; charset=utf-8"))
}

/// Text as XML 1.0 may hold it: without the characters that it forbids even when they are escaped.
fn escaped(text: &str) -> String {
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

/// Sends the answer back from the number that the message came to.
pub(crate) fn deliver(host: &impl Host) -> Result<(), Failure> {
    let text = answer::to_deliver(host)?;
    if host.scalar("/Body").is_none() {
        return Err(delivery::refused("a call is answered while it lasts, or not at all"));
    }
    let at = |name: &str| {
        host.scalar(&format!("/{name}"))
            .filter(|value| !value.is_empty())
            .ok_or_else(|| Failure::invalid_input(format!("the message has no `{name}`")))
    };
    let (account, to, from) = (at("AccountSid")?, at("From")?, at("To")?);
    if !account.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return Err(Failure::invalid_input("`AccountSid` is no id of an account"));
    }
    let url = format!("{}/2010-04-01/Accounts/{account}/Messages.json", API_URL.read(host)?);
    let mut rest = text.as_str();
    for _ in 0..MESSAGES_MAX {
        let (piece, behind) = answer::split(rest, TEXT_MAX);
        if piece.trim().is_empty() {
            return Ok(());
        }
        let body = form_urlencoded::Serializer::new(String::new())
            .append_pair("To", &to)
            .append_pair("From", &from)
            .append_pair("Body", piece)
            .finish();
        let outgoing = Outgoing::post(url.clone(), "application/x-www-form-urlencoded", body);
        delivery::accepted(&host.send(&outgoing, Some("account"))?)?;
        rest = behind;
    }
    Ok(())
}
