//! A tool `fetch` that sends a GET request to `url` and returns the status or the failure. It replaces `FILL`
//! in the URL with `fill` characters: labels of 500 distinct characters, joined by dots.

use guests::egress::{Outgoing, send};
use serde_json::json;

guests::tool!("fetch", |arguments| {
    let count = arguments["fill"].as_u64().unwrap_or_default() as u32;
    let characters: Vec<_> = (0x4e00..).filter_map(char::from_u32).take(500).collect();
    let pieces = (0..count / 500).map(|_| characters.iter().collect::<String>());
    let fill = pieces.collect::<Vec<_>>().join(".");
    let request = Outgoing {
        method: "GET".into(),
        url: arguments["url"].as_str().unwrap_or_default().replace("FILL", &fill),
        headers: Vec::new(),
        body: None,
        timeout_ms: None,
        extra: None,
    };
    let credential = arguments["credential"].as_str();
    let told = match send(&request, credential) {
        Ok(answer) => {
            let text = String::from_utf8_lossy(&answer.body);
            json!({"status": answer.status, "bytes": text.len(), "truncated": answer.truncated,
                "end": text.get(text.len().saturating_sub(60)..)})
        }
        Err(failure) => json!({"code": failure.code, "message": failure.message}),
    };
    Ok(told.to_string())
});
