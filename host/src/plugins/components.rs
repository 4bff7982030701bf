//! The components that tenants have installed, each once in a file named after its digest, however many
//! plugins it is a version of.
//!
//! A file is there before the row that needs it, and goes after the last such row. Between the two, other
//! processes on the same folder may be doing the same; a lock beside the folder keeps who takes away apart
//! from who puts in. It goes with its process, however that ends; what a killed one leaves behind is a file
//! that nobody needs, which the next start of a gateway takes away.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::disk::{on_disk, write_whole};
use crate::ids::PluginDigest;
use crate::store::Store;

/// How long somebody who installs waits for somebody who takes away: a moment, unless that one hangs.
const PUT_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long somebody who takes away waits. What stays for lack of time is taken away at the next start.
const TAKE_WAIT_MAX: Duration = Duration::from_secs(1);

/// How often a lock is tried for.
const TRY_EVERY: Duration = Duration::from_millis(20);

/// The folder of components.
#[derive(Debug, Clone)]
pub(super) struct Components {
    folder: PathBuf,
    lock: PathBuf,
    store: Store,
}

/// Nothing is taken away while this is held.
#[derive(Debug)]
#[must_use]
pub(super) struct Kept(#[expect(dead_code, reason = "the lock goes when it is dropped")] File);

impl Components {
    /// Those of this data folder and its store.
    pub(super) fn new(data: &Path, store: Store) -> Self {
        Self { folder: data.join("plugins"), lock: data.join("plugins.lock"), store }
    }

    /// The bytes of a component.
    pub(super) async fn read(&self, digest: PluginDigest) -> io::Result<Vec<u8>> {
        tokio::fs::read(self.path(digest)).await
    }

    /// Puts a component where it is found. It is safe once a row of the store names it; until then, as
    /// long as what this gives is held.
    pub(super) async fn put(&self, digest: PluginDigest, component: Arc<[u8]>) -> io::Result<Kept> {
        let lock = self.locked(File::try_lock_shared, PUT_WAIT_MAX).await?;
        let (path, folder) = (self.path(digest), self.folder.clone());
        on_disk(move || {
            write_whole(&path, &component)?;
            // The file's name has to survive a power cut as well, since the row that names it will.
            File::open(&folder)?.sync_all()
        })
        .await?;
        Ok(Kept(lock))
    }

    /// Takes away those of these components that are no version of any plugin any more. Which went.
    pub(super) async fn take_away(&self, digests: &[PluginDigest]) -> Vec<PluginDigest> {
        let mut gone = Vec::new();
        if digests.is_empty() {
            return gone;
        }
        let taken: Result<(), anyhow::Error> = async {
            let _lock = self.locked(File::try_lock, TAKE_WAIT_MAX).await?;
            for digest in digests {
                if !self.store.is_component_needed(*digest).await? {
                    let path = self.path(*digest);
                    on_disk(move || remove_if_there(&path)).await?;
                    gone.push(*digest);
                }
            }
            Ok(())
        }
        .await;
        if let Err(error) = taken {
            tracing::warn!(%error, "an unused component stays until the next start");
        }
        gone
    }

    /// Takes away all that no plugin needs, and what was half written by processes that are gone.
    pub(super) async fn sweep(&self) {
        let swept: Result<usize, anyhow::Error> = async {
            if !self.folder.exists() {
                return Ok(0);
            }
            let _lock = self.locked(File::try_lock, PUT_WAIT_MAX).await?;
            // Asked for once the lock is held: whoever had put something in has written its row.
            let needed = self.store.needed_components().await?;
            let needed = needed.into_iter().collect();
            let folder = self.folder.clone();
            Ok(on_disk(move || remove_all_but(&folder, &needed)).await?)
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
                Err(TryLockError::WouldBlock) => tokio::time::sleep(TRY_EVERY).await,
            }
        }
    }
}

/// Removes the components that are not among these, and what was half written. How many.
fn remove_all_but(folder: &Path, needed: &HashSet<PluginDigest>) -> io::Result<usize> {
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
            remove_if_there(&entry.path())?;
            removed += 1;
        }
    }
    Ok(removed)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
