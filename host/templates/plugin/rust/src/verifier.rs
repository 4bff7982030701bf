//! Decides whether a request comes from whom it says, before anything else looks at it.
//!
//! This one wants the header `x-signature-256: sha256=…`, the HMAC-SHA256 of the body in hexadecimal, made
//! with the secret that the operator granted as `signing`. The secret's bytes stay with the gateway: a
//! plugin has it checked, and while a secret is being rotated its old and its new value both count.

use wardgate_sdk::verifier::{Guest, Principal};
use wardgate_sdk::{Failure, request, secrets};

struct Verifier;

impl Guest for Verifier {
    fn verify() -> Result<Principal, Failure> {
        let signature = request::header("x-signature-256")
            .and_then(|header| from_hex(header.strip_prefix("sha256=")?))
            .ok_or_else(|| Failure::unauthorized("x-signature-256 is missing or malformed"))?;
        let key = secrets::open("signing")?;
        // The body as it arrived: the same JSON, parsed and written again, has another signature. It is hashed
        // where the gateway has it, so that a long one costs the plugin nothing.
        if !secrets::hmac_verify_body(&key, "sha256", &[], &[], &[signature])? {
            return Err(Failure::unauthorized("the signature does not match"));
        }
        // The signature says that the sender is genuine, not who it is. If a signed part of the
        // request does, return `Principal::with_id(…)`.
        Ok(Principal::anonymous())
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, odd) = text.as_bytes().as_chunks();
    let byte = |&[high, low]: &[u8; 2]| u8::try_from(digit(high)? * 16 + digit(low)?).ok();
    if odd.is_empty() {
        pairs.iter().map(byte).collect()
    } else {
        None
    }
}

wardgate_sdk::export_verifier!(Verifier);
