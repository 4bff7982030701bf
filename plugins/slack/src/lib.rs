//! Slack: events, slash commands, and interactions such as buttons and menus.
//!
//! Requests are verified as in "Verifying requests from Slack" (docs.slack.dev), including the handshake of
//! a new URL (`url_verification`). Slack expects a response within three seconds, so the channel
//! acknowledges the request and delivers the agent's answer into the thread. The event's id identifies
//! Slack's retries.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod inbound;
mod outbound;
#[cfg(test)]
mod tests;

use alloc::format;
use wardgate_sdk::answer::FAILURE_TEXT;
use wardgate_sdk::host::Host;
use wardgate_sdk::integration::Integration;
use wardgate_sdk::mapper::Mapped;
use wardgate_sdk::settings::{Format, Setting, TOLERANCE_SECONDS};
use wardgate_sdk::signature::Encoding;
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{Failure, HttpReply, signature};

const EVENTS: Setting = Setting {
    name: "events",
    default: Some("app_mention message.im command interaction"),
    format: Format::Text,
    description: "What starts a run, separated by spaces or commas: event types, `message.` with the \
                  kind of the channel (im, channel, group, mpim), `command` and `interaction`. \
                  `message.channel` beside `app_mention` answers mentions twice.",
};

const API_URL: Setting = Setting {
    name: "api-url",
    default: Some("https://slack.com/api"),
    format: Format::BaseUrl,
    description: "Where Slack's Web API is.",
};

const ACKNOWLEDGEMENT: Setting = Setting {
    name: "acknowledgement",
    default: Some(""),
    format: Format::Text,
    description: "What the user of a slash command sees at once, such as `One moment.`",
};

const RESPONSE_TYPE: Setting = Setting {
    name: "response-type",
    default: Some("ephemeral"),
    format: Format::OneOf(&["ephemeral", "in_channel"]),
    description: "Who sees the answer to a slash command: whoever gave it, or the whole channel.",
};

struct Slack;

impl Integration for Slack {
    const SETTINGS: &'static [Setting] =
        &[TOLERANCE_SECONDS, EVENTS, API_URL, ACKNOWLEDGEMENT, RESPONSE_TYPE, FAILURE_TEXT];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        let header = signature::required_header(host, "x-slack-signature")?;
        let timestamp = signature::required_header(host, "x-slack-request-timestamp")?;
        signature::check_timestamp_seconds(
            &timestamp,
            host.now_seconds(),
            TOLERANCE_SECONDS.number(host)?,
        )?;
        let key = host.open_secret("secret")?;
        let before = format!("v0:{timestamp}:");
        let around = (before.as_bytes(), &[][..]);
        let signatures = header.strip_prefix("v0=").into_iter();
        signature::verify_body(host, &key, "sha256", around, Encoding::Hex, signatures)?;
        Ok(Principal::anonymous())
    }

    fn map_payload<H: Host>(host: &H) -> Result<Mapped, Failure> {
        inbound::map_payload(host)
    }

    fn reply<H: Host>(host: &H) -> Result<HttpReply, Failure> {
        outbound::reply(host)
    }

    fn deliver<H: Host>(host: &H) -> Result<(), Failure> {
        outbound::deliver(host)
    }
}

wardgate_sdk::without_std!();
wardgate_sdk::export_integration!(Slack, replier);
