//! A mapper whose settings schema is a megabyte long.

use guests::Json;
use guests::sdk::about::{Diagnostic, Guest};

struct About;

impl Guest for About {
    fn config_schema() -> Json {
        format!(r#"{{"type":"object","description":"{}"}}"#, "x".repeat(1 << 20))
    }

    fn check_config(_: Json) -> Vec<Diagnostic> {
        Vec::new()
    }
}

guests::sdk::export_about!(About);
guests::mapper!(|_| guests::prompt("mapped"));
