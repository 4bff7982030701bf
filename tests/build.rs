//! Builds the guest components of the tests.
//!
//! The component of `guests/examples/panics.rs` is at `concat!(env!("GUESTS_DIR"), "/panics.wasm")`. The version of
//! the plugin interface is in `PLUGIN_INTERFACE_VERSION`.

#[path = "../host/build_guests.rs"]
mod build_guests;
#[path = "../host/build_wit.rs"]
mod build_wit;

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let guests = Path::new("guests");
    build_guests::rerun_if_changed(guests)?;
    build_guests::rerun_if_changed(Path::new("../plugins/sdk"))?;
    let wit = Path::new("../wit");
    build_guests::rerun_if_changed(wit)?;
    println!("cargo:rustc-env=PLUGIN_INTERFACE_VERSION={}", build_wit::interface_version(wit)?);
    let components = build_guests::build(guests, "guests-of-tests", &["--examples"])?;
    println!("cargo:rustc-env=GUESTS_DIR={}", components.join("examples").display());
    Ok(())
}
