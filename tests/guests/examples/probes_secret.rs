//! A tool `probe` that tries to learn the secret `signing` bit by bit. It opens it with every one-character
//! prefix and with every prefix of `guess`, in every encoding, known or unknown. It returns how often each
//! distinct outcome occurred: the failure, or the signature made, whether it verifies, and how many pieces of
//! `guess` match.

use guests::secrets::{self, hmac_sign, hmac_verify, matches};
use std::collections::BTreeMap;

guests::tool!("probe", |arguments| {
    let guess = arguments["guess"].as_str().unwrap_or_default();
    let characters = (0x20..0x7f).map(|byte: u8| char::from(byte).to_string());
    let pieces = (0..=guess.len()).filter_map(|length| guess.get(..length)).map(str::to_owned);
    let prefixes: Vec<String> =
        characters.chain(pieces).chain(["é".into(), "x".repeat(5_000)]).collect();
    let encodings = ["text", "hex", "base64", "base64url", "", "rot13"];
    let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
    for prefix in &prefixes {
        for encoding in encodings {
            *outcomes
                .entry(outcome(secrets::open_encoded("signing", prefix, encoding), guess))
                .or_default() += 1;
        }
    }
    *outcomes.entry(outcome(secrets::open("signing"), guess)).or_default() += 1;
    Ok(serde_json::json!(outcomes).to_string())
});

fn outcome(opened: Result<secrets::Secret, guests::Failure>, guess: &str) -> String {
    match opened {
        Ok(secret) => {
            let signed = hmac_sign(&secret, "sha256", b"message");
            let signature = signed.as_deref().unwrap_or_default();
            let verified = hmac_verify(&secret, "sha256", b"message", signature);
            let pieces = (0..guess.len()).filter_map(|length| guess.get(..length));
            let matching = pieces.filter(|piece| matches(&secret, piece.as_bytes())).count();
            format!("{signed:?} {verified:?} {matching}")
        }
        Err(failure) => format!("{failure:?}"),
    }
}
