//! The wall clock, for plugins without the standard library.
//!
//! It is the import `wasi:clocks/wall-clock`, which the operator grants by that name. A plugin that does
//! not read the clock does not import it.

mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "clock",
        generate_all,
    });
}

/// Seconds since 1970-01-01T00:00:00Z.
pub fn now_seconds() -> u64 {
    bindings::wasi::clocks::wall_clock::now().seconds
}
