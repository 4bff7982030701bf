//! `cargo xtask dist`: builds an archive of the program and of what a server needs to run it.
//!
//! The program links glibc and libgcc dynamically. Static linking has two problems. If nsswitch.conf names a service
//! other than `files` and `dns` (such as `resolve`), a static glibc loads it from the system for a name lookup, which
//! works only with the same version of glibc. With another C library, the host's `memory.rs` returns no memory to the
//! system. Builds for others should therefore run on the oldest system available.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::sbom;
use crate::tools::{self, say};

const VERSION: &str = env!("CARGO_PKG_VERSION");
const PROGRAM: &str = "wardgate";

/// Files and folders that are copied unchanged. README.md links to the documentation and the examples.
const FILES: &[&str] = &["LICENSE", "NOTICE", "README.md", "CHANGELOG.md"];
const FOLDERS: &[&str] = &["deploy", "docs", "examples"];

/// Builds everything and packs it.
pub(crate) fn run(target: Option<String>) -> anyhow::Result<()> {
    let root = tools::root();
    // Checked first, since the build takes minutes.
    let missing: Vec<&str> =
        FILES.iter().chain(FOLDERS).copied().filter(|file| !root.join(file).exists()).collect();
    ensure!(missing.is_empty(), "what is to be shipped is missing: {}", missing.join(", "));
    let target = target.map_or_else(this_machine, Ok)?;
    tools::ensure_wasm_target()?;
    say(format_args!("building for {target} (some minutes: the whole is optimised at once)"))?;
    let target_folder = tools::target_folder()?;
    let mut build = tools::cargo(".");
    build.args(["build", "--locked", "--profile", "dist", "--package", PROGRAM, "--bin", PROGRAM]);
    build.args(["--target", &target]).arg("--target-dir").arg(&target_folder);
    // Panic messages contain file names, which must not reveal folders of this machine.
    build.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", renamed(&target_folder)?);
    ensure!(build.status().context("cargo cannot be run")?.success(), "the gateway does not build");
    let program = target_folder.join(&target).join("dist").join(PROGRAM);
    if target == this_machine()? {
        starts(&program)?;
    }

    let name = format!("{PROGRAM}-{VERSION}-{target}");
    let out = target_folder.join("dist-out");
    let packed = out.join(&name);
    if packed.exists() {
        fs::remove_dir_all(&packed)?;
    }
    fs::create_dir_all(&packed)?;
    fs::copy(&program, packed.join(PROGRAM)).context("the program cannot be copied")?;
    let mut shipped: Vec<String> = FILES.iter().copied().map(str::to_owned).collect();
    for folder in FOLDERS {
        shipped.extend(files(root, folder)?);
    }
    for file in &shipped {
        let copy = packed.join(file);
        if let Some(folder) = copy.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::copy(root.join(file), copy).with_context(|| format!("copying {file}"))?;
    }
    fs::write(packed.join("wardgate.cdx.json"), sbom::gateway(&target)?)?;
    let sums = sums(&packed, &files(&packed, "")?)?;
    fs::write(packed.join("SHA256SUMS"), sums)?;
    let archive = format!("{name}.tar.gz");
    pack(&out, &name, &archive)?;
    let sum = self::sums(&out, std::slice::from_ref(&archive))?;
    fs::write(out.join(format!("{archive}.sha256")), &sum)?;

    let size = fs::metadata(out.join(&archive))?.len() >> 20;
    say(format_args!("{} ({size} MiB)", out.join(&archive).display()))?;
    if let Some((major, minor)) = glibc(&fs::read(&program)?) {
        say(format_args!("the program needs glibc {major}.{minor} or newer"))?;
    }
    Ok(())
}

/// Compiler flags that replace folders of this machine by names that are the same on every machine.
fn renamed(target_folder: &Path) -> anyhow::Result<OsString> {
    let cargo = match std::env::var_os("CARGO_HOME") {
        Some(cargo) => PathBuf::from(cargo),
        None => std::env::home_dir().context("this user has no home")?.join(".cargo"),
    };
    let mut flags = OsString::new();
    // If several prefixes match, the last flag applies: the target folder is often in the repository.
    for (folder, name) in
        [(cargo.as_path(), "/cargo"), (tools::root(), "/wardgate"), (target_folder, "/target")]
    {
        if !flags.is_empty() {
            flags.push("\x1f");
        }
        flags.push("--remap-path-prefix=");
        flags.push(folder);
        flags.push("=");
        flags.push(name);
    }
    Ok(flags)
}

/// The compiler's default target.
fn this_machine() -> anyhow::Result<String> {
    let mut rustc = Command::new("rustc");
    let output = rustc.arg("-vV").current_dir(tools::root()).output();
    let output = String::from_utf8(output.context("rustc cannot be run")?.stdout)?;
    let host = output.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say what machine this is")
}

/// Checks that the program starts and reports this version.
fn starts(program: &Path) -> anyhow::Result<()> {
    let output = Command::new(program).arg("--version").output();
    let output = output.context("what was built does not start")?;
    let output = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.trim() == format!("{PROGRAM} {VERSION}"),
        "the built program reports {output:?}"
    );
    Ok(())
}

/// All files in a folder, as sorted paths relative to it.
fn files(folder: &Path, within: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder.join(within))? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().context("a name that is not UTF-8")?;
        let name = if within.is_empty() { name } else { format!("{within}/{name}") };
        if entry.file_type()?.is_dir() {
            found.extend(files(folder, &name)?);
        } else {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}

/// Checksums in the format of `sha256sum --check`.
fn sums(folder: &Path, files: &[String]) -> anyhow::Result<String> {
    let mut sha256sum = Command::new("sha256sum");
    let output =
        sha256sum.current_dir(folder).arg("--").args(files).stderr(Stdio::inherit()).output();
    let output = output.context("sha256sum cannot be run")?;
    ensure!(output.status.success(), "sha256sum failed");
    String::from_utf8(output.stdout).context("sha256sum says no text")
}

/// Packs a reproducible archive: files are sorted, have no owners, and have the time of the last commit.
fn pack(out: &Path, name: &str, archive: &str) -> anyhow::Result<()> {
    let mut tar = Command::new("tar");
    tar.current_dir(out).args(["--create", "--gzip", "--file", archive, "--sort=name"]);
    tar.args(["--owner=0", "--group=0", "--numeric-owner", "--mode=u+rw,go+r-w"]);
    let mut git = Command::new("git");
    git.current_dir(tools::root()).args(["log", "-1", "--format=%ct"]);
    match git.output() {
        Ok(output) if output.status.success() => {
            tar.arg(format!("--mtime=@{}", String::from_utf8_lossy(&output.stdout).trim()));
        }
        // A source archive has no commits; its files keep their own times.
        _ => {}
    }
    match tar.arg(name).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => bail!("tar failed; it has to be GNU's"),
        Err(error) => Err(error).context("tar cannot be run"),
    }
}

/// The newest glibc version among the program's symbol versions. None if there are none.
fn glibc(program: &[u8]) -> Option<(u32, u32)> {
    let text = String::from_utf8_lossy(program);
    let versions = text.split('\0').filter_map(|name| {
        let (major, minor) = name.strip_prefix("GLIBC_")?.split_once('.')?;
        let minor = minor.split('.').next()?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    versions.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_tells_which_glibc_it_needs() {
        let program = b"\x7fELF\xff\0GLIBC_2.9\0GLIBC_2.34\0GLIBC_2.2.5\0GLIBC_PRIVATE\0x\0";
        assert_eq!(glibc(program), Some((2, 34)));
        assert_eq!(glibc(b"\x7fELF"), None);
    }
}
