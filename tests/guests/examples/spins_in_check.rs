//! A mapper that never comes to an end over its settings, whatever they are.

use guests::Json;
use guests::sdk::about::{Diagnostic, Guest};

struct About;

impl Guest for About {
    fn config_schema() -> Json {
        r#"{"type":"object","properties":{}}"#.into()
    }

    fn check_config(_: Json) -> Vec<Diagnostic> {
        loop {
            std::hint::spin_loop();
        }
    }
}

guests::sdk::export_about!(About);
guests::mapper!(|_| guests::prompt("mapped"));
