//! Twilio: messages (SMS, MMS, WhatsApp) and what was said in calls.
//!
//! Verified after "Validating signatures from Twilio" (twilio.com/docs/usage/security). The answer is
//! TwiML in the response where the channel waits for the run (Twilio does for 15 seconds), or a message
//! of its own through the REST API.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod outbound;
mod signed;
#[cfg(test)]
mod tests;

use alloc::format;
use wardgate_sdk::answer::FAILURE_TEXT;
use wardgate_sdk::host::Host;
use wardgate_sdk::integration::Integration;
use wardgate_sdk::mapper::Mapped;
use wardgate_sdk::settings::{Form, Setting};
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{Failure, HttpReply};

const API_URL: Setting = Setting {
    name: "api-url",
    default: Some("https://api.twilio.com"),
    form: Form::Url,
    description: "Where Twilio's REST API is.",
};

struct Twilio;

impl Integration for Twilio {
    const SETTINGS: &'static [Setting] = &[API_URL, FAILURE_TEXT];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        signed::verify(host)?;
        Ok(Principal::anonymous())
    }

    fn map<H: Host>(host: &H) -> Result<Mapped, Failure> {
        let at = |name: &str| host.scalar(name).filter(|text| !text.is_empty());
        let from = at("/From");
        let (prompt, thread) = if let Some(text) = host.scalar("/Body") {
            let media = at("/NumMedia").filter(|count| count != "0");
            let prompt = match (text.is_empty(), media) {
                (false, _) => text,
                (true, Some(count)) => format!("A message without text, with {count} attachments."),
                (true, None) => return Ok(Mapped::ignore()),
            };
            let (to, from) = (at("/To").unwrap_or_default(), from.clone().unwrap_or_default());
            (prompt, format!("twilio:{to}:{from}"))
        } else if let Some((call, said)) =
            at("/CallSid").zip(at("/SpeechResult").or_else(|| at("/Digits")))
        {
            (said, format!("twilio:{call}"))
        } else {
            // What became of a message or a call that was sent from here.
            return Ok(Mapped::ignore());
        };
        let mut mapped = Mapped::run().with_param("prompt", prompt).with_param("task_id", thread);
        if let Some(from) = from {
            mapped = mapped.with_param("user_id", from);
        }
        if let Some(name) = at("/ProfileName") {
            mapped = mapped.with_param("user_first_name", name);
        }
        mapped.delivery_id = host.header("i-twilio-idempotency-token");
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
wardgate_sdk::export_integration!(Twilio, replier);
