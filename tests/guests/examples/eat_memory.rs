//! A mapper that allocates until it is refused. The refusal ends it as a trap.

use std::hint::black_box;

guests::mapper!(|_| {
    let mut held = Vec::new();
    loop {
        held.push(vec![1_u8; 1 << 20]);
        black_box(&held);
    }
});
