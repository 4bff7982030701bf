//! A mapper that allocates until an allocation fails, which traps.

use std::hint::black_box;

guests::mapper!(|_| {
    let mut held = Vec::new();
    loop {
        held.push(vec![1_u8; 1 << 20]);
        black_box(&held);
    }
});
