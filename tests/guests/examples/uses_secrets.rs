//! A tool `secret` that opens the secret `name` and returns the signature of `message`, whether that signature
//! verifies for it and for another message, and whether `presented` is the secret.

use guests::{Failure, secrets};
use serde_json::json;

guests::tool!("secret", |arguments| {
    let text = |name: &str| arguments[name].as_str().unwrap_or_default();
    let opened = match text("encoding") {
        "" => secrets::open(text("name")),
        encoding => secrets::open_encoded(text("name"), "whsec_", encoding),
    };
    let told = opened.and_then(|secret| {
        let (algorithm, message) = (text("algorithm"), text("message").as_bytes());
        let signature = secrets::hmac_sign(&secret, algorithm, message)?;
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Ok(json!({
            "signature": hex(&signature),
            "verifies": secrets::hmac_verify(&secret, algorithm, message, &signature)?,
            "verifies_another": secrets::hmac_verify(&secret, algorithm, b"another", &signature)?,
            "matches": secrets::matches(&secret, text("presented").as_bytes()),
        }))
    });
    let told = told
        .unwrap_or_else(|Failure { code, message, .. }| json!({"code": code, "message": message}));
    Ok(told.to_string())
});
