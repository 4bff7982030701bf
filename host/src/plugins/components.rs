//! The files of installed components, each stored once under its digest, however many plugins refer to it.
//!
//! A file is written before the row that refers to it, and deleted after the last such row. Other processes on the
//! same folder do the same concurrently, so a lock file beside the folder excludes deletion during installation: shared
//! for writers, exclusive for deletion. The lock ends with its process, however that ends. A killed process may leave
//! an unreferenced file, which the sweep of the next start deletes.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::disk::{run_blocking, write_atomic};
use crate::ids::PluginDigest;
use crate::store::Store;

/// How long an installation waits for a deletion, which takes moments unless its process hangs.
const WRITE_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long a deletion waits. Files that remain are deleted by the sweep of the next start.
const DELETE_WAIT_MAX: Duration = Duration::from_secs(1);

/// How often the lock is tried.
const RETRY_EVERY: Duration = Duration::from_millis(20);

/// The folder of components.
#[derive(Debug, Clone)]
pub(super) struct Components {
    folder: PathBuf,
    lock: PathBuf,
    store: Store,
}

/// No component is deleted while this is held.
#[derive(Debug)]
#[must_use]
pub(super) struct ComponentsLock(
    #[expect(dead_code, reason = "dropping the file releases the lock")] File,
);

impl Components {
    /// The components of this data folder and its store.
    pub(super) fn new(data: &Path, store: Store) -> Self {
        Self { folder: data.join("plugins"), lock: data.join("plugins.lock"), store }
    }

    /// The bytes of a component.
    pub(super) async fn read_component(&self, digest: PluginDigest) -> io::Result<Vec<u8>> {
        tokio::fs::read(self.path(digest)).await
    }

    /// Writes the file of a component, synced to disk. It is safe from deletion while the returned lock is held, and
    /// after that if a row of the store refers to it.
    pub(super) async fn put(
        &self,
        digest: PluginDigest,
        component: Arc<[u8]>,
    ) -> io::Result<ComponentsLock> {
        let lock = self.locked(File::try_lock_shared, WRITE_WAIT_MAX).await?;
        let (path, folder) = (self.path(digest), self.folder.clone());
        run_blocking(move || {
            write_atomic(&path, &component)?;
            // The directory entry has to survive a power failure as well, since the row will.
            File::open(&folder)?.sync_all()
        })
        .await?;
        Ok(ComponentsLock(lock))
    }

    /// Deletes those of these components that no version of any plugin refers to. Returns the deleted ones.
    pub(super) async fn delete_unreferenced(&self, digests: &[PluginDigest]) -> Vec<PluginDigest> {
        let mut deleted = Vec::new();
        if digests.is_empty() {
            return deleted;
        }
        let outcome: Result<(), anyhow::Error> = async {
            let _lock = self.locked(File::try_lock, DELETE_WAIT_MAX).await?;
            for digest in digests {
                if !self.store.is_component_needed(*digest).await? {
                    let path = self.path(*digest);
                    run_blocking(move || delete_if_exists(&path)).await?;
                    deleted.push(*digest);
                }
            }
            Ok(())
        }
        .await;
        if let Err(error) = outcome {
            tracing::warn!(%error, "an unused component stays until the next start");
        }
        deleted
    }

    /// Deletes files that no version refers to, and files that killed processes left half written.
    pub(super) async fn sweep(&self) {
        let swept: Result<usize, anyhow::Error> = async {
            if !self.folder.exists() {
                return Ok(0);
            }
            let _lock = self.locked(File::try_lock, WRITE_WAIT_MAX).await?;
            // Read under the lock: every finished installation has written its row by then.
            let needed = self.store.needed_components().await?;
            let needed = needed.into_iter().collect();
            let folder = self.folder.clone();
            Ok(run_blocking(move || delete_all_except(&folder, &needed)).await?)
        }
        .await;
        match swept {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "unused components were deleted"),
            Err(error) => tracing::warn!(%error, "the folder of components cannot be tidied up"),
        }
    }

    fn path(&self, digest: PluginDigest) -> PathBuf {
        self.folder.join(format!("{}.wasm", digest.hex()))
    }

    /// Acquires the lock, polling until it is free or the wait is over.
    async fn locked(
        &self,
        lock: fn(&File) -> Result<(), TryLockError>,
        wait: Duration,
    ) -> io::Result<File> {
        let file = File::options().write(true).create(true).truncate(false).open(&self.lock)?;
        let deadline = tokio::time::Instant::now() + wait;
        loop {
            match lock(&file) {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if tokio::time::Instant::now() > deadline => {
                    let why = "another process holds the folder of components";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, why));
                }
                Err(TryLockError::WouldBlock) => tokio::time::sleep(RETRY_EVERY).await,
            }
        }
    }
}

/// Deletes all components but these, and half-written files. Returns how many were deleted.
fn delete_all_except(folder: &Path, needed: &HashSet<PluginDigest>) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some((stem, ending)) = name.to_str().and_then(|name| name.split_once('.')) else {
            continue;
        };
        let Ok(digest) = format!("sha256:{stem}").parse::<PluginDigest>() else { continue };
        let half_written = ending.starts_with("new-");
        if half_written || (ending == "wasm" && !needed.contains(&digest)) {
            delete_if_exists(&entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn delete_if_exists(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
