//! A mapper that opens its values ten thousand times and lets go of them never.

use guests::sdk::keyvalue::store;

guests::mapper!(|_| {
    for _ in 0..10_000 {
        std::mem::forget(store::open(""));
    }
    guests::prompt("leaked")
});
