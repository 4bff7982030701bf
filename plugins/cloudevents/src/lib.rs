//! CloudEvents 1.0 over HTTP (cloudevents/spec, `http-protocol-binding.md` and `http-webhook.md`):
//! structured and binary events, a shared token in `Authorization` or `access_token`, and the OPTIONS
//! handshake for abuse protection.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod event;
#[cfg(test)]
mod tests;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use event::Event;
use wardgate_sdk::about::Diagnostic;
use wardgate_sdk::host::Host;
use wardgate_sdk::integration::Integration;
use wardgate_sdk::mapper::Mapped;
use wardgate_sdk::mapping::{
    EVENTS, IGNORED_USERS, PROMPT_PATH, THREAD_PATH, USER_PATH, apply_path_settings,
    check_ignored_users, matches_any_pattern,
};
use wardgate_sdk::settings::{Format, Setting, SettingValues};
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{Failure, HttpReply};

const ALLOWED_ORIGINS: Setting = Setting {
    name: "allowed-origins",
    default: Some(""),
    format: Format::Text,
    description: "The senders that may register this channel by OPTIONS, such as \
                  `eventemitter.example.com`; `*` stands for all.",
};

const ALLOWED_RATE: Setting = Setting {
    name: "allowed-rate",
    default: Some("120"),
    format: Format::Number(1, 1_000_000),
    description: "How many requests a minute are allowed such a sender in the answer to its handshake.",
};

struct CloudEvents;

impl Integration for CloudEvents {
    const SETTINGS: &'static [Setting] = &[
        EVENTS, ALLOWED_ORIGINS, ALLOWED_RATE, PROMPT_PATH, THREAD_PATH, USER_PATH, IGNORED_USERS,
    ];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        // The handshake has no token. It is accepted from origins that the operator allows, and starts no
        // run.
        if host.method() == "OPTIONS" {
            allowed_origin(host)?;
            return Ok(Principal::anonymous());
        }
        let token = match host.header("authorization") {
            Some(header) => bearer_token(&header).map(String::from),
            None => form_urlencoded::parse(host.query().as_bytes())
                .find(|(name, _)| name == "access_token")
                .map(|(_, value)| value.into_owned()),
        };
        let token = token
            .filter(|token| !token.is_empty())
            .ok_or_else(|| Failure::unauthorized("there is no bearer token"))?;
        let secret = host.open_secret("secret")?;
        if host.secret_matches(&secret, token.as_bytes()) {
            Ok(Principal::anonymous())
        } else {
            Err(Failure::unauthorized("the bearer token does not match"))
        }
    }

    fn map_payload<H: Host>(host: &H) -> Result<Mapped, Failure> {
        if host.method() == "OPTIONS" {
            return validation_handshake(host);
        }
        let Some(event) = Event::from_request(host)? else {
            // "If the notification format has not been understood, the service MUST respond with 415."
            let text = "Only single events are taken, in JSON or in binary mode.";
            let reply = HttpReply::new(415, text).with_header("content-type", "text/plain");
            return Ok(Mapped::reply(reply));
        };
        if !matches_any_pattern(&EVENTS.value(host)?, &event.event_type) {
            return Ok(Mapped::ignore());
        }
        apply_path_settings(host, event.into_mapped(host))
    }

    fn check_settings(settings: &SettingValues) -> Vec<Diagnostic> {
        check_ignored_users(settings)
    }
}

/// The bearer token of an `Authorization` header, RFC 6750, section 2.1. The scheme is case-insensitive, RFC
/// 9110, section 11.1.
fn bearer_token(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The response to a handshake, `http-webhook.md`, section 4.2: grants permission to origins that the
/// operator allows.
fn validation_handshake(host: &impl Host) -> Result<Mapped, Failure> {
    let origin = allowed_origin(host)?;
    Ok(Mapped::reply(
        HttpReply::new(200, "")
            .with_header("allow", "POST")
            .with_header("webhook-allowed-origin", origin)
            .with_header("webhook-allowed-rate", format!("{}", ALLOWED_RATE.number(host)?)),
    ))
}

fn allowed_origin(host: &impl Host) -> Result<String, Failure> {
    let origins = ALLOWED_ORIGINS.value(host)?;
    host.header("webhook-request-origin")
        .filter(|origin| matches_any_pattern(&origins, origin))
        .ok_or_else(|| Failure::forbidden("this sender is not among the allowed origins"))
}

wardgate_sdk::without_std!();
wardgate_sdk::export_integration!(CloudEvents);
