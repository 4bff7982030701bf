//! A mapper that recurses until the stack overflows.

use std::hint::black_box;

#[expect(unconditional_recursion, reason = "the point of this guest")]
fn descend(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    descend(depth + 1) + black_box(frame)[0]
}

guests::mapper!(|_| guests::prompt(descend(0).to_string()));
