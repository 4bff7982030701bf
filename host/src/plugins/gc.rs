//! Deletes components and compiled code that no version of any plugin refers to.

use tokio::runtime::Handle;

use super::Plugins;
use super::catalog::BUNDLED_DIGESTS;
use crate::ids::PluginDigest;

/// Deletes the compiled code of a component when dropped, unless the component was installed. An installation that is
/// refused or canceled would leave code behind that nothing refers to.
#[derive(Debug)]
pub(super) struct RemoveUnlessInstalled {
    pub(super) plugins: Plugins,
    /// None once the component is installed.
    pub(super) digest: Option<PluginDigest>,
}

impl Drop for RemoveUnlessInstalled {
    fn drop(&mut self) {
        if let (Some(digest), Ok(threads)) = (self.digest, Handle::try_current()) {
            let plugins = self.plugins.clone();
            threads.spawn(async move { plugins.remove_if_unreferenced(digest).await });
        }
    }
}

impl Plugins {
    /// Deletes a component and its compiled code, unless it is a version of a plugin by now.
    pub(super) async fn remove_if_unreferenced(&self, digest: PluginDigest) {
        // If the store fails, the sweep of the next start deletes it.
        if self.store.is_component_needed(digest).await.is_ok_and(|is_needed| !is_needed) {
            self.remove_unreferenced(&[digest]).await;
        }
    }

    /// Deletes those of these components that no version of any plugin refers to, with their compiled code.
    pub(super) async fn remove_unreferenced(&self, digests: &[PluginDigest]) {
        for digest in self.components.delete_unreferenced(digests).await {
            let is_bundled = BUNDLED_DIGESTS.values().any(|(bundled, _)| *bundled == digest);
            if !is_bundled {
                self.sandbox.delete_compiled(digest).await;
            }
        }
    }

    /// Deletes files that earlier processes left and nothing refers to.
    pub async fn sweep(self) {
        self.components.sweep().await;
        let swept = async {
            let mut needed = self.store.needed_components().await?;
            needed.extend(BUNDLED_DIGESTS.values().map(|(digest, _)| *digest));
            let sandbox = self.sandbox.clone();
            anyhow::Ok(tokio::task::spawn_blocking(move || sandbox.sweep(&needed)).await??)
        };
        match swept.await {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "unused compiled code was deleted"),
            Err(error) => tracing::warn!(%error, "the code cache cannot be tidied up"),
        }
    }
}
