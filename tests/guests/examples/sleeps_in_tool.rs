//! A tool `nap` that sleeps for as many milliseconds as it is told: it takes no CPU time and holds its place.

use std::{thread, time::Duration};

guests::tool!("nap", |arguments| {
    thread::sleep(Duration::from_millis(arguments["ms"].as_u64().unwrap_or_default()));
    Ok("\"slept\"".to_owned())
});
