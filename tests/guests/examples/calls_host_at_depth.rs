//! A tool that recurses `depth` levels and there makes the host call that needs the most stack: sending a
//! request. It returns the status or the failure's code.

use guests::egress::{Outgoing, send};
use std::hint::black_box;

guests::tool!("dive", |arguments| {
    let url = arguments["url"].as_str().unwrap_or_default();
    Ok(serde_json::Value::from(dive(arguments["depth"].as_u64().unwrap_or_default(), url))
        .to_string())
});

#[inline(never)]
fn dive(depth: u64, url: &str) -> String {
    if depth > 0 {
        let below = dive(black_box(depth - 1), url);
        return black_box(below);
    }
    let request = Outgoing {
        method: "GET".into(),
        url: url.into(),
        headers: Vec::new(),
        body: None,
        timeout_ms: None,
        extra: None,
    };
    match send(&request, None) {
        Ok(answer) => answer.status.to_string(),
        Err(failure) => failure.code,
    }
}
