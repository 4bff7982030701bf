//! A mapper that answers with a million parameters, all of them empty: small here, large at the host.

use guests::Mapped;

guests::mapper!(|_| {
    let params = vec![(String::new(), String::new()); 1_000_000];
    Ok(Mapped { params, ..Mapped::run() })
});
