//! A mapper that returns a million empty parameters: small in the guest, large in the host.

use guests::Mapped;

guests::mapper!(|_| {
    let params = vec![(String::new(), String::new()); 1_000_000];
    Ok(Mapped { params, ..Mapped::run() })
});
