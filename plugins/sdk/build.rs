//! Writes the macro that generates the bindings of a role. The bindings need the interface version inside
//! string literals, which a macro cannot assemble, and `wit/` is the only place that sets the version.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

const TYPES_WIT: &str = "../../wit/types.wit";

/// The interfaces of package `wardgate:plugin` that a world may import.
const WARDGATE_INTERFACES: [&str; 6] = ["types", "request", "task", "context", "secrets", "egress"];

/// The interfaces of WASI that a world may import, and the path of their bindings.
const WASI_INTERFACES: [(&str, &str); 4] = [
    ("wasi:config/store@0.2.0-rc.1", "wasi::config::store"),
    ("wasi:logging/logging@0.1.0-draft", "wasi::logging::logging"),
    ("wasi:keyvalue/store@0.2.0-draft", "wasi::keyvalue::store"),
    ("wasi:keyvalue/atomics@0.2.0-draft", "wasi::keyvalue::atomics"),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={TYPES_WIT}");
    let types = fs::read_to_string(TYPES_WIT).map_err(|error| format!("{TYPES_WIT}: {error}"))?;
    let package = types.lines().find_map(|line| line.strip_prefix("package wardgate:plugin@"));
    let version = package.and_then(|rest| rest.trim_end().strip_suffix(';'));
    let version =
        version.ok_or_else(|| format!("{TYPES_WIT} has no line `package wardgate:plugin@…;`"))?;
    let wardgate = WARDGATE_INTERFACES.map(|name| {
        format!(
            "{:?}: crate::bindings::wardgate::plugin::{name},\n",
            format!("wardgate:plugin/{name}@{version}")
        )
    });
    let wasi = WASI_INTERFACES.map(|(name, path)| format!("{name:?}: crate::bindings::{path},\n"));
    let with = wardgate.concat() + &wasi.concat();
    let source = format!(
        "macro_rules! generate_bindings {{\n($world:literal) => {{\nwit_bindgen::generate!({{\npath: \"../../wit\",\n\
         world: $world,\nwith: {{\n{with}}},\npub_export_macro: true,\n}});\n}};\n}}\n"
    );
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?;
    fs::write(Path::new(&out).join("generate_bindings.rs"), source)?;
    Ok(())
}
