//! `wardgate replay`: replays a task's plugin calls on this machine.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::api::{Api, ForTenant, Target};
use super::plugin::harness::{component, cost};
use super::progress::with_progress;
use super::{one_line, print};
use crate::fixture::{Difference, PluginHarness};
use crate::ids::PluginName;
use crate::replay::{CalledWith, Recorded, RecordedCall, RecordedOutcome, ReplayResult, play};
use crate::sandbox::{Binding, Grants};
use crate::settings::{Settings, author_folder};

/// `wardgate replay …`.
#[derive(Debug, clap::Args)]
pub(super) struct Replay {
    /// Task id, or the name of a thread, whose newest task is replayed.
    #[arg(value_name = "TASK")]
    task: String,
    /// Component to run in place of a plugin; only that plugin's calls are replayed.
    #[arg(long, value_name = "FILE")]
    plugin: Option<PathBuf>,
    /// Plugin that --plugin replaces.
    ///
    /// If omitted: the only plugin that was called for the task, or else the plugin of the file's name.
    #[arg(long = "as", value_name = "NAME", requires = "plugin")]
    replaces: Option<PluginName>,
    #[command(flatten)]
    tenant: ForTenant,
    #[command(flatten)]
    target: Target,
}

/// The component that replaces a plugin.
struct Substitute {
    name: PluginName,
    component: Arc<[u8]>,
}

/// What a replay works with.
struct ReplayContext<'a> {
    api: &'a Api,
    recorded: &'a Recorded,
    harness: PluginHarness,
    substitute: Option<Substitute>,
    /// The installed plugins that calls have needed so far, or why one is unavailable.
    installed: HashMap<PluginName, Result<Arc<Binding>, String>>,
}

/// The outcome of a replayed call, compared with the recorded outcome.
enum Verdict {
    Same,
    Differs,
    /// No outcome was recorded to compare it with.
    Shown,
    /// The recorded call did not reach the plugin or did not complete, so there is nothing to replay.
    Skipped,
}

/// Number of calls by verdict.
#[derive(Default)]
struct Count {
    same: usize,
    differ: usize,
    shown: usize,
    failed: usize,
    skipped: usize,
}

impl Count {
    fn add(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Same => self.same += 1,
            Verdict::Differs => self.differ += 1,
            Verdict::Shown => self.shown += 1,
            Verdict::Skipped => self.skipped += 1,
        }
    }

    fn report(&self) -> anyhow::Result<()> {
        let Self { same, differ, shown, failed, skipped } = self;
        let played = same + differ + shown;
        match (failed, differ, same) {
            (1.., _, _) => bail!("{failed} of {} calls could not be played", failed + played),
            (_, 1.., _) => bail!("{differ} of {played} calls came out differently"),
            (_, _, 1..) => {
                let calls = if *same == 1 { "call" } else { "calls" };
                let besides = match shown {
                    0 => String::new(),
                    shown => format!("; with {shown} there was nothing to compare"),
                };
                print(&format!("{same} {calls} played, nothing differs{besides}"))
            }
            _ if *shown > 0 => print("nothing was kept to compare it with"),
            _ if *skipped > 0 => print("no call of a plugin can be played"),
            _ => print("no plugin did anything for this task that was kept"),
        }
    }
}

impl Replay {
    pub(super) async fn execute(self, settings: &Settings) -> anyhow::Result<()> {
        let api = self.target.open(settings).await?;
        let tenant = self.tenant.resolve(&api).await?;
        let task: String = url::form_urlencoded::byte_serialize(self.task.as_bytes()).collect();
        let task = task.replace('+', "%20");
        let recording = api.get(&format!("/admin/tenants/{tenant}/tasks/{task}/recording")).await?;
        let recorded: Recorded =
            serde_json::from_value(recording).context("the gateway's answer is not a recording")?;
        let substitute = self.substitute(&recorded)?;
        let harness = PluginHarness::open(&author_folder(), &settings.sandbox)?;
        let installed = HashMap::new();
        let mut context =
            ReplayContext { api: &api, recorded: &recorded, harness, substitute, installed };
        let mut count = Count::default();
        for call in &recorded.calls {
            if context.substitute.as_ref().is_some_and(|substitute| substitute.name != call.plugin)
            {
                continue;
            }
            match context.play(call).await {
                Ok(verdict) => count.add(verdict),
                Err(error) => {
                    count.failed += 1;
                    print(&format!("{}: not played: {error:#}", title(call)))?;
                }
            }
        }
        if !recorded.status.is_final() {
            let status = recorded.status;
            print(&format!("the task is {status}: what its run does is kept when it ends"))?;
        }
        if recorded.truncated {
            print("the task's later calls are left out: all of them together are too long")?;
        }
        count.report()
    }

    /// The component of the command line and the plugin that it replaces. None without --plugin, or if no plugin was
    /// called.
    fn substitute(&self, recorded: &Recorded) -> anyhow::Result<Option<Substitute>> {
        let Some(path) = &self.plugin else { return Ok(None) };
        let path = path.to_str().context("the file's name is not UTF-8")?;
        let (of_file, bytes) = component(path)?;
        let called_plugins: BTreeSet<_> = recorded.calls.iter().map(|call| &call.plugin).collect();
        let name = self.replaces.clone().unwrap_or(of_file);
        let name = match called_plugins.first() {
            Some(only) if called_plugins.len() == 1 && self.replaces.is_none() => (*only).clone(),
            _ if called_plugins.contains(&name) => name,
            None => return Ok(None),
            _ => {
                let names: Vec<_> = called_plugins.iter().map(|name| name.as_str()).collect();
                bail!(
                    "no plugin {name} did anything for this task; say with --as which one it is: {}",
                    names.join(", ")
                )
            }
        };
        Ok(Some(Substitute { name, component: bytes.into() }))
    }
}

impl ReplayContext<'_> {
    /// Replays one call and prints its outcome.
    async fn play(&mut self, call: &RecordedCall) -> anyhow::Result<Verdict> {
        let recorded = self.recorded;
        if call.came.is_some() && call.digest.is_none() {
            print(&format!("{}: not called, or ended before it answered", title(call)))?;
            return Ok(Verdict::Skipped);
        }
        let actor = match &self.substitute {
            Some(substitute) => {
                self.bind(&substitute.name, Arc::clone(&substitute.component)).await?
            }
            None => self.installed(&call.plugin).await?,
        };
        let played = play(&actor, recorded, call).await?;
        // Earlier versions did not record a getter's outcome: the installed getter's outcome is compared instead.
        let differences = match (&call.came, &self.substitute) {
            (None, Some(_)) => {
                let before = self.installed(&call.plugin).await?;
                Some(played.changes_since(&play(&before, recorded, call).await?))
            }
            (None, None) => None,
            (Some(_), _) => Some(played.changes(call)),
        };
        print(&format_result(call, &actor, &played, differences.as_deref()))?;
        Ok(match differences.as_deref() {
            None => Verdict::Shown,
            Some([]) => Verdict::Same,
            Some(_) => Verdict::Differs,
        })
    }

    /// The installed version of a plugin, loaded once.
    async fn installed(&mut self, name: &PluginName) -> anyhow::Result<Arc<Binding>> {
        if !self.installed.contains_key(name) {
            let tenant = self.recorded.tenant;
            let path = format!("/admin/tenants/{tenant}/plugins/{name}/component");
            let bound = match self.api.get_bytes(&path).await {
                Ok(bytes) => self.bind(name, Arc::from(bytes.as_ref())).await,
                Err(error) => Err(error.context(format!("the plugin {name} cannot be had"))),
            };
            let bound = bound.map_err(|error| format!("{error:#}"));
            self.installed.insert(name.clone(), bound);
        }
        match self.installed.get(name) {
            Some(Ok(binding)) => Ok(Arc::clone(binding)),
            Some(Err(error)) => bail!("{error}"),
            None => bail!("the plugin {name} cannot be had"),
        }
    }

    async fn bind(&self, name: &PluginName, component: Arc<[u8]>) -> anyhow::Result<Arc<Binding>> {
        let grants = match self.recorded.grants.get(name) {
            Some(text) => Grants::parse(text)?,
            None => Grants::default(),
        };
        let loading = self.harness.load(component);
        let loaded = with_progress(&format!("compiling {name}"), loading).await?;
        Ok(self.harness.bind_for_replay(name.clone(), loaded, grants))
    }
}

/// Describes a call in one line.
fn title(call: &RecordedCall) -> String {
    let plugin = &call.plugin;
    match &call.with {
        CalledWith::MapPayload { .. } => format!("mapping by {plugin}"),
        CalledWith::CallTool { tool, .. } => format!("tool {} of {plugin}", one_line(tool)),
        CalledWith::GetValue { path, .. } => format!("getter {} by {plugin}", one_line(path)),
    }
}

fn format_result(
    call: &RecordedCall,
    actor: &Binding,
    played: &ReplayResult,
    differences: Option<&[Difference]>,
) -> String {
    let verdict = match differences {
        None => match &played.outcome {
            RecordedOutcome::Ok(json) => one_line(json),
            RecordedOutcome::Nothing => "nothing there".to_owned(),
            RecordedOutcome::Error(why) => format!("error: {}", one_line(why)),
        },
        Some([]) => "the same".to_owned(),
        Some(_) => "differs".to_owned(),
    };
    let mut lines = vec![format!("{}: {verdict}", title(call))];
    for difference in differences.unwrap_or_default() {
        let [was, is] = [&difference.expected, &difference.actual]
            .map(|value| value.as_deref().unwrap_or("nothing"));
        let place = one_line(difference.place.trim_start_matches('/'));
        lines.push(format!("  {place}: was {}, is {}", one_line(was), one_line(is)));
    }
    if let Some(then) = call.digest.as_ref().filter(|then| *then != actor.digest_text()) {
        lines.push(format!("  component: was {then}, is {}", actor.digest_text()));
    }
    lines.extend(played.notes.iter().map(|note| format!("  note: {note}")));
    lines.extend(played.logs.iter().map(|line| format!("  log: {line}")));
    lines.push(format!("  {}", cost(played.cost)));
    lines.join("\n")
}
