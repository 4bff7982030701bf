//! A mapper that sleeps for a minute. It uses no CPU time, so only a limit on wall time ends it.

use std::{thread, time::Duration};

guests::mapper!(|_| {
    thread::sleep(Duration::from_secs(60));
    guests::prompt("slept")
});
