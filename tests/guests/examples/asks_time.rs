//! A mapper whose prompt is the time in nanoseconds since 1970.

#![expect(
    clippy::disallowed_methods,
    reason = "a guest has no clock but the one that the host shows it"
)]

use std::time::{SystemTime, UNIX_EPOCH};

guests::mapper!(|_| {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    guests::prompt(now.as_nanos().to_string())
});
