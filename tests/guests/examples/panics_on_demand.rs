//! A mapper that panics if the payload says so at `/crash`.

use guests::{prompt, request};

guests::mapper!(|_| {
    assert!(request::scalar("/crash").as_deref() != Some("true"), "as it was told to");
    prompt("well")
});
