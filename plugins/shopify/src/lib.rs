//! Shopify's webhooks: verifies `X-Shopify-Hmac-Sha256`, a base64 HMAC-SHA256 of the body
//! (shopify.dev/docs/apps/build/webhooks, "Verify webhook deliveries"), or the same header without `X-`, as
//! Shopify's newer "Events" send it.
//!
//! Only the body is signed, so there is no timestamp to check. The event's id identifies duplicates
//! ("Ignore duplicate webhooks").

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
use wardgate_sdk::settings::{Format, Setting, SettingValues};
use wardgate_sdk::signature::Encoding;
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{Failure, signature};

const SHOPS: Setting = Setting {
    name: "shops",
    default: Some("*"),
    format: Format::Text,
    description: "The shops whose events start a run, such as `a.myshopify.com b.myshopify.com`. The \
                  name of the shop is not signed.",
};

struct Shopify;

impl Integration for Shopify {
    const SETTINGS: &'static [Setting] =
        &[EVENTS, SHOPS, PROMPT_PATH, THREAD_PATH, USER_PATH, IGNORED_USERS];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        let signature = shopify_header(host, "hmac-sha256").ok_or_else(|| {
            Failure::unauthorized("the header `x-shopify-hmac-sha256` is missing")
        })?;
        let key = host.open_secret("secret")?;
        let signatures = core::iter::once(signature.as_str());
        let around = (&[][..], &[][..]);
        signature::verify_body(host, &key, "sha256", around, Encoding::Base64, signatures)?;
        Ok(Principal::anonymous())
    }

    fn map_payload<H: Host>(host: &H) -> Result<Mapped, Failure> {
        let topic = shopify_header(host, "topic")
            .ok_or_else(|| Failure::invalid_input("the header `x-shopify-topic` is missing"))?;
        let shop = shopify_header(host, "shop-domain");
        let shop_name = shop.as_deref().unwrap_or_default();
        if !matches_any_pattern(&EVENTS.value(host)?, &topic)
            || !matches_any_pattern(&SHOPS.value(host)?, shop_name)
        {
            return Ok(Mapped::ignore());
        }
        let name = host.scalar("/name").or_else(|| host.scalar("/title"));
        let about = name.map_or_else(Default::default, |name| format!(" about “{name}”"));
        let from = shop.as_deref().map_or_else(Default::default, |shop| format!(" from {shop}"));
        let mut mapped =
            Mapped::run().with_param("prompt", format!("Shopify event {topic}{about}{from}."));
        // An order and its later events share a thread.
        let (kind, _) = topic.split_once('/').unwrap_or((&topic, ""));
        let text_at = |pointer: &str| host.scalar(pointer).filter(|id| !id.is_empty());
        let object = match text_at("/order_id") {
            Some(order) => Some(("orders", order)),
            None => text_at("/id").map(|id| (kind, id)),
        };
        // Without the shop, the same id may be another shop's object.
        if let Some((shop, (kind, id))) = shop.zip(object) {
            mapped = mapped.with_param("task_id", format!("shopify:{shop}:{kind}:{id}"));
        }
        // Shopify can report one event under several topics; each topic starts its own run.
        mapped.delivery_id = shopify_header(host, "event-id")
            .or_else(|| shopify_header(host, "webhook-id"))
            .map(|id| format!("{topic} {id}"));
        apply_path_settings(host, mapped)
    }

    fn check_settings(settings: &SettingValues) -> Vec<Diagnostic> {
        check_ignored_users(settings)
    }
}

fn shopify_header(host: &impl Host, name: &str) -> Option<String> {
    host.header(&format!("x-shopify-{name}")).or_else(|| host.header(&format!("shopify-{name}")))
}

wardgate_sdk::without_std!();
wardgate_sdk::export_integration!(Shopify);
