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
    IGNORED_USERS, PROMPT_PATH, THREAD_PATH, USER_PATH, check_ignored_users, with_paths,
};
use wardgate_sdk::settings::{Form, Setting, TOLERANCE, Texts, misconfigured};
use wardgate_sdk::signature::Encoding;
use wardgate_sdk::verifier::Principal;
use wardgate_sdk::{Failure, signature};

const ALGORITHM: Setting = Setting {
    name: "algorithm",
    default: Some("sha256"),
    form: Form::OneOf(&["sha256", "sha1", "sha512"]),
    description: "The hash that HMAC is made with.",
};

const HEADER: Setting = Setting {
    name: "header",
    default: None,
    form: Form::Header,
    description: "The header that holds the signature.",
};

const PREFIX: Setting = Setting {
    name: "prefix",
    default: Some(""),
    form: Form::Text,
    description: "What stands before the signature in its header, such as `sha256=`. There may be several \
                  signatures with spaces between, each with this before it.",
};

const ENCODING: Setting = Setting {
    name: "encoding",
    default: Some("hex"),
    form: Form::OneOf(Encoding::NAMES),
    description: "How the signature is written.",
};

const SIGNATURE_PART: Setting = Setting {
    name: "signature-part",
    default: Some(""),
    form: Form::Text,
    description: "For headers such as `t=1533204620,v1=5257…`: the name of the signature, here `v1`. It \
                  may come several times.",
};

const TIMESTAMP_PART: Setting = Setting {
    name: "timestamp-part",
    default: Some(""),
    form: Form::Text,
    description: "For the same headers: the name of the timestamp, here `t`.",
};

const SEPARATOR: Setting = Setting {
    name: "separator",
    default: Some(","),
    form: Form::OneOf(&[",", ";", " ", "&"]),
    description: "What separates the parts of such a header.",
};

const TIMESTAMP_HEADER: Setting = Setting {
    name: "timestamp-header",
    default: Some(""),
    form: Form::Header,
    description: "The header that holds the time of sending.",
};

const TIMESTAMP_UNIT: Setting = Setting {
    name: "timestamp-unit",
    default: Some("seconds"),
    form: Form::OneOf(&["seconds", "milliseconds", "iso8601"]),
    description: "What the timestamp counts since 1970; or `iso8601` for `2026-01-31T12:00:00Z`.",
};

const SIGNED: Setting = Setting {
    name: "signed",
    default: Some("{body}"),
    form: Form::Text,
    description: "What was signed, such as `{timestamp}.{body}`. There are {body}, {timestamp}, {id} \
                  (of the delivery), {method}, {path}, {query}, and {url} (of the channel, without \
                  query).",
};

const DELIVERY_HEADER: Setting = Setting {
    name: "delivery-header",
    default: Some(""),
    form: Form::Header,
    description: "The header that holds the provider's id of the delivery, against duplicates.",
};

const SECRET_PREFIX: Setting = Setting {
    name: "secret-prefix",
    default: Some(""),
    form: Form::OneOf(&["", "whsec_", "v1,whsec_"]),
    description: "What stands before the key in an encoded secret. One with any other prefix is stored \
                  without it.",
};

const SECRET_ENCODING: Setting = Setting {
    name: "secret-encoding",
    default: Some("text"),
    form: Form::OneOf(&["text", "hex", "base64", "base64url"]),
    description: "How the secret is written; `text` means that its characters are the key.",
};

const CHALLENGE_PATH: Setting = Setting {
    name: "challenge-path",
    default: Some(""),
    form: Form::Path,
    description: "The dot path of the challenge in the payload, where the provider proves a URL with one, \
                  such as `payload.plainToken`. A request with a text there is answered at once, and \
                  starts no run.",
};

const CHALLENGE_ANSWER: Setting = Setting {
    name: "challenge-answer",
    default: Some(challenge::CHALLENGE),
    form: Form::Text,
    description: "What a challenge is answered: a text with {challenge}, and with {signature} for its \
                  HMAC, which takes the secret `challenge`, bound for `sign`.",
};

struct HmacRecipe;

impl Integration for HmacRecipe {
    const SETTINGS: &'static [Setting] = &[
        ALGORITHM, HEADER, PREFIX, ENCODING, SIGNATURE_PART, TIMESTAMP_PART, SEPARATOR,
        TIMESTAMP_HEADER, TIMESTAMP_UNIT, TOLERANCE, SIGNED, DELIVERY_HEADER, SECRET_PREFIX,
        SECRET_ENCODING, PROMPT_PATH, THREAD_PATH, USER_PATH, IGNORED_USERS, CHALLENGE_PATH,
        CHALLENGE_ANSWER,
    ];

    fn verify<H: Host>(host: &H) -> Result<Principal, Failure> {
        let recipe = Recipe::read(|setting| setting.read(host))?;
        if let Some((_, problem)) = recipe.problem() {
            return Err(misconfigured(problem));
        }
        let header = signature::header(host, &recipe.header)?;
        let timestamp = recipe.timestamp(host, &header)?;
        let key = recipe.key(host)?;
        let (before, after) = recipe.around_the_body(host, &timestamp)?;
        let (algorithm, around) =
            (recipe.algorithm.as_str(), (before.as_slice(), after.as_slice()));
        let found = recipe.signatures(&header);
        signature::verify_any_of_body(host, &key, algorithm, around, recipe.encoding, found)?;
        Ok(Principal::anonymous())
    }

    fn map<H: Host>(host: &H) -> Result<Mapped, Failure> {
        if let Some(reply) = challenge::reply(host)? {
            return Ok(Mapped::reply(reply));
        }
        let mut mapped = with_paths(host, Mapped::run())?;
        let header = DELIVERY_HEADER.read(host)?;
        if !header.is_empty() {
            mapped.delivery_id = host.header(&header);
        }
        Ok(mapped)
    }

    fn check(settings: &Texts) -> Vec<Diagnostic> {
        let problem = match Recipe::read(|setting| Ok(settings.text(setting).into())) {
            Ok(recipe) => recipe.problem(),
            Err(failure) => return Vec::from([Diagnostic::new("/signed", failure.message)]),
        };
        let answer = settings.text(&CHALLENGE_ANSWER);
        let says_nothing =
            !answer.contains(challenge::CHALLENGE) && !answer.contains(challenge::SIGNATURE);
        let unanswered = says_nothing.then_some((
            "/challenge-answer",
            "`challenge-answer` is to hold {challenge} or {signature}",
        ));
        let problems = problem.into_iter().chain(unanswered);
        let problems = problems.map(|(pointer, text)| Diagnostic::new(pointer, text));
        problems.chain(check_ignored_users(settings)).collect()
    }
}

wardgate_sdk::without_std!();
wardgate_sdk::export_integration!(HmacRecipe);
