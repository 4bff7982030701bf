//! A verifier from before the host function `hmac-verify-body`: it copies the body, prefixes `v0:`, and passes
//! both to `hmac-verify`. With the header `x-panic` it panics; with `x-fill` it fills its memory.

use guests::sdk::verifier::{Guest, Principal};
use guests::{Failure, request, secrets};

struct Verifier;

impl Guest for Verifier {
    fn verify() -> Result<Principal, Failure> {
        if request::header("x-panic").is_some() {
            panic!("as a stranger wants it");
        }
        if request::header("x-fill").is_some() {
            let filled: Vec<Vec<u8>> = (0..10_000).map(|_| vec![1; 1 << 20]).collect();
            return Ok(Principal::with_id(filled.len().to_string()));
        }
        let signature = request::header("x-signature").unwrap_or_default();
        let digit =
            |at: usize| signature.get(at..at + 2).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let signature: Vec<u8> = (0..signature.len()).step_by(2).filter_map(digit).collect();
        let message = [b"v0:".as_slice(), &request::body()].concat();
        let key = secrets::open("secret")?;
        if secrets::hmac_verify(&key, "sha256", &message, &signature)? {
            return Ok(Principal::anonymous());
        }
        Err(Failure::unauthorized("the signature does not match"))
    }
}

guests::sdk::export_verifier!(Verifier);
