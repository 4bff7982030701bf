//! Gets one value out of a finished task, for callers that ask with `getter=…`.
//!
//! This one knows `getter=headline`: the first line of the agent's answer.

use serde_json::Value;
use wardgate_sdk::getter::Guest;
use wardgate_sdk::{Failure, Json, task};

struct ResponseGetter;

impl Guest for ResponseGetter {
    fn get_value(path: String) -> Result<Option<Json>, Failure> {
        if path != "headline" {
            return Err(Failure::invalid_input(format!(
                "there is `headline`, but no {path:?}"
            )));
        }
        // JSON text, so a string comes in its quotes; none where nothing is there.
        let Some(result) = task::json("/result") else {
            return Ok(None);
        };
        let result: Value = serde_json::from_str(&result)
            .map_err(|error| Failure::new("bad-result", format!("the result: {error}")))?;
        let line = result.as_str().and_then(|text| text.trim().lines().next());
        Ok(line.map(|line| Value::from(line.trim_end()).to_string()))
    }
}

wardgate_sdk::export_getter!(ResponseGetter);
