//! Any provider that signs with HMAC. A recipe in the settings says where the signature is, how it is
//! encoded, and what was signed.
//!
//! A recipe that verifies too little is rejected, both when the settings are checked and when a request
//! arrives: one that does not sign the body, or one whose timestamp is not signed and so proves nothing.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod challenge;
mod recipe;
mod template;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;
use recipe::Recipe;
use wardgate_sdk::about::Diagnostic;
use wardgate_sdk::host::Host;
use wardgate_sdk::integration::Integration;
use wardgate_sdk::mapper::Mapped;
use wardgate_sdk::mapping::{
    IGNORED_USERS, PROMPT_PATH, THREAD_PATH, USER_PATH, apply_path_settings, check_ignored_users,
};
use wardgate_sdk::settings::{Format, Setting, SettingValues, TOLERANCE_SECONDS, misconfigured};
use wardgate_sdk::signature::Encoding;
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{Failure, signature};

const ALGORITHM: Setting = Setting {
    name: "algorithm",
    default: Some("sha256"),
    format: Format::OneOf(&["sha256", "sha1", "sha512"]),
    description: "The hash that HMAC is made with.",
};

const HEADER: Setting = Setting {
    name: "header",
    default: None,
    format: Format::HeaderName,
    description: "The header that holds the signature.",
};

const PREFIX: Setting = Setting {
    name: "prefix",
    default: Some(""),
    format: Format::Text,
    description: "What stands before the signature in its header, such as `sha256=`. There may be several \
                  signatures with spaces between, each with this before it.",
};

const ENCODING: Setting = Setting {
    name: "encoding",
    default: Some("hex"),
    format: Format::OneOf(Encoding::NAMES),
    description: "How the signature is written.",
};

const SIGNATURE_PART: Setting = Setting {
    name: "signature-part",
    default: Some(""),
    format: Format::Text,
    description: "For headers such as `t=1533204620,v1=5257…`: the name of the signature, here `v1`. It \
                  may come several times.",
};

const TIMESTAMP_PART: Setting = Setting {
    name: "timestamp-part",
    default: Some(""),
    format: Format::Text,
    description: "For the same headers: the name of the timestamp, here `t`.",
};

const SEPARATOR: Setting = Setting {
    name: "separator",
    default: Some(","),
    format: Format::OneOf(&[",", ";", " ", "&"]),
    description: "What separates the parts of such a header.",
};

const TIMESTAMP_HEADER: Setting = Setting {
    name: "timestamp-header",
    default: Some(""),
    format: Format::HeaderName,
    description: "The header that holds the time of sending.",
};

const TIMESTAMP_UNIT: Setting = Setting {
    name: "timestamp-unit",
    default: Some("seconds"),
    format: Format::OneOf(&["seconds", "milliseconds", "iso8601"]),
    description: "What the timestamp counts since 1970; or `iso8601` for `2026-01-31T12:00:00Z`.",
};

const SIGNED: Setting = Setting {
    name: "signed",
    default: Some("{body}"),
    format: Format::Text,
    description: "What was signed, such as `{timestamp}.{body}`. There are {body}, {timestamp}, {id} \
                  (of the delivery), {method}, {path}, {query}, and {url} (of the channel, without \
                  query).",
};

const DELIVERY_HEADER: Setting = Setting {
    name: "delivery-header",
    default: Some(""),
    format: Format::HeaderName,
    description: "The header that holds the provider's id of the delivery, against duplicates.",
};

const SECRET_PREFIX: Setting = Setting {
    name: "secret-prefix",
    default: Some(""),
    format: Format::OneOf(&["", "whsec_", "v1,whsec_"]),
    description: "What stands before the key in an encoded secret. One with any other prefix is stored \
                  without it.",
};

const SECRET_ENCODING: Setting = Setting {
    name: "secret-encoding",
    default: Some("text"),
    format: Format::OneOf(&["text", "hex", "base64", "base64url"]),
    description: "How the secret is written; `text` means that its characters are the key.",
};

const CHALLENGE_PATH: Setting = Setting {
    name: "challenge-path",
    default: Some(""),
    format: Format::DotPath,
    description: "The dot path of the challenge in the payload, where the provider proves a URL with one, \
                  such as `payload.plainToken`. A request with a text there is answered at once, and \
                  starts no run.",
};

const CHALLENGE_ANSWER: Setting = Setting {
    name: "challenge-answer",
    default: Some(challenge::CHALLENGE_PLACEHOLDER),
    format: Format::Text,
    description: "What a challenge is answered: a text with {challenge}, and with {signature} for its \
                  HMAC, which takes the secret `challenge`, bound for `sign`.",
};

struct HmacRecipe;

impl Integration for HmacRecipe {
    const SETTINGS: &'static [Setting] = &[
        ALGORITHM, HEADER, PREFIX, ENCODING, SIGNATURE_PART, TIMESTAMP_PART, SEPARATOR,
        TIMESTAMP_HEADER, TIMESTAMP_UNIT, TOLERANCE_SECONDS, SIGNED, DELIVERY_HEADER,
        SECRET_PREFIX, SECRET_ENCODING, PROMPT_PATH, THREAD_PATH, USER_PATH, IGNORED_USERS,
        CHALLENGE_PATH, CHALLENGE_ANSWER,
    ];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        let recipe = Recipe::from_settings(|setting| setting.value(host))?;
        if let Some((_, problem)) = recipe.problem() {
            return Err(misconfigured(problem));
        }
        let header = signature::required_header(host, &recipe.header)?;
        let timestamp = recipe.checked_timestamp(host, &header)?;
        let key = recipe.open_secret(host)?;
        let (before, after) = recipe.bytes_around_body(host, &timestamp)?;
        let (algorithm, around) =
            (recipe.algorithm.as_str(), (before.as_slice(), after.as_slice()));
        let signatures = recipe.signatures(&header);
        signature::verify_body(host, &key, algorithm, around, recipe.encoding, signatures)?;
        Ok(Principal::anonymous())
    }

    fn map_payload<H: Host>(host: &H) -> Result<Mapped, Failure> {
        if let Some(reply) = challenge::reply(host)? {
            return Ok(Mapped::reply(reply));
        }
        let mut mapped = apply_path_settings(host, Mapped::run())?;
        let header = DELIVERY_HEADER.value(host)?;
        if !header.is_empty() {
            mapped.delivery_id = host.header(&header);
        }
        Ok(mapped)
    }

    fn check_settings(settings: &SettingValues) -> Vec<Diagnostic> {
        let problem = match Recipe::from_settings(|setting| Ok(settings.value(setting).into())) {
            Ok(recipe) => recipe.problem(),
            Err(failure) => return Vec::from([Diagnostic::new("/signed", failure.message)]),
        };
        let answer = settings.value(&CHALLENGE_ANSWER);
        let lacks_placeholder = !answer.contains(challenge::CHALLENGE_PLACEHOLDER)
            && !answer.contains(challenge::SIGNATURE_PLACEHOLDER);
        let answer_problem = lacks_placeholder.then_some((
            "/challenge-answer",
            "`challenge-answer` is to hold {challenge} or {signature}",
        ));
        let problems = problem.into_iter().chain(answer_problem);
        let problems = problems.map(|(pointer, text)| Diagnostic::new(pointer, text));
        problems.chain(check_ignored_users(settings)).collect()
    }
}

wardgate_sdk::without_std!();
wardgate_sdk::export_integration!(HmacRecipe);
