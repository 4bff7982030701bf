//! `cargo xtask test`, `check` and `bench`: call cargo as CI does.

use std::fmt;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, bail, ensure};

use crate::payloads;
use crate::tools::{self, say};

/// One call of cargo.
#[derive(Clone, Copy)]
pub(crate) struct Stage {
    name: &'static str,
    /// Working folder, relative to the repository's root.
    folder: &'static str,
    /// Separated by single spaces.
    arguments: &'static str,
}

const fn stage(name: &'static str, folder: &'static str, arguments: &'static str) -> Stage {
    Stage { name, folder, arguments }
}

const FORMAT: &str = "fmt --all --check";
/// Warnings are errors only here, since code in the middle of a change may have some.
const LINTS: &str = "clippy --workspace --all-targets --features wardgate/bench -- -D warnings";
/// For a workspace without the gateway, and so without its feature.
const PLUGIN_TEST_LINTS: &str = "clippy --workspace --all-targets -- -D warnings";
/// For the target of components, where plugins have no tests. Target folder and profile are those of the host's
/// build script, so that its builds are reused.
const PLUGIN_LINTS: &str = "clippy --workspace --release --target wasm32-wasip2 \
                            --target-dir ../target/guests-of-host -- -D warnings";
/// Likewise, with target folder and profile of the tests' build script.
const GUEST_LINTS: &str = "clippy --examples --release --target wasm32-wasip2 \
                           --target-dir ../../target/guests-of-tests -- -D warnings";

/// What `check` runs: formatting, and lints without building.
pub(crate) const CHECK: &[Stage] = &[
    stage("format", ".", FORMAT),
    stage("format of plugins", "plugins", FORMAT),
    stage("format of guests", "tests/guests", FORMAT),
    stage("lints", ".", LINTS),
    stage("lints of plugins", "plugins", PLUGIN_LINTS),
    stage("lints of plugins' tests", "plugins", PLUGIN_TEST_LINTS),
    stage("lints of guests", "tests/guests", GUEST_LINTS),
];

/// What a named test needs: the tests, and the programs that they start.
const BUILD: Stage = stage("build", ".", "build --workspace --bins --tests");

/// Runs the unit tests and the integration tests.
const NAMED: &str = "test --workspace --lib --test it --no-fail-fast --";

/// What `test` runs. Lints and the check of the documentation are part of the builds, see [`crate::linted`]. The
/// programs are built before the tests, which start `wardgate` as its users do. The benchmark's feature, which only
/// makes more of the library public, is on everywhere, so that the library is compiled once. All builds are of the whole workspace: for
/// parts of it, cargo would choose other features of the same dependencies and build those twice.
pub(crate) const TEST: &[Stage] = &[
    stage("format", ".", FORMAT),
    stage("format of plugins", "plugins", FORMAT),
    stage("format of guests", "tests/guests", FORMAT),
    stage("dependencies", ".", "xtask deny"),
    stage("payloads", ".", "xtask payloads"),
    stage(
        "build",
        ".",
        "xtask linted build --workspace --bins --tests --examples --bench gateway --features wardgate/bench",
    ),
    stage("lints of plugins", "plugins", PLUGIN_LINTS),
    stage("lints of guests", "tests/guests", GUEST_LINTS),
    stage("tests", ".", "xtask linted test --workspace --features wardgate/bench"),
    stage("tests of plugins", ".", "xtask linted --folder plugins test --workspace"),
];

impl Stage {
    fn command(&self) -> Command {
        let mut cargo = tools::cargo(self.folder);
        cargo.args(self.arguments.split(' '));
        cargo
    }

    /// Runs the stage and prints its time.
    fn run(&self, number: impl fmt::Display) -> anyhow::Result<()> {
        let name = self.name;
        say(format_args!("[{number}] {name}: {self}"))?;
        let begin = Instant::now();
        let status = self.command().status().context("cargo cannot be run")?;
        let seconds = begin.elapsed().as_secs_f32();
        if !status.success() {
            bail!("stage `{name}` failed after {seconds:.1} s; to run it alone:\n\n  {self}\n");
        }
        say(format_args!("[{number}] {name}: {seconds:.1} s"))
    }
}

/// The line to paste into a shell at the repository's root.
impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let elsewhere = self.folder != ".";
        if elsewhere {
            write!(f, "(cd {} && ", self.folder)?;
        }
        write!(f, "cargo {}", self.arguments)?;
        if elsewhere { f.write_str(")") } else { Ok(()) }
    }
}

/// The list of stages, for the help.
pub(crate) fn list(stages: &[Stage]) -> String {
    let lines = stages.iter().map(|stage| format!("\n  {stage}"));
    format!("Stages:{}", lines.collect::<String>())
}

/// Builds the programs, and then runs the tests whose names contain one of `names`.
pub(crate) fn named(names: &[String]) -> anyhow::Result<()> {
    tools::ensure_wasm_target()?;
    payloads::install()?;
    BUILD.run("1/2")?;
    let mut list = tools::cargo(".");
    list.args(NAMED.split(' ')).args(["--list", "--format", "terse"]).stderr(Stdio::inherit());
    let list = list.output().context("cargo cannot be run")?;
    ensure!(list.status.success(), "the tests cannot be listed");
    let list = String::from_utf8_lossy(&list.stdout);
    for name in names {
        let count = matching(&list, name);
        ensure!(
            count > 0,
            "no test's name contains `{name}`; to see all names:\n\n  cargo {NAMED} --list\n"
        );
        say(format_args!("tests with `{name}` in their names: {count}"))?;
    }
    say("[2/2] tests")?;
    let mut tests = tools::cargo(".");
    let status = tests.args(NAMED.split(' ')).args(names).status();
    ensure!(
        status.context("cargo cannot be run")?.success(),
        "a test failed; to run them again:\n\n  cargo xtask test {}\n",
        names.join(" ")
    );
    Ok(())
}

/// The number of tests in a list whose names contain `name`.
fn matching(list: &str, name: &str) -> usize {
    let tests = list.lines().filter_map(|line| line.strip_suffix(": test"));
    tests.filter(|test| test.contains(name)).count()
}

/// Runs the stages in order, up to the first that fails.
pub(crate) fn run(stages: &[Stage]) -> anyhow::Result<()> {
    let begin = Instant::now();
    tools::ensure_wasm_target()?;
    let count = stages.len();
    for (number, stage) in (1..).zip(stages) {
        stage.run(format_args!("{number}/{count}"))?;
    }
    say(format_args!("all {count} stages in {:.1} s", begin.elapsed().as_secs_f32()))
}

/// Runs the test that kills a gateway while its agents work, with this many kills.
pub(crate) fn crash_agents(rounds: u32) -> anyhow::Result<()> {
    tools::ensure_wasm_target()?;
    BUILD.run("1/2")?;
    say(format_args!("[2/2] {rounds} kills"))?;
    let mut test = tools::cargo(".");
    test.args([
        "test",
        "--workspace",
        "--test",
        "it",
        "--",
        "crash_agents::whenever",
        "--nocapture",
    ]);
    let status = test.env("CRASH_ROUNDS", rounds.to_string()).status();
    ensure!(
        status.context("cargo cannot be run")?.success(),
        "something was done twice, or not at all"
    );
    Ok(())
}

/// Runs the benchmarks.
pub(crate) fn bench(filter: Option<&str>, seconds: Option<u32>) -> anyhow::Result<()> {
    tools::ensure_wasm_target()?;
    let mut cargo = tools::cargo(".");
    cargo.args(["bench", "--package", "wardgate", "--features", "bench"]);
    cargo.args(["--bench", "gateway", "--"]);
    if let Some(filter) = filter {
        cargo.args(["--filter", filter]);
    }
    if let Some(seconds) = seconds {
        cargo.args(["--seconds", &seconds.to_string()]);
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    let load = if load.len() == 3 { load.join(", ") } else { "unknown".to_owned() };
    say(format_args!("{cores} cores; load over the last 1, 5 and 15 minutes: {load}"))?;
    if !cargo.status().context("cargo cannot be run")?.success() {
        bail!("the benchmark failed");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_for_in_names_of_tests_only() {
        let list = "cli::tests::a_line: test\nstreams::a_line_comes: test\nstreams: benchmark\n";
        assert_eq!(matching(list, "a_line"), 2);
        assert_eq!(matching(list, "streams::"), 1);
        assert_eq!(matching(list, "test\n"), 0);
        assert_eq!(matching(list, "benchmark"), 0);
    }

    #[test]
    fn a_stage_reads_as_it_is_pasted() {
        let lines = list(TEST);
        assert!(lines.contains("\n  cargo fmt --all --check\n"), "{lines}");
        assert!(lines.contains("\n  (cd plugins && cargo fmt --all --check)\n"), "{lines}");
    }
}
