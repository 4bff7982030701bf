//! Twilio: messages (SMS, MMS, WhatsApp), conversations, and speech in calls.
//!
//! Requests are verified as in "Validating signatures from Twilio" (twilio.com/docs/usage/security). If the
//! channel waits for the run (Twilio waits for 15 seconds), the answer is TwiML in the response; otherwise,
//! it is a message sent by the REST API. In conversations it is always a message.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod inbound;
mod outbound;
#[cfg(test)]
mod tests;
mod verification;

use wardgate_sdk::answer::FAILURE_TEXT;
use wardgate_sdk::host::Host;
use wardgate_sdk::integration::Integration;
use wardgate_sdk::mapper::Mapped;
use wardgate_sdk::settings::{Format, Setting};
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{Failure, HttpReply};

const API_URL: Setting = Setting {
    name: "api-url",
    default: Some("https://api.twilio.com"),
    format: Format::BaseUrl,
    description: "Where Twilio's REST API is.",
};

const CONVERSATIONS_URL: Setting = Setting {
    name: "conversations-url",
    default: Some("https://conversations.twilio.com"),
    format: Format::BaseUrl,
    description: "Where Twilio's Conversations API is.",
};

struct Twilio;

impl Integration for Twilio {
    const SETTINGS: &'static [Setting] = &[API_URL, CONVERSATIONS_URL, FAILURE_TEXT];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        verification::verify(host)?;
        Ok(Principal::anonymous())
    }

    fn map_payload<H: Host>(host: &H) -> Result<Mapped, Failure> {
        Ok(inbound::map_payload(host))
    }

    fn reply<H: Host>(host: &H) -> Result<HttpReply, Failure> {
        outbound::reply(host)
    }

    fn deliver<H: Host>(host: &H) -> Result<(), Failure> {
        outbound::deliver(host)
    }
}

wardgate_sdk::without_std!();
wardgate_sdk::export_integration!(Twilio, replier);
