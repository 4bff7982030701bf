//! A mapper that opens the secret named at `/secret` in the payload, and reports the outcome in its prompt.

use guests::{prompt, request, secrets};

guests::mapper!(|_| {
    let name = request::scalar("/secret").unwrap_or_else(|| "missing".into());
    match secrets::open(&name) {
        Ok(_) => prompt("opened"),
        Err(failure) => prompt(failure.code),
    }
});
