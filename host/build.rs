//! Builds the bundled plugins and embeds them, with the files for authors of plugins, in the gateway.
//!
//! `$OUT_DIR/bundled.rs` has the constant `BUNDLED` with the names and components of the plugins, and
//! `BUNDLED_SECRETS`. `$OUT_DIR/authors_files.rs` has what `plugin new` needs, since an author has nothing but the
//! program. The environment variable `PLUGIN_INTERFACE_VERSION` passes the version of the plugin interface to the
//! code.

mod build_files;
mod build_guests;
mod build_wit;

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The bundled plugins, by their names in the gateway, which are those of their packages in plugins/.
const PLUGINS: &[&str] = &[
    "dot-mapper", "dot-getter", "calculator", "http-fetch", "hmac", "standard-webhooks", "github",
    "stripe", "slack", "telegram", "twilio", "shopify", "whatsapp", "cloudevents", "zapier-form",
];

fn main() -> Result<(), Box<dyn Error>> {
    let plugins = Path::new("../plugins");
    build_guests::rerun_if_changed(plugins)?;
    let wit = Path::new("../wit");
    build_guests::rerun_if_changed(wit)?;
    println!("cargo:rustc-env=PLUGIN_INTERFACE_VERSION={}", build_wit::interface_version(wit)?);
    let components = build_guests::build(plugins, "guests-of-host", &[])?;

    let mut bundled = String::from(
        "/// The plugins that ship inside the gateway: their names and components.\n\
         pub(crate) const BUNDLED: &[(&str, &[u8])] = &[\n",
    );
    for name in PLUGINS {
        let component = components.join(name.replace('-', "_")).with_extension("wasm");
        writeln!(bundled, "    ({name:?}, include_bytes!({component:?})),")?;
    }
    bundled.push_str("];\n");
    bundled.push_str(
        "/// The file `secrets.toml` of those of them that have one, by their names.\n\
         const BUNDLED_SECRETS: &[(&str, &str)] = &[\n",
    );
    for name in PLUGINS {
        let file = plugins.join(name).join("secrets.toml");
        if file.is_file() {
            writeln!(bundled, "    ({name:?}, include_str!({:?})),", file.canonicalize()?)?;
        }
    }
    bundled.push_str("];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);
    fs::write(out.join("bundled.rs"), bundled)?;

    let templates = Path::new("templates/plugin");
    println!("cargo:rerun-if-changed={}", templates.display());
    let files = [
        ("TEMPLATES", "What new projects are made from.", templates),
        ("WIT", "The plugin interface.", wit),
        ("SDK", "The source of the SDK.", &plugins.join("sdk")),
    ];
    let mut embedded = String::new();
    for (name, doc, folder) in files {
        embedded.push_str(&build_files::constant(name, doc, folder)?);
    }
    fs::write(out.join("authors_files.rs"), embedded)?;
    Ok(())
}
