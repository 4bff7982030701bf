//! A mapper that opens its key-value bucket ten thousand times and never drops a handle.

use guests::sdk::keyvalue::store;

guests::mapper!(|_| {
    for _ in 0..10_000 {
        std::mem::forget(store::open(""));
    }
    guests::prompt("leaked")
});
