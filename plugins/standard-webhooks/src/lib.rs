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
    EVENTS, IGNORED_USERS, PROMPT_PATH, THREAD_PATH, USER_PATH, check_ignored_users, listed,
    with_paths,
};
use wardgate_sdk::settings::{Form, Setting, TOLERANCE, Texts};
use wardgate_sdk::signature::Encoding;
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{Failure, signature};

const HEADERS: Setting = Setting {
    name: "headers",
    default: Some("webhook"),
    form: Form::OneOf(&["webhook", "svix"]),
    description: "How the three headers begin: `webhook-id` or, from older senders, `svix-id`.",
};

struct StandardWebhooks;

impl Integration for StandardWebhooks {
    const SETTINGS: &'static [Setting] =
        &[HEADERS, TOLERANCE, EVENTS, PROMPT_PATH, THREAD_PATH, USER_PATH, IGNORED_USERS];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        let headers = HEADERS.read(host)?;
        let id = signature::header(host, &format!("{headers}-id"))?;
        let timestamp = signature::header(host, &format!("{headers}-timestamp"))?;
        let signatures = signature::header(host, &format!("{headers}-signature"))?;
        signature::fresh(&timestamp, host.now(), TOLERANCE.number(host)?)?;
        let key = host.open_encoded("secret", "whsec_", "base64")?;
        let before = format!("{id}.{timestamp}.");
        let around = (before.as_bytes(), &[][..]);
        let found = signatures.split(' ').filter_map(|signature| signature.strip_prefix("v1,"));
        signature::verify_any_of_body(host, &key, "sha256", around, Encoding::Base64, found)?;
        Ok(Principal::anonymous())
    }

    fn map<H: Host>(host: &H) -> Result<Mapped, Failure> {
        // The spec recommends a type in the payload but does not require it.
        let event = host.scalar("/type").filter(|event| !event.is_empty());
        let event = event.unwrap_or_else(|| String::from("event"));
        if !listed(&EVENTS.read(host)?, &event) {
            return Ok(Mapped::ignore());
        }
        let mut mapped = Mapped::run().with_param("prompt", format!("Webhook event {event}."));
        mapped.delivery_id = host.header(&format!("{}-id", HEADERS.read(host)?));
        with_paths(host, mapped)
    }

    fn check(settings: &Texts) -> Vec<Diagnostic> {
        check_ignored_users(settings)
    }
}

wardgate_sdk::without_std!();
wardgate_sdk::export_integration!(StandardWebhooks);
