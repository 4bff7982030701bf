//! A mapper that fails with the code at `/code` in the payload, to show its HTTP status.

use guests::{Failure, request};

guests::mapper!(|_| {
    let code = request::scalar("/code").unwrap_or_default();
    let failure = Failure::new(code, "this guest fails on purpose");
    Err(match request::scalar("/retry_after_ms").and_then(|text| text.parse().ok()) {
        Some(milliseconds) => failure.retry_after_ms(milliseconds),
        None => failure,
    })
});
