//! A mapper that opens its secret ten thousand times and never drops a handle.

use guests::secrets;

guests::mapper!(|_| {
    for _ in 0..10_000 {
        std::mem::forget(secrets::open("signing")?);
    }
    guests::prompt("leaked")
});
