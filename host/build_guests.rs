//! Builds WebAssembly components from a build script: the bundled plugins, and the guests of the tests.
//!
//! Guests are separate workspaces, which a separate cargo builds. It has its own target folder, because the outer
//! cargo holds the lock on its folder until this script ends. It inherits no environment variables that configure the
//! outer build: flags, wrappers (such as clippy), the job server.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

const TARGET: &str = "wasm32-wasip2";

/// Prefixes of environment variables that the outer cargo, clippy or their caller set for the outer build only.
const OUTER_ENV_PREFIXES: &[&str] = &[
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_",
    "CARGO_FEATURE_",
    "CARGO_MAKEFLAGS",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "CLIPPY_",
    "MAKEFLAGS",
    "MFLAGS",
    "OUT_DIR",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];

/// Builds a workspace of guests and returns the folder of its components. `name` is the name of its target folder,
/// which no other workspace shares; `cargo_args` are arguments to cargo that restrict what is built.
pub(crate) fn build(
    workspace: &Path,
    name: &str,
    cargo_args: &[&str],
) -> Result<PathBuf, Box<dyn Error>> {
    // In this folder, cargo finds the `.cargo/config.toml` of the guests, with their linker arguments.
    let workspace = workspace
        .canonicalize()
        .map_err(|error| format!("cannot find the guests at {}: {error}", workspace.display()))?;
    if !target_is_installed()? {
        return Err(format!(
            "the target {TARGET} is not installed: run `rustup target add {TARGET}`, or `cargo xtask run`, which does it"
        )
        .into());
    }
    let target_folder = target_folder(name)?;
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(&workspace)
        .args(["build", "--release", "--locked", "--target", TARGET])
        .arg("--target-dir")
        .arg(&target_folder)
        .arg("--jobs")
        .arg(variable("NUM_JOBS")?)
        .args(cargo_args);
    for (name, _) in env::vars_os() {
        if OUTER_ENV_PREFIXES.iter().any(|outer| name.to_string_lossy().starts_with(outer)) {
            cargo.env_remove(name);
        }
    }
    if !cargo.status()?.success() {
        return Err(format!("the guests in {} do not build; see above", workspace.display()).into());
    }
    Ok(target_folder.join(TARGET).join("release"))
}

/// Makes cargo rerun the build script when anything in this folder changes, except its `target` folder.
pub(crate) fn rerun_if_changed(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() != "target" {
            println!("cargo:rerun-if-changed={}", entry.path().display());
        }
    }
    Ok(())
}

fn target_is_installed() -> Result<bool, Box<dyn Error>> {
    let output = Command::new(variable("RUSTC")?)
        .args(["--print", "target-libdir", "--target", TARGET])
        .output()?;
    Ok(Path::new(String::from_utf8(output.stdout)?.trim()).is_dir())
}

/// Returns a folder beside those of the profiles, so that all profiles share it.
fn target_folder(name: &str) -> Result<PathBuf, Box<dyn Error>> {
    // OUT_DIR is <target>/<profile>/build/<package>/out.
    let out = PathBuf::from(variable("OUT_DIR")?);
    let target = out.ancestors().nth(4).ok_or("OUT_DIR lies in no target folder")?;
    Ok(target.join(name))
}

fn variable(name: &str) -> Result<std::ffi::OsString, Box<dyn Error>> {
    env::var_os(name).ok_or_else(|| format!("{name} is not set; cargo sets it").into())
}
