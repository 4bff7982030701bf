//! Stripe's events: verifies `Stripe-Signature` (docs.stripe.com/webhooks, "Verify webhook signatures
//! manually"), which has one `v1=` for each secret in use.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

#[cfg(test)]
mod tests;

use alloc::format;
use alloc::vec::Vec;
use wardgate_sdk::about::Diagnostic;
use wardgate_sdk::host::Host;
use wardgate_sdk::integration::Integration;
use wardgate_sdk::mapper::Mapped;
use wardgate_sdk::mapping::{
    EVENTS, IGNORED_USERS, PROMPT_PATH, THREAD_PATH, USER_PATH, apply_path_settings,
    check_ignored_users, matches_any_pattern,
};
use wardgate_sdk::settings::{Setting, SettingValues, TOLERANCE_SECONDS};
use wardgate_sdk::signature::Encoding;
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{Failure, signature};

struct Stripe;

impl Integration for Stripe {
    const SETTINGS: &'static [Setting] =
        &[TOLERANCE_SECONDS, EVENTS, PROMPT_PATH, THREAD_PATH, USER_PATH, IGNORED_USERS];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        let header = signature::required_header(host, "stripe-signature")?;
        let timestamp = signature::part_values(&header, ',', "t")
            .next()
            .ok_or_else(|| Failure::unauthorized("`stripe-signature` has no timestamp"))?;
        signature::check_timestamp_seconds(
            timestamp,
            host.now_seconds(),
            TOLERANCE_SECONDS.number(host)?,
        )?;
        // The prefix `whsec_` of a Stripe secret is part of the key.
        let key = host.open_secret("secret")?;
        let before = format!("{timestamp}.");
        let around = (before.as_bytes(), &[][..]);
        let signatures = signature::part_values(&header, ',', "v1");
        signature::verify_body(host, &key, "sha256", around, Encoding::Hex, signatures)?;
        Ok(Principal::anonymous())
    }

    fn map_payload<H: Host>(host: &H) -> Result<Mapped, Failure> {
        let Some(event) = host.scalar("/type") else {
            return Err(Failure::invalid_input("this is no event of Stripe: it has no type"));
        };
        if !matches_any_pattern(&EVENTS.value(host)?, &event) {
            return Ok(Mapped::ignore());
        }
        // Events of the v2 API do not contain the object, only its id.
        let object = host
            .scalar("/data/object/id")
            .or_else(|| host.scalar("/related_object/id"))
            .filter(|id| !id.is_empty());
        let mode = match host.scalar("/livemode").as_deref() {
            Some("false") => " (test mode)",
            _ => "",
        };
        let about = object.as_deref().map_or_else(Default::default, |id| format!(" about {id}"));
        let mut mapped =
            Mapped::run().with_param("prompt", format!("Stripe event {event}{about}{mode}."));
        // All events of a customer share a thread.
        let customer = host.scalar("/data/object/customer").filter(|id| !id.is_empty());
        if let Some(thread) = customer.or(object) {
            mapped = mapped.with_param("task_id", format!("stripe:{thread}"));
        }
        mapped.delivery_id = host.scalar("/id").filter(|id| !id.is_empty());
        apply_path_settings(host, mapped)
    }

    fn check_settings(settings: &SettingValues) -> Vec<Diagnostic> {
        check_ignored_users(settings)
    }
}

wardgate_sdk::without_std!();
wardgate_sdk::export_integration!(Stripe);
