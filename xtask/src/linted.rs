//! `cargo xtask linted`: a build that lints what it compiles.
//!
//! `cargo clippy` and `cargo doc` check all dependencies besides building them, which takes a minute on two cores. Here
//! cargo calls this program in place of rustc for the crates of the workspace: clippy lints and compiles each crate, and
//! rustdoc checks the documentation of libraries, with the dependencies that the build needs anyway.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, ensure};

use crate::tools;

/// The name under which cargo calls this program.
const WRAPPER: &str = "rustc-linted";

/// The folders of the documentation of libraries and of programs within the target folder. A program may have the name
/// of a library.
const DOCUMENTATION: [(&str, &str); 2] = [("lib", "doc"), ("bin", "doc-programs")];

/// Runs cargo in a folder of the repository with these arguments. Warnings are errors.
pub(crate) fn run(folder: &str, arguments: &[String]) -> anyhow::Result<()> {
    tools::ensure_wasm_target()?;
    let wrapper = wrapper()?;
    let wrapper = wrapper.to_str().context("the path of the target folder is not UTF-8")?;
    let mut cargo = tools::cargo(folder);
    // Not as a variable of the environment, which the tests' own calls of cargo would inherit.
    cargo.arg("--config").arg(format!("build.rustc-workspace-wrapper={wrapper:?}")).args(arguments);
    // How `cargo clippy` passes the arguments after `--`. Clippy's driver has cargo track the variable, so it has to be
    // the same in each call.
    cargo.env("CLIPPY_ARGS", "-Dwarnings__CLIPPY_HACKERY__");
    // Nothing is built a second time with few changes, which is what incremental compilation is for.
    cargo.env("CARGO_INCREMENTAL", "0");
    let status = cargo.status().context("cargo cannot be run")?;
    ensure!(status.success(), "cargo {} failed", arguments.join(" "));
    Ok(())
}

/// A copy of this program, which the build does not replace: it builds this package as well.
fn wrapper() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe().context("the path of this program is unknown")?;
    let folder = tools::target_folder()?.join("linted");
    let wrapper = folder.join(WRAPPER);
    let program = fs::read(&this)?;
    // Cargo asks rustc for its version again if the file is newer.
    if !fs::read(&wrapper).is_ok_and(|existing| existing == program) {
        fs::create_dir_all(&folder)?;
        // Renamed, so that nothing runs a program that is half written.
        let new = folder.join(format!("{WRAPPER}.{}", std::process::id()));
        fs::copy(&this, &new)?;
        fs::rename(&new, &wrapper)?;
    }
    Ok(wrapper)
}

/// Whether cargo has called this program in place of rustc.
pub(crate) fn is_called_as_rustc() -> bool {
    std::env::args_os().next().is_some_and(|program| Path::new(&program).ends_with(WRAPPER))
}

/// Compiles and lints a crate, as cargo asks rustc to.
pub(crate) fn rustc() -> ExitCode {
    // The path of rustc, which clippy expects as its first argument, and rustc's arguments.
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let documenting = documentation(&arguments).map(|arguments| {
        Command::new("rustdoc").args(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
    });
    let compiled = Command::new("clippy-driver").args(&arguments).status();
    // Waited for in any case: a process that is left behind would write beside the next build.
    let documented = documenting.map(|child| child.and_then(std::process::Child::wait_with_output));
    match compiled {
        Ok(status) if status.success() => {}
        Ok(_) => return ExitCode::FAILURE,
        Err(error) => {
            eprintln!(
                "error: clippy-driver cannot be run: {error}; `rustup component add clippy` installs it"
            );
            return ExitCode::FAILURE;
        }
    }
    match documented {
        None => ExitCode::SUCCESS,
        Some(Ok(output)) if output.status.success() => ExitCode::SUCCESS,
        Some(Ok(output)) => {
            eprint!("{}", String::from_utf8_lossy(&output.stderr));
            ExitCode::FAILURE
        }
        Some(Err(error)) => {
            eprintln!("error: rustdoc cannot be run: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The arguments of rustdoc, if these compile a library or a program: which crates there are, and where.
fn documentation(rustc: &[OsString]) -> Option<Vec<OsString>> {
    let texts: Vec<&str> =
        rustc.iter().skip(1).map(|argument| argument.to_str()).collect::<Option<_>>()?;
    let value = |name: &str| {
        let place = texts.iter().position(|text| *text == name)?;
        texts.get(place + 1).copied()
    };
    let is_test = texts.contains(&"--test");
    let kind = value("--crate-type").filter(|_| !is_test)?;
    let (_, folder) = DOCUMENTATION.into_iter().find(|(of, _)| *of == kind)?;
    // OUT is <target>/<profile>/deps.
    let target = Path::new(value("--out-dir")?).ancestors().nth(2)?;
    // Messages in the format in which cargo reads them.
    let fixed =
        ["-Dwarnings", "--error-format=json", "--json=diagnostic-rendered-ansi", "--out-dir"];
    let mut arguments: Vec<OsString> = fixed.map(Into::into).into();
    arguments.push(target.join(folder).into_os_string());
    if kind == "bin" {
        // As `cargo doc` does: a program has nothing public.
        arguments.push("--document-private-items".into());
    }
    let mut rest = texts.iter();
    while let Some(&text) = rest.next() {
        match text {
            "--crate-name" | "--crate-type" | "--cfg" | "--check-cfg" | "--extern" | "-L" => {
                arguments.extend([text.into(), rest.next()?.into()]);
            }
            _ if text.starts_with("--edition=") || text.ends_with(".rs") => {
                arguments.push(text.into())
            }
            _ => {}
        }
    }
    Some(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(of: &str) -> Option<String> {
        let rustc: Vec<OsString> = of.split(' ').map(Into::into).collect();
        let arguments = documentation(&rustc)?;
        Some(arguments.join(std::ffi::OsStr::new(" ")).into_string().unwrap())
    }

    #[test]
    fn rustdoc_is_given_what_names_the_crates_of_a_library() {
        let rustc = "rustc --crate-name one --edition=2024 src/lib.rs --error-format=json --crate-type lib \
                     --emit=dep-info,metadata,link -C debuginfo=1 --cfg unix --out-dir /t/debug/deps -L /t/debug/deps \
                     --extern two=/t/debug/deps/libtwo.rlib --deny=clippy::todo";
        let rustdoc = "-Dwarnings --error-format=json --json=diagnostic-rendered-ansi --out-dir /t/doc --crate-name one --edition=2024 src/lib.rs --crate-type lib \
                       --cfg unix -L /t/debug/deps --extern two=/t/debug/deps/libtwo.rlib";
        assert_eq!(arguments(rustc).as_deref(), Some(rustdoc));
    }

    #[test]
    fn programs_are_documented_whole_and_tests_not_at_all() {
        let of = |what: &str| {
            arguments(&format!("rustc --crate-name one --out-dir /t/debug/deps {what} src/lib.rs"))
        };
        let program = of("--crate-type bin").unwrap();
        assert!(
            program.contains("--out-dir /t/doc-programs --document-private-items "),
            "{program}"
        );
        assert_eq!(of("--crate-type lib --test"), None);
        assert_eq!(of("--print cfg"), None);
    }
}
