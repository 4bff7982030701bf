//! A tool `fetch` that sends a GET request to its argument `url`, and answers the status or the failure.

use guests::egress::{Outgoing, send};
use serde_json::json;

guests::tool!("fetch", |arguments| {
    let request = Outgoing {
        method: "GET".into(),
        url: arguments["url"].as_str().unwrap_or_default().into(),
        headers: Vec::new(),
        body: None,
        timeout_ms: None,
        extra: None,
    };
    let credential = arguments["credential"].as_str();
    let told = match send(&request, credential) {
        Ok(answer) => {
            json!({"status": answer.status, "bytes": answer.body.len(), "truncated": answer.truncated})
        }
        Err(failure) => json!({"code": failure.code, "message": failure.message}),
    };
    Ok(told.to_string())
});
