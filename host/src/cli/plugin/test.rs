//! `wardgate plugin test`: runs golden cases without a server.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::super::print;
use super::harness::{cost, open};
use crate::fixture::{Case, CaseResult, Expected};
use crate::settings::Settings;

/// Maximum number of cases in one run.
const CASES_MAX: usize = 10_000;

/// See [`super::Plugin::Test`].
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Test {
    /// Component file, or the name of a bundled plugin.
    #[arg(value_name = "PLUGIN")]
    plugin: String,
    /// Case file, or a folder: every .json file in it and in its subfolders.
    #[arg(value_name = "FIXTURES")]
    fixtures: PathBuf,
    /// Grants file (TOML), for its limits and settings.
    #[arg(long, value_name = "FILE")]
    grants: Option<PathBuf>,
    /// Write actual outcomes into cases that fail or that have no expectation yet.
    ///
    /// Review the changes before you commit them.
    #[arg(long)]
    accept: bool,
}

impl Test {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        let cases = cases(&self.fixtures)?;
        let (harness, binding) = open(&self.plugin, self.grants.as_deref(), settings).await?;
        let mut failed = 0;
        for path in &cases {
            let shown = path.strip_prefix(&self.fixtures).unwrap_or(path);
            let shown = if shown.as_os_str().is_empty() { path } else { shown }.display();
            let case = Case::from_file(path).with_context(|| path.display().to_string())?;
            let ran = harness.run_scripted(&binding, &case).await;
            let ran = ran.with_context(|| path.display().to_string())?;
            let mut wrong: Vec<_> =
                ran.differences(&case).iter().map(ToString::to_string).collect();
            if case.expect.is_none() {
                wrong = vec![format!("it expects nothing; what came is {}", ran.outcome)];
            }
            if wrong.is_empty() {
                print(&format!("ok     {shown}  ({})", cost(ran.cost)))?;
                continue;
            }
            if self.accept {
                accept(path, &ran)?;
                print(&format!("taken  {shown}\n       {}", wrong.join("\n       ")))?;
                continue;
            }
            failed += 1;
            let logs = ran.logs.iter().map(|line| format!("\n       log: {line}"));
            let logs = logs.collect::<String>();
            let about =
                if case.about.is_empty() { String::new() } else { format!("  {}", case.about) };
            print(&format!("FAILED {shown}{about}\n       {}{logs}", wrong.join("\n       ")))?;
        }
        let total = cases.len();
        if failed > 0 {
            bail!("{failed} of {total} cases failed");
        }
        print(&format!("{total} cases passed"))
    }
}

/// All case files, sorted by path.
fn cases(fixtures: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut left = vec![fixtures.to_owned()];
    while let Some(path) = left.pop() {
        let failed = || format!("cannot read {}", path.display());
        if !path.is_dir() {
            let is_case = path == fixtures || path.extension().is_some_and(|end| end == "json");
            if is_case {
                found.push(path);
            }
        } else {
            for entry in std::fs::read_dir(&path).with_context(failed)? {
                left.push(entry.with_context(failed)?.path());
            }
        }
        if found.len() + left.len() > CASES_MAX {
            bail!("{} holds more than {CASES_MAX} files", fixtures.display());
        }
    }
    if found.is_empty() {
        bail!("{} holds no case: no .json file is in it", fixtures.display());
    }
    found.sort();
    Ok(found)
}

/// Writes the actual outcome into a case and leaves its other fields unchanged.
fn accept(path: &Path, ran: &CaseResult) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(path)?;
    let mut case: serde_json::Value = serde_json::from_str(&text)?;
    let field = |name: &str| ran.outcome.get(name).cloned();
    let before: Expected =
        case.get("expect").cloned().map(serde_json::from_value).transpose()?.unwrap_or_default();
    let refusal = field("refusal").and_then(|word| word.as_str().map(str::to_owned));
    let expected = Expected {
        ok: field("ok"),
        failure: field("failure"),
        refusal,
        logs: before
            .logs
            .into_iter()
            .filter(|wanted| ran.logs.iter().any(|line| line.contains(wanted)))
            .collect(),
        values: before.values.map(|_| ran.values.clone()),
        egress_sent: before.egress_sent.map(|_| ran.sent.clone()),
    };
    if let Some(case) = case.as_object_mut() {
        case.insert("expect".to_owned(), serde_json::to_value(expected)?);
    }
    let text = format!("{case:#}\n");
    crate::disk::write_atomic(path, text.as_bytes()).with_context(|| path.display().to_string())
}
