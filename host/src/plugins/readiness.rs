//! What is loaded before the first call needs it, and what is forgotten when nobody needs it any more.

use std::time::Instant;

use futures::StreamExt as _;

use super::{BUNDLED_DIGESTS, Plugins};
use crate::ids::{PluginDigest, TenantId};

/// Components that are taken from the code cache at once at the start.
const PRELOADED_AT_ONCE: usize = 4;

impl Plugins {
    /// Loads what calls are going to need: the bundled plugins, and of those that tenants have installed
    /// the ones installed last, as many as the settings say and as far as compiled code of them is kept.
    /// All others are loaded when they are first called.
    pub async fn preload(self) {
        let begun = Instant::now();
        self.load_bundled().await;
        let room = self.sandbox.loaded_max().saturating_sub(BUNDLED_DIGESTS.len() as u64);
        let most = u32::try_from(room).unwrap_or(u32::MAX).min(self.preload_max);
        let installed = match self.store.current_components(most).await {
            Ok(digests) => digests,
            Err(error) => {
                tracing::warn!(%error, "plugins are loaded when they are first called");
                return;
            }
        };
        let all = installed.len();
        let loading = futures::stream::iter(installed).map(|digest| self.sandbox.kept(digest));
        let ready = loading
            .buffer_unordered(PRELOADED_AT_ONCE)
            .filter(|loaded| std::future::ready(loaded.is_some()))
            .count()
            .await;
        let milliseconds = begun.elapsed().as_millis();
        tracing::info!(installed = all, ready, milliseconds, "plugins are loaded");
    }

    async fn load_bundled(&self) {
        for (name, (digest, component)) in BUNDLED_DIGESTS.iter() {
            if self.sandbox.kept(*digest).await.is_some() {
                continue;
            }
            if let Err(error) = self.sandbox.load(TenantId::GATEWAY, (*component).into()).await {
                tracing::error!(plugin = name, %error, "a bundled plugin cannot be loaded");
            }
        }
    }

    /// How many components are loaded, of all tenants and the bundled ones.
    pub async fn loaded_count(&self) -> u64 {
        self.sandbox.loaded_count().await
    }

    /// Takes away those of these components that no tenant has installed any more, and what was compiled
    /// of them.
    /// Forgets what is kept of a component, unless it is a version of a plugin by now.
    pub(super) async fn forget_unneeded(&self, digest: PluginDigest) {
        // Where the store cannot be asked, the next start tidies up.
        if self.store.is_component_needed(digest).await.is_ok_and(|is_needed| !is_needed) {
            self.take_away(&[digest]).await;
        }
    }

    pub(super) async fn take_away(&self, digests: &[PluginDigest]) {
        for digest in self.components.take_away(digests).await {
            let is_bundled = BUNDLED_DIGESTS.values().any(|(bundled, _)| *bundled == digest);
            if !is_bundled {
                self.sandbox.forget(digest).await;
            }
        }
    }

    /// Takes away the files that earlier processes left and nobody needs.
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
