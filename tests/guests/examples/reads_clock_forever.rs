//! A mapper that reads the clock a hundred thousand times: the host records each result for replays, so the
//! recording must be bounded.

#![expect(
    clippy::disallowed_methods,
    reason = "a guest has no clock but the one that the host shows it"
)]

use std::hint::black_box;
use std::time::SystemTime;

guests::mapper!(|_| {
    for _ in 0..100_000 {
        black_box(SystemTime::now());
    }
    guests::prompt("read")
});
