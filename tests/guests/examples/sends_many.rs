//! A tool `send` that sends the same GET request `times` times, and returns the count of each status and
//! failure code.

use guests::egress::{Outgoing, send};
use serde_json::Value;
use std::collections::BTreeMap;

guests::tool!("send", |arguments| {
    let mut came = BTreeMap::<String, u64>::new();
    for _ in 0..arguments["times"].as_u64().unwrap_or_default() {
        let request = Outgoing {
            method: "GET".into(),
            url: arguments["url"].as_str().unwrap_or_default().into(),
            headers: Vec::new(),
            body: None,
            timeout_ms: None,
            extra: None,
        };
        let outcome = match send(&request, None) {
            Ok(answer) => answer.status.to_string(),
            Err(failure) => failure.code,
        };
        *came.entry(outcome).or_default() += 1;
    }
    Ok(Value::from_iter(came.into_iter().map(|(what, times)| (what, Value::from(times))))
        .to_string())
});
