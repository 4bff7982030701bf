//! A mapper that sends a GET request to `/url` of the payload and starts a run with the response body. The
//! timeout is `/timeout_ms`, if the payload has it.

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
