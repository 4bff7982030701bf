//! A mapper that requests as many random bytes as a 32-bit memory can hold, enough to exhaust the host.

wit_bindgen::generate!({
    inline: "
        package guests:dice;
        world dice { import wasi:random/random@0.2.3; }
        package wasi:random@0.2.3 {
            interface random { get-random-bytes: func(len: u64) -> list<u8>; }
        }
    ",
    generate_all,
});

guests::mapper!(|_| {
    let bytes = wasi::random::random::get_random_bytes(u64::from(u32::MAX));
    guests::prompt(bytes.len().to_string())
});
