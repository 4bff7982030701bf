//! Telegram bots.
//!
//! Telegram does not sign: it sends the `secret_token` that was given to `setWebhook`, in
//! `X-Telegram-Bot-Api-Secret-Token` (core.telegram.org/bots/api#setwebhook). It is answered in the
//! response itself ("Making requests when getting updates") where the channel waits for the run, and by
//! a request of its own where it does not.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

#[cfg(test)]
mod tests;

use alloc::format;
use alloc::string::String;
use wardgate_sdk::answer::{self, Answer, FAILURE_TEXT};
use wardgate_sdk::egress::Outgoing;
use wardgate_sdk::host::Host;
use wardgate_sdk::integration::Integration;
use wardgate_sdk::json::Object;
use wardgate_sdk::mapper::Mapped;
use wardgate_sdk::mapping::listed;
use wardgate_sdk::settings::{Form, Setting};
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{DotPath, Failure, HttpReply, delivery, signature};

/// `sendMessage`: "1-4096 characters after entities parsing", counted in UTF-16 units.
const TEXT_MAX: usize = 4096;

/// How many messages one answer may become.
const MESSAGES_MAX: usize = 10;

/// The kinds of updates that hold something said, each a member of the update.
const KINDS: [&str; 7] = [
    "message",
    "edited_message",
    "channel_post",
    "edited_channel_post",
    "business_message",
    "edited_business_message",
    "callback_query",
];

const EVENTS: Setting = Setting {
    name: "events",
    default: Some("message callback_query"),
    form: Form::Text,
    description: "The kinds of updates that start a run, separated by spaces or commas: message, \
                  edited_message, channel_post, edited_channel_post, business_message, \
                  edited_business_message, callback_query.",
};

const API_URL: Setting = Setting {
    name: "api-url",
    default: Some("https://api.telegram.org"),
    form: Form::Url,
    description: "Where the Bot API is.",
};

const TYPING: Setting = Setting {
    name: "typing",
    default: Some("yes"),
    form: Form::OneOf(&["yes", "no"]),
    description: "Whether the bot seems to type while an answer is in the making.",
};

struct Telegram;

impl Integration for Telegram {
    const SETTINGS: &'static [Setting] = &[EVENTS, API_URL, TYPING, FAILURE_TEXT];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        let token = signature::header(host, "x-telegram-bot-api-secret-token")?;
        let secret = host.open("secret")?;
        if host.matches(&secret, token.as_bytes()) {
            Ok(Principal::anonymous())
        } else {
            Err(Failure::unauthorized("the secret token does not match"))
        }
    }

    fn map<H: Host>(host: &H) -> Result<Mapped, Failure> {
        let id = host
            .scalar("/update_id")
            .ok_or_else(|| Failure::invalid_input("this is no update of Telegram"))?;
        let wanted = EVENTS.read(host)?;
        let Some(update) = Update::read(host).filter(|update| listed(&wanted, update.kind)) else {
            return Ok(Mapped::ignore());
        };
        let said = match update.kind {
            "callback_query" => update.at(host, "/data"),
            _ => update.at(host, "/text").or_else(|| update.at(host, "/caption")),
        };
        let by_bot = update.at(host, "/from/is_bot").as_deref() == Some("true");
        let (Some(prompt), false) = (said, by_bot) else {
            return Ok(Mapped::ignore()); // A sticker, somebody who joined; or another bot.
        };
        let mut mapped = Mapped::run().with_param("prompt", prompt).with_delivery_id(id);
        if let Some(chat) = update.chat(host) {
            let thread = match update.topic(host) {
                Some(topic) => format!("telegram:{chat}:{topic}"),
                None => format!("telegram:{chat}"),
            };
            mapped = mapped.with_param("task_id", thread);
        }
        for (target, pointer) in [
            ("user_id", "/from/id"),
            ("user_first_name", "/from/first_name"),
            ("user_last_name", "/from/last_name"),
        ] {
            if let Some(value) = update.at(host, pointer) {
                mapped = mapped.with_param(target, value);
            }
        }
        Ok(mapped)
    }

    fn reply<H: Host>(host: &H) -> Result<HttpReply, Failure> {
        let text = match answer::read(host) {
            Answer::Pending => None,
            Answer::Done(text) => Some(text),
            Answer::Failed(_) => Some(FAILURE_TEXT.read(host)?),
        };
        let update = Update::read(host);
        let Some((update, chat)) = update.and_then(|update| Some((update, update.chat(host)?)))
        else {
            return Ok(HttpReply::new(200, ""));
        };
        let body = match text {
            Some(text) if text.is_empty() => return Ok(HttpReply::new(200, "")),
            Some(text) => {
                let text = answer::clip(&text, TEXT_MAX);
                message(host, &update, &chat, &text).string("method", "sendMessage").finish()
            }
            None if TYPING.read(host)? == "no" => return Ok(HttpReply::new(200, "")),
            None => to(host, &update, &chat)
                .string("method", "sendChatAction")
                .string("action", "typing")
                .finish(),
        };
        Ok(HttpReply::new(200, body).with_header("content-type", "application/json"))
    }

    fn deliver<H: Host>(host: &H) -> Result<(), Failure> {
        let text = answer::to_deliver(host)?;
        let (update, chat) = Update::read(host)
            .and_then(|update| Some((update, update.chat(host)?)))
            .ok_or_else(|| delivery::refused("the update came from no chat"))?;
        // The gateway puts the token in the place of that word; a plugin never has it.
        let url = format!("{}/botCREDENTIAL/sendMessage", API_URL.read(host)?);
        let mut rest = text.as_str();
        for _ in 0..MESSAGES_MAX {
            let (piece, behind) = answer::split(rest, TEXT_MAX);
            if piece.trim().is_empty() {
                return Ok(()); // Telegram refuses messages without text.
            }
            let body = message(host, &update, &chat, piece).finish();
            let outgoing = Outgoing::post(url.clone(), "application/json", body);
            let answer = host.send(&outgoing, Some("bot"))?;
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
}

/// What an update holds.
#[derive(Clone, Copy)]
struct Update {
    kind: &'static str,
}

impl Update {
    fn read(host: &impl Host) -> Option<Self> {
        // A kind that is there has somebody or some chat that it came from.
        let kind = KINDS.into_iter().find(|kind| {
            ["/chat/id", "/from/id"]
                .into_iter()
                .any(|pointer| host.scalar(&format!("/{kind}{pointer}")).is_some())
        })?;
        Some(Self { kind })
    }

    fn at(self, host: &impl Host, pointer: &str) -> Option<String> {
        host.scalar(&format!("/{}{pointer}", self.kind)).filter(|text| !text.is_empty())
    }

    /// A button belongs to the message that it is under.
    fn of_message(self, host: &impl Host, pointer: &str) -> Option<String> {
        match self.kind {
            "callback_query" => self.at(host, &format!("/message{pointer}")),
            _ => self.at(host, pointer),
        }
    }

    /// Ids are whole numbers, and go back as such.
    fn chat(self, host: &impl Host) -> Option<String> {
        self.of_message(host, "/chat/id").filter(|id| id.parse::<i64>().is_ok())
    }

    /// The topic of a forum; in other groups that member tells replies apart, which are no topics.
    fn topic(self, host: &impl Host) -> Option<String> {
        let topical = self.of_message(host, "/is_topic_message").as_deref() == Some("true");
        let id = self.of_message(host, "/message_thread_id")?;
        (topical && id.parse::<i64>().is_ok()).then_some(id)
    }
}

/// Where an answer goes.
fn to(host: &impl Host, update: &Update, chat: &str) -> Object {
    let mut object = Object::new();
    object.raw("chat_id", chat).maybe_raw("message_thread_id", update.topic(host).as_deref());
    object.maybe_string(
        "business_connection_id",
        update.of_message(host, "/business_connection_id").as_deref(),
    );
    object
}

/// A message as plain text. Without previews: Telegram would fetch any URL that an agent writes.
fn message(host: &impl Host, update: &Update, chat: &str, text: &str) -> Object {
    let mut object = to(host, update, chat);
    object.string("text", text).raw("link_preview_options", r#"{"is_disabled":true}"#);
    object
}

wardgate_sdk::without_std!();
wardgate_sdk::export_integration!(Telegram, replier);
