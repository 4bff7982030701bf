//! Shapes the answer in the provider's own format.
//!
//! This one answers `{"text": "…"}`: to the request itself, or, where the caller does not wait, to the URL
//! in the setting `reply-url`, once the agent is done.

use serde_json::{Value, json};
use wardgate_sdk::egress::Outgoing;
use wardgate_sdk::replier::Guest;
use wardgate_sdk::{Failure, HttpReply, config, egress, task};

struct Replier;

impl Guest for Replier {
    fn reply() -> Result<HttpReply, Failure> {
        Ok(HttpReply::new(200, message()).with_header("content-type", "application/json"))
    }

    fn deliver() -> Result<(), Failure> {
        let url = config::get("reply-url")
            .ok()
            .flatten()
            .ok_or_else(|| Failure::new("not-configured", "the setting `reply-url` is missing"))?;
        let request = Outgoing {
            method: "POST".into(),
            url,
            headers: vec![("content-type".into(), "application/json".into())],
            body: Some(message().into_bytes()),
            timeout_ms: Some(10_000),
            extra: None,
        };
        // Instead of `None`, the name of a granted credential: the gateway attaches it.
        let answer = egress::send(&request, None)?;
        match answer.status {
            200..=299 => Ok(()),
            // `upstream`, `timeout` and `rate-limited` are delivered again later; the rest is final.
            429 => Err(Failure::rate_limited("the chat wants us to slow down")),
            status @ 500.. => Err(Failure::upstream(format!("the chat answered {status}"))),
            status => Err(Failure::new(
                "rejected",
                format!("the chat answered {status}"),
            )),
        }
    }
}

/// The agent's answer. The task has none yet where the caller is answered before the agent is done.
fn message() -> String {
    let result = task::json("/result").and_then(|json| serde_json::from_str::<Value>(&json).ok());
    let text = result
        .as_ref()
        .and_then(Value::as_str)
        .unwrap_or("I am working on it.");
    json!({"text": text}).to_string()
}

wardgate_sdk::export_replier!(Replier);
