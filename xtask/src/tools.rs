//! Helpers of all commands: the repository's paths, cargo, Python, the wasm target, and output.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// The target of plugins.
const WASM_TARGET: &str = "wasm32-wasip2";

/// The root of the repository.
pub(crate) fn root() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The folder of this program, in which cargo also puts other programs of the same profile.
pub(crate) fn built() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe().context("this program cannot tell where it lies")?;
    Ok(this.parent().unwrap_or(root()).to_owned())
}

/// Cargo's target folder.
pub(crate) fn target_folder() -> anyhow::Result<PathBuf> {
    let built = built()?;
    Ok(built.parent().unwrap_or(&built).to_owned())
}

/// The cargo that runs this program, with a folder of the repository as its working folder.
pub(crate) fn cargo(folder: &str) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    // The outer cargo sets these variables for this package. A build script that depends on one (ring's does) would
    // run again, and everything after it, whenever cargo is called from here after a call by hand.
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|of| name.to_string_lossy().starts_with(of))
        {
            cargo.env_remove(name);
        }
    }
    cargo.current_dir(root().join(folder));
    cargo
}

/// Prints a line to stdout.
pub(crate) fn say(line: impl Display) -> anyhow::Result<()> {
    writeln!(io::stdout().lock(), "{line}").context("stdout cannot be written to")
}

/// Builds the gateway and its bundled plugins.
pub(crate) fn build_gateway() -> anyhow::Result<()> {
    ensure_wasm_target()?;
    say("building plugins and gateway (the first time takes some minutes)")?;
    let build = cargo(".").args(["build", "--bin", "wardgate"]).status();
    if !build.context("cargo cannot be run")?.success() {
        bail!("the gateway does not build");
    }
    Ok(())
}

/// A Python with the packages of a requirements file. Its virtual environment is created if it is missing or if the
/// file has changed.
pub(crate) fn python(folder: &Path, requirements: &str) -> anyhow::Result<PathBuf> {
    let wanted = fs::read_to_string(root().join(requirements))?;
    let python = folder.join("venv/bin/python");
    let installed = folder.join("installed.txt");
    if python.exists() && fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted)
    {
        return Ok(python);
    }
    say(format_args!("installing the packages of {requirements} (needs the network this once)"))?;
    fs::create_dir_all(folder)?;
    let mut made = Command::new("python3");
    made.args(["-m", "venv", "--clear"]).arg(folder.join("venv"));
    if !made.status().context("python3 cannot be run: is it installed?")?.success() {
        bail!("python3 makes no virtual environment: is its module venv installed?");
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.arg("--requirement").arg(root().join(requirements));
    if !pip.status().context("pip cannot be run")?.success() {
        bail!("the packages of {requirements} cannot be installed");
    }
    fs::write(installed, wanted)?;
    Ok(python)
}

/// Installs the wasm target if it is missing.
pub(crate) fn ensure_wasm_target() -> anyhow::Result<()> {
    // Asks the compiler and not rustup, since the compiler need not come from rustup.
    let asked = Command::new("rustc")
        .args(["--print", "target-libdir", "--target", WASM_TARGET])
        .current_dir(root())
        .output()
        .context("rustc cannot be run: is a Rust toolchain installed?")?;
    let libraries = String::from_utf8_lossy(&asked.stdout);
    if asked.status.success() && Path::new(libraries.trim()).is_dir() {
        return Ok(());
    }
    say(format_args!("installing the Rust target {WASM_TARGET}"))?;
    let added = Command::new("rustup")
        .args(["target", "add", WASM_TARGET])
        .current_dir(root())
        .stdin(Stdio::null())
        .status();
    match added {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => bail!(
            "`rustup target add {WASM_TARGET}` failed; it needs the network this once: run it when \
             there is one, then run this again"
        ),
        Err(_) => bail!(
            "the Rust target {WASM_TARGET} is missing and there is no rustup to install it: install \
             a toolchain with https://rustup.rs, or the target with what this rustc came from"
        ),
    }
}
