//! Telegram bots.
//!
//! Telegram does not sign its requests. It sends the `secret_token` that was passed to `setWebhook`, in
//! `X-Telegram-Bot-Api-Secret-Token` (core.telegram.org/bots/api#setwebhook). If the channel waits for the
//! run, the answer is in the response ("Making requests when getting updates"); otherwise, the plugin sends
//! it by a request of its own.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod outbound;
#[cfg(test)]
mod tests;
mod update;

use update::Update;
use wardgate_sdk::answer::FAILURE_TEXT;
use wardgate_sdk::host::Host;
use wardgate_sdk::integration::Integration;
use wardgate_sdk::mapper::Mapped;
use wardgate_sdk::mapping::matches_any_pattern;
use wardgate_sdk::settings::{Format, Setting};
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{Failure, HttpReply, signature};

const EVENTS: Setting = Setting {
    name: "events",
    default: Some("message callback_query"),
    format: Format::Text,
    description: "The kinds of updates that start a run, separated by spaces or commas: message, \
                  edited_message, channel_post, edited_channel_post, business_message, \
                  edited_business_message, callback_query.",
};

const API_URL: Setting = Setting {
    name: "api-url",
    default: Some("https://api.telegram.org"),
    format: Format::BaseUrl,
    description: "Where the Bot API is.",
};

const TYPING: Setting = Setting {
    name: "typing",
    default: Some("yes"),
    format: Format::OneOf(&["yes", "no"]),
    description: "Whether the bot seems to type while an answer is in the making.",
};

struct Telegram;

impl Integration for Telegram {
    const SETTINGS: &'static [Setting] = &[EVENTS, API_URL, TYPING, FAILURE_TEXT];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        let token = signature::required_header(host, "x-telegram-bot-api-secret-token")?;
        let secret = host.open_secret("secret")?;
        if host.secret_matches(&secret, token.as_bytes()) {
            Ok(Principal::anonymous())
        } else {
            Err(Failure::unauthorized("the secret token does not match"))
        }
    }

    fn map_payload<H: Host>(host: &H) -> Result<Mapped, Failure> {
        let id = host
            .scalar("/update_id")
            .ok_or_else(|| Failure::invalid_input("this is no update of Telegram"))?;
        let event_patterns = EVENTS.value(host)?;
        let Some(update) = Update::from_request(host)
            .filter(|update| matches_any_pattern(&event_patterns, update.kind))
        else {
            return Ok(Mapped::ignore());
        };
        let (Some(prompt), false) = (update.text(host), update.needs_no_answer(host)) else {
            // An update without text (a sticker, a new member), or one that needs no answer.
            return Ok(Mapped::ignore());
        };
        let mut mapped = Mapped::run().with_param("prompt", prompt).with_delivery_id(id);
        if let Some(conversation) = update.conversation(host) {
            mapped = mapped.with_param("task_id", conversation.thread_id());
        }
        for (target, pointer) in update.sender_params(host) {
            if let Some(value) = update.text_at(host, pointer) {
                mapped = mapped.with_param(*target, value);
            }
        }
        Ok(mapped)
    }

    fn reply<H: Host>(host: &H) -> Result<HttpReply, Failure> {
        outbound::reply(host)
    }

    fn deliver<H: Host>(host: &H) -> Result<(), Failure> {
        outbound::deliver(host)
    }
}

wardgate_sdk::without_std!();
wardgate_sdk::export_integration!(Telegram, replier);
