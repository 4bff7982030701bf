//! A tool `much` that returns a text of `bytes` bytes, and logs one of `logged` bytes.

use guests::logging::{Level, log};

guests::tool!("much", |arguments| {
    let text = |name: &str| "m".repeat(arguments[name].as_u64().unwrap_or_default() as usize);
    if arguments["logged"].is_u64() {
        log(Level::Info, "much", &text("logged"));
    }
    Ok(format!("{:?}", text("bytes")))
});
