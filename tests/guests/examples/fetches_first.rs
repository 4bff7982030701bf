//! A mapper that sends a GET request to the payload's `/url` before it starts a run with what came
//! back, and waits `/timeout_ms` for that where the payload says so.

use guests::egress::{Outgoing, send};
use guests::{prompt, request};

guests::mapper!(|_| {
    let outgoing = Outgoing {
        method: "GET".into(),
        url: request::scalar("/url").unwrap_or_default(),
        headers: Vec::new(),
        body: None,
        timeout_ms: request::scalar("/timeout_ms").and_then(|text| text.parse().ok()),
        extra: None,
    };
    let answer = send(&outgoing, None)?;
    prompt(String::from_utf8_lossy(&answer.body))
});
