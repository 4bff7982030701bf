//! Forms and JSON from Zapier ("Webhooks by Zapier") and whatever else posts fields of the user's
//! choice: Make, IFTTT, a form on a page.
//!
//! They do not sign, so a shared token is compared: in a header of the operator's choice, as a bearer
//! token, or as the password of basic authentication, which is what Zapier's field "Basic Auth" sends.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

#[cfg(test)]
mod tests;

use alloc::string::String;
use alloc::vec::Vec;
use wardgate_sdk::answer::{self, FAILURE_TEXT, RunOutcome};
use wardgate_sdk::egress::Outgoing;
use wardgate_sdk::host::Host;
use wardgate_sdk::integration::Integration;
use wardgate_sdk::json::ObjectBuilder;
use wardgate_sdk::mapper::Mapped;
use wardgate_sdk::mapping::{IGNORED_USERS, apply_ignored_users};
use wardgate_sdk::settings::{Format, Setting, misconfigured};
use wardgate_sdk::signature::Encoding;
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{DotPath, Failure, HttpReply, delivery, json};

const TOKEN_HEADER: Setting = Setting {
    name: "token-header",
    default: Some("x-webhook-token"),
    format: Format::HeaderName,
    description: "The header that holds the token. Without it in a request, `authorization` counts, with \
                  a bearer token or the token as password.",
};

const DELIVERY_HEADER: Setting = Setting {
    name: "delivery-header",
    default: Some(""),
    format: Format::HeaderName,
    description: "The header that holds the sender's id of the delivery, against duplicates.",
};

const PROMPT_PATH: Setting =
    path_setting("prompt-path", "prompt", "The dot path of the prompt in the payload.");
const THREAD_PATH: Setting =
    path_setting("thread-path", "task_id", "The dot path of what names the thread in the payload.");
const USER_PATH: Setting =
    path_setting("user-path", "user_id", "The dot path of the user's id in the payload.");
const EMAIL_PATH: Setting = path_setting(
    "email-path",
    "user_email",
    "The dot path of the user's e-mail address in the payload.",
);
const CALLBACK_PATH: Setting = path_setting(
    "callback-path",
    "callback_url",
    "The dot path of the URL in the payload to which the answer is delivered, as \
     `z.generateCallbackUrl` makes it.",
);

const fn path_setting(
    name: &'static str,
    default: &'static str,
    description: &'static str,
) -> Setting {
    Setting { name, default: Some(default), format: Format::DotPath, description }
}

struct ZapierForm;

impl Integration for ZapierForm {
    const SETTINGS: &'static [Setting] = &[
        TOKEN_HEADER, DELIVERY_HEADER, PROMPT_PATH, THREAD_PATH, USER_PATH, EMAIL_PATH,
        CALLBACK_PATH, IGNORED_USERS, FAILURE_TEXT,
    ];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        let header = TOKEN_HEADER.value(host)?;
        if header.is_empty() {
            return Err(misconfigured("`token-header` is to be the name of a header"));
        }
        // A header named `authorization` is read as one, or its scheme would count as token.
        let header_token = match header.eq_ignore_ascii_case("authorization") {
            true => None,
            false => host.header(&header).map(String::into_bytes),
        };
        let token = header_token
            .or_else(|| authorization_token(&host.header("authorization")?))
            .filter(|token| !token.is_empty())
            .ok_or_else(|| Failure::unauthorized("there is no token"))?;
        let secret = host.open_secret("secret")?;
        if host.secret_matches(&secret, &token) {
            Ok(Principal::anonymous())
        } else {
            Err(Failure::unauthorized("the token does not match"))
        }
    }

    fn map_payload<H: Host>(host: &H) -> Result<Mapped, Failure> {
        let mut mapped = Mapped::run();
        for (setting, target) in [
            (PROMPT_PATH, "prompt"),
            (THREAD_PATH, "task_id"),
            (USER_PATH, "user_id"),
            (EMAIL_PATH, "user_email"),
        ] {
            if let Some(value) = scalar_at(host, &setting)?.filter(|value| !value.is_empty()) {
                mapped = mapped.with_param(target, value);
            }
        }
        let header = DELIVERY_HEADER.value(host)?;
        if !header.is_empty() {
            mapped.delivery_id = host.header(&header);
        }
        apply_ignored_users(host, mapped)
    }

    fn reply<H: Host>(host: &H) -> Result<HttpReply, Failure> {
        let body = outcome_json(host)?;
        Ok(HttpReply::new(200, body).with_header("content-type", "application/json"))
    }

    fn deliver<H: Host>(host: &H) -> Result<(), Failure> {
        answer::text_to_deliver(host)?;
        let url = scalar_at(host, &CALLBACK_PATH)?
            .filter(|url| !url.is_empty())
            .ok_or_else(|| delivery::refused("the payload has no URL to deliver to"))?;
        let outgoing = Outgoing::post(url, "application/json", outcome_json(host)?);
        delivery::check_response(&host.send(&outgoing, None)?)
    }
}

/// The token in an `Authorization` header: RFC 6750 (bearer) or RFC 7617 (basic).
fn authorization_token(header: &str) -> Option<Vec<u8>> {
    let (scheme, rest) = header.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    // The first colon ends the user's name; a password may have colons of its own.
    let credentials = Encoding::Base64.decode(rest)?;
    let colon = credentials.iter().position(|byte| *byte == b':')?;
    credentials.get(colon + 1..).map(<[u8]>::to_vec)
}

fn scalar_at(host: &impl Host, setting: &Setting) -> Result<Option<String>, Failure> {
    let path = setting.value(host)?;
    if path.is_empty() {
        return Ok(None);
    }
    Ok(host.scalar(DotPath::parse(&path)?.pointer()))
}

/// A flat object, for that is what a form's next step can use.
fn outcome_json(host: &impl Host) -> Result<String, Failure> {
    let text = |pointer: &str| host.task_json(pointer).as_deref().and_then(json::decode_string);
    let result = match RunOutcome::from_task(host) {
        RunOutcome::Pending => None,
        RunOutcome::Completed(result) => Some(result),
        RunOutcome::Failed(_) => Some(FAILURE_TEXT.value(host)?),
    };
    Ok(ObjectBuilder::new()
        .maybe_string("id", text("/id").as_deref())
        .maybe_string("status", text("/status").as_deref())
        .maybe_string("result", result.as_deref())
        .finish())
}

wardgate_sdk::without_std!();
wardgate_sdk::export_integration!(ZapierForm, replier);
