//! A mapper whose `check-config` never returns.

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
