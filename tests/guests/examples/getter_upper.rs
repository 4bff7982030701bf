//! A custom getter: the string at a JSON pointer into the task, in upper case.

use guests::task;
use serde_json::Value;

guests::getter!(|pointer| {
    let found = task::json(&pointer).and_then(|json| serde_json::from_str(&json).ok());
    Ok(match found {
        Some(Value::String(text)) => Some(Value::from(text.to_uppercase()).to_string()),
        _ => None,
    })
});
