//! A mapper that logs 10,000 lines of 1 KiB each and then starts a run.

use guests::logging::{Level, log};

guests::mapper!(|_| {
    let line = "x".repeat(1024);
    for _ in 0..10_000 {
        log(Level::Info, "flood", &line);
    }
    guests::prompt("logged")
});
