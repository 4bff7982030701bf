//! Builds the guests of the tests. A test finds the component of `guests/examples/panics.rs` at
//! `concat!(env!("GUESTS_DIR"), "/panics.wasm")`.

#[path = "../host/build_guests.rs"]
mod build_guests;

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let guests = Path::new("guests");
    build_guests::rerun_if_changed(guests)?;
    build_guests::rerun_if_changed(Path::new("../plugins/sdk"))?;
    build_guests::rerun_if_changed(Path::new("../wit"))?;
    let components = build_guests::build(guests, "guests-of-tests", &["--examples"])?;
    println!("cargo:rustc-env=GUESTS_DIR={}", components.join("examples").display());
    Ok(())
}
