//! Says which settings the plugin takes, and checks them before they take effect.
//!
//! This one takes `reply-url`, an https URL. All settings are strings.

use serde_json::Value;
use wardgate_sdk::Json;
use wardgate_sdk::about::{Diagnostic, Guest};

struct About;

impl Guest for About {
    fn config_schema() -> Json {
        r#"{
  "type": "object",
  "properties": {
    "reply-url": {"type": "string", "format": "uri", "description": "Where answers are sent"}
  }
}"#
        .into()
    }

    fn check_config(config: Json) -> Vec<Diagnostic> {
        let config: Value = serde_json::from_str(&config).unwrap_or_default();
        match config.get("reply-url") {
            Some(url) if !url.as_str().is_some_and(|url| url.starts_with("https://")) => {
                vec![Diagnostic::new("/reply-url", "has to begin with https://")]
            }
            _ => Vec::new(),
        }
    }
}

wardgate_sdk::export_about!(About);
