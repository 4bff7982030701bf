//! `cargo xtask payloads`: installs what providers publish as examples of their webhooks.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::tools::{self, say};

/// The package and its lock file, which pins the hash.
const PACKAGE: &str = "tests/payloads/package.json";
const LOCK: &str = "tests/payloads/package-lock.json";

/// Where tests of all workspaces read them.
const FOLDER: &str = "target/payloads";

/// Installs the packages of the lock file, unless they are installed already.
pub(crate) fn install() -> anyhow::Result<()> {
    let folder = tools::root().join(FOLDER);
    let locked = fs::read_to_string(tools::root().join(LOCK))?;
    // npm writes this file last.
    let is_installed = folder.join("node_modules/.package-lock.json").exists();
    let installed = fs::read_to_string(folder.join("package-lock.json"));
    if is_installed && installed.is_ok_and(|installed| installed == locked) {
        return Ok(());
    }
    say(format_args!("installing the packages of {LOCK} (needs the network this once)"))?;
    fs::create_dir_all(&folder)?;
    fs::copy(tools::root().join(PACKAGE), folder.join("package.json"))?;
    fs::write(folder.join("package-lock.json"), locked)?;
    let mut npm = Command::new("npm");
    npm.args(["ci", "--loglevel=error", "--ignore-scripts", "--no-audit", "--no-fund"]);
    let status = npm.current_dir(&folder).status();
    let status = status.context("npm cannot be run: is Node.js installed?")?;
    ensure!(status.success(), "npm cannot install the packages of {LOCK}: is there a network?");
    Ok(())
}
