//! A tool `time` that returns the clocks' readings before and after some work, and a random number.

#![expect(
    clippy::disallowed_methods,
    reason = "a guest has no clock but the one that the host shows it"
)]

use serde_json::json;
use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

guests::tool!("time", |_| {
    let wall =
        || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
    let (first, begun) = (wall(), Instant::now());
    for round in 0..1_000_000_u64 {
        black_box(round);
    }
    let (second, passed) = (wall(), begun.elapsed().as_nanos() as u64);
    // Hash maps are seeded with the host's random numbers.
    let random = RandomState::new().hash_one("a").to_string();
    Ok(json!({"first": first, "second": second, "passed": passed, "random": random}).to_string())
});
