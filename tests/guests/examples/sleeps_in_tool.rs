//! A tool `nap` that sleeps for `ms` milliseconds: it uses no CPU time, but occupies its slot.

use std::{thread, time::Duration};

guests::tool!("nap", |arguments| {
    thread::sleep(Duration::from_millis(arguments["ms"].as_u64().unwrap_or_default()));
    Ok("\"slept\"".to_owned())
});
