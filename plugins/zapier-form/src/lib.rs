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
use wardgate_sdk::answer::{self, Answer, FAILURE_TEXT};
use wardgate_sdk::egress::Outgoing;
use wardgate_sdk::host::Host;
use wardgate_sdk::integration::Integration;
use wardgate_sdk::json::Object;
use wardgate_sdk::mapper::Mapped;
use wardgate_sdk::mapping::{IGNORED_USERS, unless_ignored};
use wardgate_sdk::settings::{Form, Setting, misconfigured};
use wardgate_sdk::signature::Encoding;
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{DotPath, Failure, HttpReply, delivery, json};

const TOKEN_HEADER: Setting = Setting {
    name: "token-header",
    default: Some("x-webhook-token"),
    form: Form::Header,
    description: "The header that holds the token. Without it in a request, `authorization` counts, with \
                  a bearer token or the token as password.",
};

const DELIVERY_HEADER: Setting = Setting {
    name: "delivery-header",
    default: Some(""),
    form: Form::Header,
    description: "The header that holds the sender's id of the delivery, against duplicates.",
};

const PROMPT: Setting = path("prompt-path", "prompt", "The dot path of the prompt in the payload.");
const THREAD: Setting =
    path("thread-path", "task_id", "The dot path of what names the thread in the payload.");
const USER: Setting = path("user-path", "user_id", "The dot path of the user's id in the payload.");
const EMAIL: Setting =
    path("email-path", "user_email", "The dot path of the user's e-mail address in the payload.");
const CALLBACK: Setting = path(
    "callback-path",
    "callback_url",
    "The dot path of the URL in the payload to which the answer is delivered, as \
     `z.generateCallbackUrl` makes it.",
);

const fn path(name: &'static str, default: &'static str, description: &'static str) -> Setting {
    Setting { name, default: Some(default), form: Form::Path, description }
}

struct ZapierForm;

impl Integration for ZapierForm {
    const SETTINGS: &'static [Setting] = &[
        TOKEN_HEADER, DELIVERY_HEADER, PROMPT, THREAD, USER, EMAIL, CALLBACK, IGNORED_USERS,
        FAILURE_TEXT,
    ];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        let header = TOKEN_HEADER.read(host)?;
        if header.is_empty() {
            return Err(misconfigured("`token-header` is to be the name of a header"));
        }
        // A header named `authorization` is read as one, or its scheme would count as token.
        let own = match header.eq_ignore_ascii_case("authorization") {
            true => None,
            false => host.header(&header).map(String::into_bytes),
        };
        let token = own
            .or_else(|| authorization(&host.header("authorization")?))
            .filter(|token| !token.is_empty())
            .ok_or_else(|| Failure::unauthorized("there is no token"))?;
        let secret = host.open("secret")?;
        if host.matches(&secret, &token) {
            Ok(Principal::anonymous())
        } else {
            Err(Failure::unauthorized("the token does not match"))
        }
    }

    fn map<H: Host>(host: &H) -> Result<Mapped, Failure> {
        let mut mapped = Mapped::run();
        for (setting, target) in
            [(PROMPT, "prompt"), (THREAD, "task_id"), (USER, "user_id"), (EMAIL, "user_email")]
        {
            if let Some(value) = find(host, &setting)?.filter(|value| !value.is_empty()) {
                mapped = mapped.with_param(target, value);
            }
        }
        let header = DELIVERY_HEADER.read(host)?;
        if !header.is_empty() {
            mapped.delivery_id = host.header(&header);
        }
        unless_ignored(host, mapped)
    }

    fn reply<H: Host>(host: &H) -> Result<HttpReply, Failure> {
        let body = outcome(host)?;
        Ok(HttpReply::new(200, body).with_header("content-type", "application/json"))
    }

    fn deliver<H: Host>(host: &H) -> Result<(), Failure> {
        answer::to_deliver(host)?;
        let url = find(host, &CALLBACK)?
            .filter(|url| !url.is_empty())
            .ok_or_else(|| delivery::refused("the payload has no URL to deliver to"))?;
        let outgoing = Outgoing::post(url, "application/json", outcome(host)?);
        delivery::accepted(&host.send(&outgoing, None)?)
    }
}

/// The token in an `Authorization` header: RFC 6750 (bearer) or RFC 7617 (basic).
fn authorization(header: &str) -> Option<Vec<u8>> {
    let (scheme, rest) = header.split_once(' ')?;
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    // The first colon ends the user's name; a password may have colons of its own.
    let pair = Encoding::Base64.decode(rest)?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    pair.get(colon + 1..).map(<[u8]>::to_vec)
}

fn find(host: &impl Host, setting: &Setting) -> Result<Option<String>, Failure> {
    let path = setting.read(host)?;
    if path.is_empty() {
        return Ok(None);
    }
    Ok(host.scalar(DotPath::parse(&path)?.pointer()))
}

/// A flat object, for that is what a form's next step can use.
fn outcome(host: &impl Host) -> Result<String, Failure> {
    let text = |pointer: &str| host.task(pointer).as_deref().and_then(json::text);
    let result = match answer::read(host) {
        Answer::Pending => None,
        Answer::Done(result) => Some(result),
        Answer::Failed(_) => Some(FAILURE_TEXT.read(host)?),
    };
    Ok(Object::new()
        .maybe_string("id", text("/id").as_deref())
        .maybe_string("status", text("/status").as_deref())
        .maybe_string("result", result.as_deref())
        .finish())
}

wardgate_sdk::without_std!();
wardgate_sdk::export_integration!(ZapierForm, replier);
