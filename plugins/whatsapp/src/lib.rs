//! WhatsApp's Cloud API, and with it the webhooks of Meta's Graph API.
//!
//! Meta verifies a new URL by a GET with `hub.verify_token`. Notifications have `X-Hub-Signature-256`, signed
//! with the app's secret (developers.facebook.com/docs/graph-api/webhooks/getting-started). Meta retries for
//! days unless the response is 200, so answers are delivered by the Graph API.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod inbound;
#[cfg(test)]
mod tests;

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use inbound::InboundMessages;
use wardgate_sdk::answer::{self, FAILURE_TEXT};
use wardgate_sdk::egress::{Answer, Outgoing};
use wardgate_sdk::host::Host;
use wardgate_sdk::integration::Integration;
use wardgate_sdk::json::ObjectBuilder;
use wardgate_sdk::mapper::Mapped;
use wardgate_sdk::settings::{Format, Setting};
use wardgate_sdk::signature::Encoding;
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{DotPath, Failure, HttpReply, delivery, signature};

/// The limit of `text.body`: "Maximum 4096 characters".
const TEXT_MAX: usize = 4096;

/// The most messages that one answer is split into; the rest is dropped.
const MESSAGES_MAX: usize = 5;

const API_URL: Setting = Setting {
    name: "api-url",
    default: Some("https://graph.facebook.com/v23.0"),
    format: Format::BaseUrl,
    description: "Where the Graph API is, with its version.",
};

struct WhatsApp;

impl Integration for WhatsApp {
    const SETTINGS: &'static [Setting] = &[API_URL, FAILURE_TEXT];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        if host.method() == "GET" {
            let query = host.query();
            let token =
                query_parameter(&query, "hub.verify_token").filter(|token| !token.is_empty());
            let is_subscription =
                query_parameter(&query, "hub.mode").as_deref() == Some("subscribe");
            let (Some(token), true) = (token, is_subscription) else {
                return Err(Failure::unauthorized("this is no handshake of Meta"));
            };
            let secret = host.open_secret("verify-token")?;
            if !host.secret_matches(&secret, token.as_bytes()) {
                return Err(Failure::unauthorized("`hub.verify_token` does not match"));
            }
            return Ok(Principal::anonymous());
        }
        let header = signature::required_header(host, "x-hub-signature-256")?;
        let key = host.open_secret("secret")?;
        let signatures = header.strip_prefix("sha256=").into_iter();
        let around = (&[][..], &[][..]);
        signature::verify_body(host, &key, "sha256", around, Encoding::Hex, signatures)?;
        Ok(Principal::anonymous())
    }

    fn map_payload<H: Host>(host: &H) -> Result<Mapped, Failure> {
        if host.method() == "GET" {
            let challenge = query_parameter(&host.query(), "hub.challenge")
                .map(Cow::into_owned)
                .ok_or_else(|| Failure::invalid_input("the handshake has no `hub.challenge`"))?;
            let reply = HttpReply::new(200, challenge)
                .with_header("content-type", "text/plain")
                .with_header("x-content-type-options", "nosniff");
            return Ok(Mapped::reply(reply));
        }
        if host.json("/entry/0").is_none() {
            return Err(Failure::invalid_input("this is no notification of Meta"));
        }
        Ok(InboundMessages::from_request(host)
            .map_or_else(Mapped::ignore, InboundMessages::into_mapped))
    }

    fn reply<H: Host>(_host: &H) -> Result<HttpReply, Failure> {
        Ok(HttpReply::new(200, ""))
    }

    fn deliver<H: Host>(host: &H) -> Result<(), Failure> {
        let text = answer::text_to_deliver(host)?;
        let inbound = InboundMessages::from_request(host)
            .ok_or_else(|| delivery::refused("the notification holds no message"))?;
        let number = &inbound.sender.phone_number_id;
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Failure::invalid_input("`phone_number_id` is no number"));
        }
        let url = format!("{}/{number}/messages", API_URL.value(host)?);
        let mut rest = text.as_str();
        for _ in 0..MESSAGES_MAX {
            let (chunk, remaining) = answer::split_at_utf16(rest, TEXT_MAX);
            if chunk.trim().is_empty() {
                return Ok(());
            }
            // Previews are off, because Meta would fetch any URL that an agent writes.
            let text =
                ObjectBuilder::new().raw("preview_url", "false").string("body", chunk).finish();
            let body = inbound
                .sender
                .recipient_params()
                .string("type", "text")
                .raw("text", &text)
                .finish();
            let outgoing = Outgoing::post(url.clone(), "application/json", body);
            check_response(&host.send(&outgoing, Some("access"))?)?;
            rest = remaining;
        }
        Ok(())
    }
}

/// Classifies a response by Meta's error code, because the Graph API also returns 400 for rate limits and
/// for errors of its own (developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes).
fn check_response(answer: &Answer) -> Result<(), Failure> {
    if answer.status < 400 {
        return delivery::check_response(answer);
    }
    let body = String::from_utf8_lossy(&answer.body);
    let code = DotPath::parse("error.code").ok().and_then(|path| path.find_in(&body));
    match code.as_deref() {
        Some("4" | "80007" | "130429" | "131048" | "131056") => Err(delivery::rate_limited(None)),
        Some(code @ ("1" | "2" | "131000" | "131016" | "133004")) => {
            Err(Failure::upstream(format!("Meta answered with error {code}")))
        }
        _ => delivery::check_response(answer),
    }
}

fn query_parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    form_urlencoded::parse(query.as_bytes())
        .find(|(found, _)| found == name)
        .map(|(_, value)| value)
}

wardgate_sdk::without_std!();
wardgate_sdk::export_integration!(WhatsApp, replier);
