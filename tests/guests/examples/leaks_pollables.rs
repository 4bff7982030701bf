//! A mapper that subscribes to the clock ten thousand times and never drops a pollable.

wit_bindgen::generate!({
    inline: "
        package guests:clocks;
        world clocks { import wasi:clocks/monotonic-clock@0.2.3; }
        package wasi:io@0.2.3 {
            interface poll { resource pollable { block: func(); } }
        }
        package wasi:clocks@0.2.3 {
            interface monotonic-clock {
                use wasi:io/poll@0.2.3.{pollable};
                type duration = u64;
                subscribe-duration: func(when: duration) -> pollable;
            }
        }
    ",
    generate_all,
});

guests::mapper!(|_| {
    for _ in 0..10_000 {
        std::mem::forget(wasi::clocks::monotonic_clock::subscribe_duration(1_000_000_000));
    }
    guests::prompt("leaked")
});
