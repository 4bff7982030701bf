//! Standard Webhooks 1.0.0 (`spec/standard-webhooks.md` in standard-webhooks/standard-webhooks), as OpenAI,
//! Svix and many others send them: an HMAC-SHA256 of id, timestamp and body.
//!
//! The signature header may hold several signatures separated by spaces. Versions other than `v1` (`v1a` is
//! asymmetric) are ignored.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

#[cfg(test)]
mod tests;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use wardgate_sdk::about::Diagnostic;
use wardgate_sdk::host::Host;
use wardgate_sdk::integration::Integration;
use wardgate_sdk::mapper::Mapped;
use wardgate_sdk::mapping::{
    EVENTS, IGNORED_USERS, PROMPT_PATH, THREAD_PATH, USER_PATH, apply_path_settings,
    check_ignored_users, matches_any_pattern,
};
use wardgate_sdk::settings::{Format, Setting, SettingValues, TOLERANCE_SECONDS};
use wardgate_sdk::signature::Encoding;
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{Failure, signature};

const HEADER_PREFIX: Setting = Setting {
    name: "headers",
    default: Some("webhook"),
    format: Format::OneOf(&["webhook", "svix"]),
    description: "How the three headers begin: `webhook-id` or, from older senders, `svix-id`.",
};

struct StandardWebhooks;

impl Integration for StandardWebhooks {
    const SETTINGS: &'static [Setting] = &[
        HEADER_PREFIX, TOLERANCE_SECONDS, EVENTS, PROMPT_PATH, THREAD_PATH, USER_PATH,
        IGNORED_USERS,
    ];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        let prefix = HEADER_PREFIX.value(host)?;
        let id = signature::required_header(host, &format!("{prefix}-id"))?;
        let timestamp = signature::required_header(host, &format!("{prefix}-timestamp"))?;
        let header = signature::required_header(host, &format!("{prefix}-signature"))?;
        signature::check_timestamp_seconds(
            &timestamp,
            host.now_seconds(),
            TOLERANCE_SECONDS.number(host)?,
        )?;
        let key = host.open_encoded_secret("secret", "whsec_", "base64")?;
        let before = format!("{id}.{timestamp}.");
        let around = (before.as_bytes(), &[][..]);
        let signatures = header.split(' ').filter_map(|signature| signature.strip_prefix("v1,"));
        signature::verify_body(host, &key, "sha256", around, Encoding::Base64, signatures)?;
        Ok(Principal::anonymous())
    }

    fn map_payload<H: Host>(host: &H) -> Result<Mapped, Failure> {
        // The spec recommends a type in the payload but does not require it.
        let event = host.scalar("/type").filter(|event| !event.is_empty());
        let event = event.unwrap_or_else(|| String::from("event"));
        if !matches_any_pattern(&EVENTS.value(host)?, &event) {
            return Ok(Mapped::ignore());
        }
        let mut mapped = Mapped::run().with_param("prompt", format!("Webhook event {event}."));
        mapped.delivery_id = host.header(&format!("{}-id", HEADER_PREFIX.value(host)?));
        apply_path_settings(host, mapped)
    }

    fn check_settings(settings: &SettingValues) -> Vec<Diagnostic> {
        check_ignored_users(settings)
    }
}

wardgate_sdk::without_std!();
wardgate_sdk::export_integration!(StandardWebhooks);
