//! Reloading plugins while their author works on them: a component that has been built anew is installed
//! in the place of the one before. Calls under way finish with the old one, the next one gets the new; a
//! build that is broken changes nothing and is said to be.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use crate::disk::read_at_most;
use crate::ids::{PluginDigest, PluginName, TenantId};
use crate::plugins::{COMPONENT_BYTES_MAX, Installed, Plugins};

/// How long a file has to be left alone before it is read: builds write in several steps.
const SETTLED_AFTER: Duration = Duration::from_millis(200);

/// Changes that may wait to be looked at; more of them say nothing new.
const CHANGES_MAX: usize = 64;

/// The largest grants file beside a component, in bytes.
const GRANTS_BYTES_MAX: u64 = 256 << 10;

/// Watches components for one tenant, until it is dropped.
#[derive(Debug)]
pub struct Watch {
    plugins: Plugins,
    tenant: TenantId,
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    /// What was installed or refused last, so that a file that is only touched is left alone.
    seen: HashMap<PathBuf, Seen>,
    /// Which build of each file was installed last. One that was refused may have been so for its grants.
    installed: HashMap<PathBuf, PluginDigest>,
    /// Plugins that two files are, of which that was said.
    said: HashSet<PluginName>,
}

/// A component, and the text of its grants.
type Seen = (PluginDigest, Option<String>);

impl Watch {
    /// Watches these components, and every component in these folders.
    #[must_use]
    pub fn new(plugins: Plugins, tenant: TenantId, paths: &[PathBuf]) -> Self {
        let (folders, files) = paths.iter().cloned().partition(|path| path.is_dir());
        let (seen, installed, said) = Default::default();
        Self { plugins, tenant, files, folders, seen, installed, said }
    }

    /// Installs what is there, and from then on what changes. Ends when its caller drops it.
    ///
    /// # Errors
    /// When a folder cannot be watched.
    pub async fn serve(mut self) -> anyhow::Result<()> {
        let (changes, mut changed) = mpsc::channel(CHANGES_MAX);
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // Reading a file is no change of it.
                if event.is_ok_and(|event| !event.kind.is_access()) {
                    let _ = changes.try_send(());
                }
            })?;
        let parents = self.files.iter().map(|file| match file.parent() {
            // A file without a folder before it lies in this one.
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        });
        for folder in parents.chain(self.folders.iter().map(PathBuf::as_path)) {
            watcher
                .watch(folder, RecursiveMode::NonRecursive)
                .with_context(|| format!("cannot watch {}", folder.display()))?;
        }
        for file in self.files.iter().filter(|file| !file.exists()) {
            let file = file.display();
            tracing::warn!(%file, "there is no such file; it is installed once it is there");
        }
        loop {
            self.look().await;
            if changed.recv().await.is_none() {
                return Ok(());
            }
            // More may come: a build is over when nothing has changed for a while.
            while tokio::time::timeout(SETTLED_AFTER, changed.recv())
                .await
                .is_ok_and(|c| c.is_some())
            {}
        }
    }

    /// Installs every component that is not the one seen last.
    async fn look(&mut self) {
        let mut paths = self.files.clone();
        for folder in &self.folders {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            let entries = entries.filter_map(Result::ok).map(|entry| entry.path());
            paths.extend(entries.filter(|path| path.extension().is_some_and(|end| end == "wasm")));
        }
        self.say_which_are_one(&paths);
        for path in paths {
            if let Err(error) = self.reload(&path).await {
                tracing::warn!(
                    file = %path.display(), error = format!("{error:#}"),
                    "this build is broken; the plugin stays as it was"
                );
            }
        }
    }

    /// Says which files go by one plugin's name: each would be installed in the place of the other.
    fn say_which_are_one(&mut self, paths: &[PathBuf]) {
        let mut by_name: HashMap<PluginName, &Path> = HashMap::new();
        for path in paths.iter().filter(|path| path.is_file()) {
            let Ok(name) = name(path) else { continue };
            let Some(other) = by_name.insert(name.clone(), path) else { continue };
            if other != path.as_path() && self.said.insert(name.clone()) {
                let (one, other) = (other.display(), path.display());
                tracing::warn!(plugin = %name, %one, %other, "two files are one plugin: whichever changes last is installed");
            }
        }
    }

    async fn reload(&mut self, path: &Path) -> anyhow::Result<()> {
        // A build takes its file away before it writes the new one.
        if !path.exists() || path.is_dir() {
            return Ok(());
        }
        let file = path.to_owned();
        let read = tokio::task::spawn_blocking(move || {
            let component = read_at_most(&file, COMPONENT_BYTES_MAX)?;
            let own = file.with_extension("grants.toml");
            let grants = match own.exists() {
                true => Some(
                    read_at_most(&own, GRANTS_BYTES_MAX)
                        .with_context(|| own.display().to_string())?,
                ),
                false => None,
            };
            anyhow::Ok((component, grants))
        });
        let (component, grants) = read.await??;
        let grants =
            grants.map(String::from_utf8).transpose().context("its grants are not UTF-8")?;
        let seen = (PluginDigest::of(&component), grants.clone());
        if self.seen.get(path) == Some(&seen) {
            return Ok(());
        }
        let digest = seen.0;
        self.seen.insert(path.to_owned(), seen);
        let name = name(path)?;
        if let Some(grants) = &grants
            && self.installed.get(path) == Some(&digest)
        {
            // The same build: somebody may have gone back to an earlier one since, which stays in force.
            for note in self.plugins.put_grants(self.tenant, &name, grants).await? {
                tracing::warn!(plugin = %name, "{note}");
            }
            tracing::info!(plugin = %name, "its grants have changed: the next call has them");
            return Ok(());
        }
        let installed =
            self.plugins.install(self.tenant, &name, component, grants.as_deref()).await;
        let Installed { roles, notes, .. } = installed?;
        self.installed.insert(path.to_owned(), digest);
        tracing::info!(plugin = %name, %digest, ?roles, "reloaded: the next call gets this build");
        for note in notes {
            tracing::warn!(plugin = %name, "{note}");
        }
        Ok(())
    }
}

/// The plugin's name, from the file's: `order_desk.wasm` is `order-desk`.
fn name(component: &Path) -> anyhow::Result<PluginName> {
    let stem = component.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name = stem.to_ascii_lowercase().replace(['_', '.'], "-");
    name.parse().with_context(|| format!("{stem:?} cannot be a plugin's name"))
}
