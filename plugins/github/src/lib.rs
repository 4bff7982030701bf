//! GitHub's webhooks: verifies `X-Hub-Signature-256` (docs.github.com, "Validating webhook deliveries") and
//! gives each event a prompt that describes it. Each issue, pull request and branch is a thread.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod events;
#[cfg(test)]
mod tests;

use alloc::format;
use wardgate_sdk::host::{Host, HostWithPayload};
use wardgate_sdk::integration::Integration;
use wardgate_sdk::mapper::Mapped;
use wardgate_sdk::mapping::{EVENTS, IGNORED_USERS, apply_ignored_users, matches_any_pattern};
use wardgate_sdk::settings::{Format, Setting};
use wardgate_sdk::signature::Encoding;
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{Failure, HttpReply, signature};

const BOTS: Setting = Setting {
    name: "bots",
    default: Some("ignore"),
    format: Format::OneOf(&["ignore", "run"]),
    description: "What to do with events that a bot caused. An agent that writes to GitHub as one would \
                  answer itself for ever.",
};

const TEXTS: Setting = Setting {
    name: "texts",
    default: Some("context"),
    format: Format::OneOf(&["context", "prompt"]),
    description: "Where titles and texts that people wrote go: `context`, where they are data, or also \
                  `prompt`, where they tell the agent what to do. Anybody can write to a public \
                  repository.",
};

struct GitHub;

impl Integration for GitHub {
    const SETTINGS: &'static [Setting] = &[EVENTS, BOTS, TEXTS, IGNORED_USERS];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        let header = signature::required_header(host, "x-hub-signature-256")?;
        let key = host.open_secret("secret")?;
        let signatures = header.strip_prefix("sha256=").into_iter();
        let around = (&[][..], &[][..]);
        signature::verify_body(host, &key, "sha256", around, Encoding::Hex, signatures)?;
        Ok(Principal::anonymous())
    }

    fn map_payload<H: Host>(host: &H) -> Result<Mapped, Failure> {
        let event = host
            .header("x-github-event")
            .ok_or_else(|| Failure::invalid_input("the header `x-github-event` is missing"))?;
        if event == "ping" {
            let pong = HttpReply::new(200, "pong").with_header("content-type", "text/plain");
            return Ok(Mapped::reply(pong));
        }
        // By default, GitHub sends a form with one field, which holds the event.
        let host = &match is_form(host) {
            true => HostWithPayload::from_field(host, "/payload")
                .ok_or_else(|| Failure::invalid_input("the form's `payload` holds no event"))?,
            false => HostWithPayload::original(host),
        };
        let action = host.scalar("/action");
        let qualified_event = match &action {
            Some(action) => format!("{event}.{action}"),
            None => event.clone(),
        };
        let patterns = EVENTS.value(host)?;
        let is_wanted = matches_any_pattern(&patterns, &qualified_event)
            || matches_any_pattern(&patterns, &event);
        let is_from_bot = host.scalar("/sender/type").as_deref() == Some("Bot");
        if !is_wanted || (is_from_bot && BOTS.value(host)? == "ignore") {
            return Ok(Mapped::ignore());
        }
        let include_user_texts = TEXTS.value(host)? == "prompt";
        let prompt = events::prompt(host, &event, action.as_deref(), include_user_texts);
        let mut mapped = Mapped::run().with_param("prompt", prompt);
        if let Some(thread) = events::thread_id(host, &event) {
            mapped = mapped.with_param("task_id", thread);
        }
        if let Some(login) = host.scalar("/sender/login") {
            mapped = mapped.with_param("user_id", login);
        }
        if let Some(event) = host.embedded_object() {
            mapped = mapped.with_context(event.into());
        }
        mapped.delivery_id = host.header("x-github-delivery");
        apply_ignored_users(host, mapped)
    }
}

fn is_form(host: &impl Host) -> bool {
    let content_type = host.header("content-type").unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

wardgate_sdk::without_std!();
wardgate_sdk::export_integration!(GitHub);
