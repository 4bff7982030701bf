//! The time of day, for plugins without the standard library. It is the standard import
//! `wasi:clocks/wall-clock`, which the operator grants as such; a plugin that does not ask for the time
//! does not import it.

mod bindings {
    wit_bindgen::generate!({
        path: "wit",
        world: "clock",
        generate_all,
    });
}

/// Seconds since 1970-01-01T00:00:00Z.
pub fn seconds() -> u64 {
    bindings::wasi::clocks::wall_clock::now().seconds
}
