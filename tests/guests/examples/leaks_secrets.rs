//! A mapper that opens its secret ten thousand times and lets go of none.

use guests::secrets;

guests::mapper!(|_| {
    for _ in 0..10_000 {
        std::mem::forget(secrets::open("signing")?);
    }
    guests::prompt("leaked")
});
