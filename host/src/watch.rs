//! Reloads plugins while their author works on them: a rebuilt component replaces the installed one. Calls in
//! progress finish with the old component, and the next call gets the new one. A broken build changes nothing and is
//! reported.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use crate::disk::read_at_most;
use crate::ids::{PluginDigest, PluginName, TenantId};
use crate::plugins::{COMPONENT_BYTES_MAX, Installed, Plugins};

/// How long a file must be unchanged before it is read: builds write in several steps.
const SETTLED_AFTER: Duration = Duration::from_millis(200);

/// How many notifications may wait. Further ones carry no new information.
const CHANGES_MAX: usize = 64;

/// The maximum size of a grants file next to a component, in bytes.
const GRANTS_BYTES_MAX: u64 = 256 << 10;

/// Watches components for one tenant until it is dropped.
#[derive(Debug)]
pub struct Watch {
    plugins: Plugins,
    tenant: TenantId,
    files: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    /// What was last installed or refused, so that a file that is only touched is ignored.
    seen: HashMap<PathBuf, Seen>,
    /// The last installed build of each file. A build that was refused may have been refused for its grants.
    installed: HashMap<PathBuf, PluginDigest>,
    /// Plugins that two files map to, if that has been reported.
    reported: HashSet<PluginName>,
}

/// The digest of a component, and the text of its grants.
type Seen = (PluginDigest, Option<String>);

impl Watch {
    /// Watches these components, and every component in these folders.
    #[must_use]
    pub fn new(plugins: Plugins, tenant: TenantId, paths: &[PathBuf]) -> Self {
        let (folders, files) = paths.iter().cloned().partition(|path| path.is_dir());
        let (seen, installed, reported) = Default::default();
        Self { plugins, tenant, files, folders, seen, installed, reported }
    }

    /// Installs the components that exist, and from then on each change. Ends when the caller drops it.
    ///
    /// # Errors
    /// If a folder cannot be watched.
    pub async fn serve(mut self) -> anyhow::Result<()> {
        let (changes, mut changed) = mpsc::channel(CHANGES_MAX);
        let mut watcher =
            notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
                // Reading a file does not change it.
                if event.is_ok_and(|event| !event.kind.is_access()) {
                    let _ = changes.try_send(());
                }
            })?;
        let parents = self.files.iter().map(|file| match file.parent() {
            // A file name without a folder is in the current folder.
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
            self.scan().await;
            if changed.recv().await.is_none() {
                return Ok(());
            }
            // More changes may follow: a build is complete when nothing has changed for a while.
            while tokio::time::timeout(SETTLED_AFTER, changed.recv())
                .await
                .is_ok_and(|c| c.is_some())
            {}
        }
    }

    /// Installs every component that differs from the one last seen.
    async fn scan(&mut self) {
        let mut paths = self.files.clone();
        for folder in &self.folders {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            let entries = entries.filter_map(Result::ok).map(|entry| entry.path());
            paths.extend(entries.filter(|path| path.extension().is_some_and(|end| end == "wasm")));
        }
        self.warn_duplicates(&paths);
        for path in paths {
            if let Err(error) = self.reload(&path).await {
                tracing::warn!(
                    file = %path.display(), error = format!("{error:#}"),
                    "this build is broken; the plugin stays as it was"
                );
            }
        }
    }

    /// Reports files that map to the same plugin: each would replace the other.
    fn warn_duplicates(&mut self, paths: &[PathBuf]) {
        let mut by_name: HashMap<PluginName, &Path> = HashMap::new();
        for path in paths.iter().filter(|path| path.is_file()) {
            let Ok(name) = name(path) else { continue };
            let Some(other) = by_name.insert(name.clone(), path) else { continue };
            if other != path.as_path() && self.reported.insert(name.clone()) {
                let (one, other) = (other.display(), path.display());
                tracing::warn!(plugin = %name, %one, %other, "two files are one plugin: whichever changes last is installed");
            }
        }
    }

    async fn reload(&mut self, path: &Path) -> anyhow::Result<()> {
        // A build deletes its file before it writes the new one.
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
            // The same build. If the plugin has been rolled back since, the earlier version stays in force.
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

/// The plugin's name, derived from the file's: `order_desk.wasm` becomes `order-desk`.
fn name(component: &Path) -> anyhow::Result<PluginName> {
    let stem = component.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name = stem.to_ascii_lowercase().replace(['_', '.'], "-");
    name.parse().with_context(|| format!("{stem:?} cannot be a plugin's name"))
}
