//! A folder that a plugin may write to.
//!
//! Other programs of the machine use the folder too, and the disk is everybody's. So a plugin makes no links
//! there, symbolic or hard, since whoever follows one follows it with his own rights; it makes no holes, so
//! that a file is as large as it says; and all that is in the folder together stays within the bytes of the
//! grant. Those are counted by walking the folder, and the sum is carried along with what plugins add to it:
//! whatever they take away, or others do in the folder, shows at the next walk, which comes before anything
//! is refused.

mod descriptor;
mod stream;

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::grants::{FolderAccess, FolderRule};
use super::host_calls::CallState;

/// What a file or folder counts for besides its bytes: about what it takes of a disk, so that empty ones are
/// bounded too.
const ENTRY_BYTES: u64 = 4 << 10;

/// How long a sum is believed while others may use the folder.
const BELIEVED_FOR: Duration = Duration::from_secs(10);

/// Walks of one call. A full folder is walked whenever something more is to be written.
const WALKS_MAX: u32 = 16;

/// How deep folders may lie within each other to be counted.
const DEPTH_MAX: usize = 64;

/// The folders that plugins of this process may write to.
#[derive(Debug, Default)]
pub(super) struct Folders(Mutex<HashMap<PathBuf, Weak<WritableFolder>>>);

impl Folders {
    /// The folder of a rule, one for all plugins that are granted it. None: it is for reading only.
    pub(super) fn of(&self, rule: Option<&FolderRule>) -> Option<Arc<WritableFolder>> {
        let rule = rule.filter(|rule| rule.access == FolderAccess::ReadWrite)?;
        let path = fs::canonicalize(&rule.path).unwrap_or_else(|_| rule.path.clone());
        let mut folders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = folders.get(&path).and_then(Weak::upgrade) {
            return Some(known);
        }
        folders.retain(|_, folder| folder.strong_count() > 0);
        let fresh = Arc::new(WritableFolder { path: path.clone(), inside: Default::default() });
        folders.insert(path, Arc::downgrade(&fresh));
        Some(fresh)
    }
}

/// A folder, and what is known of what is in it.
#[derive(Debug)]
pub(super) struct WritableFolder {
    path: PathBuf,
    inside: tokio::sync::Mutex<Inside>,
}

#[derive(Debug, Default)]
struct Inside {
    /// What it came to when it was counted, and what plugins have added since, in bytes.
    bytes: u64,
    /// None: not yet, or not to the end.
    counted_at: Option<Instant>,
    /// Files that plugins have open for writing: one whose name is gone takes its room until it is closed.
    open: Vec<Weak<File>>,
}

/// What one call may still add to a folder.
#[derive(Debug, Clone)]
pub(super) struct FolderQuota {
    folder: Arc<WritableFolder>,
    bytes_max: u64,
    of_call: Arc<QuotaOfCall>,
}

#[derive(Debug)]
struct QuotaOfCall {
    walks_left: AtomicU32,
    was_exceeded: AtomicBool,
}

/// The folder, while no other plugin changes it.
struct LockedFolder<'a> {
    quota: &'a FolderQuota,
    inside: tokio::sync::MutexGuard<'a, Inside>,
}

impl CallState {
    /// What the plugin may add to its folder. None: it may change nothing there.
    fn folder_quota(&mut self) -> Option<FolderQuota> {
        if self.folder_quota.is_none() {
            let folder = Arc::clone(self.binding.folder.as_ref()?);
            let bytes_max = self.binding.granted.folder()?.bytes;
            let (walks_left, was_exceeded) = (AtomicU32::new(WALKS_MAX), AtomicBool::new(false));
            let of_call = Arc::new(QuotaOfCall { walks_left, was_exceeded });
            self.folder_quota = Some(FolderQuota { folder, bytes_max, of_call });
        }
        self.folder_quota.clone()
    }
}

impl FolderQuota {
    async fn lock(&self) -> LockedFolder<'_> {
        LockedFolder { quota: self, inside: self.folder.inside.lock().await }
    }

    /// What whoever looks after the plugin ought to know of this call.
    pub(super) fn note(&self) -> Option<String> {
        self.of_call.was_exceeded.load(Ordering::Relaxed).then(|| {
            format!(
                "Folder: its files would take more than the {} bytes that are granted ([folder] bytes; \
                 each file and folder counts for {ENTRY_BYTES} besides), or could not be counted",
                self.bytes_max
            )
        })
    }
}

impl LockedFolder<'_> {
    /// Makes sure that so many bytes more still fit.
    async fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        let most = self.quota.bytes_max;
        let is_recent = self.inside.counted_at.is_some_and(|at| at.elapsed() < BELIEVED_FOR);
        if !(is_recent && self.inside.bytes.saturating_add(bytes) <= most) {
            self.count().await?;
        }
        let sum = self.inside.bytes.saturating_add(bytes);
        if sum > most {
            return Err(self.full());
        }
        self.inside.bytes = sum;
        Ok(())
    }

    /// Walks the folder, no further than to find it full.
    async fn count(&mut self) -> io::Result<()> {
        let walks = &self.quota.of_call.walks_left;
        // Calls of one guest come one after the other, and its streams take turns: nothing is lost between.
        let left = walks.load(Ordering::Relaxed).checked_sub(1).ok_or_else(|| self.full())?;
        walks.store(left, Ordering::Relaxed);
        self.inside.open.retain(|file| file.strong_count() > 0);
        let open: Vec<_> = self.inside.open.iter().filter_map(Weak::upgrade).collect();
        let (path, most) = (self.quota.folder.path.clone(), self.quota.bytes_max);
        let counted = tokio::task::spawn_blocking(move || bytes_in(&path, &open, most)).await;
        match counted.map_err(io::Error::other).flatten() {
            Ok((bytes, is_whole)) => {
                self.inside.bytes = bytes;
                self.inside.counted_at = is_whole.then(Instant::now);
                Ok(())
            }
            Err(error) => {
                let path = self.quota.folder.path.display();
                tracing::warn!(%path, %error, "a folder that a plugin may write to cannot be counted");
                self.inside.counted_at = None;
                Err(self.full())
            }
        }
    }

    fn full(&self) -> io::Error {
        self.quota.of_call.was_exceeded.store(true, Ordering::Relaxed);
        Errno::NOSPC.into()
    }

    /// Makes sure that bytes fit into a file at a place, or at its end.
    async fn reserve_in(
        &mut self,
        file: &Arc<File>,
        place: Option<u64>,
        bytes: u64,
    ) -> io::Result<()> {
        let size = size(file).await?;
        let place = place.unwrap_or(size);
        if place > size && bytes > 0 {
            // What lies between would be a hole.
            return Err(Errno::PERM.into());
        }
        match place.saturating_add(bytes).saturating_sub(size) {
            0 => Ok(()),
            growth => self.reserve(growth).await,
        }
    }

    fn remember(&mut self, file: &Arc<File>) {
        let open = &mut self.inside.open;
        if open.len() == open.capacity() {
            open.retain(|file| file.strong_count() > 0);
        }
        open.push(Arc::downgrade(file));
    }
}

/// The size of an open file, in bytes.
async fn size(file: &Arc<File>) -> io::Result<u64> {
    let file = Arc::clone(file);
    let about = tokio::task::spawn_blocking(move || file.metadata()).await;
    Ok(about.map_err(io::Error::other)??.len())
}

/// What is in a folder, and in these files where their names are gone, in bytes; and whether that is all, or
/// the walk has ended beyond `most`. Links are counted and not followed.
fn bytes_in(folder: &Path, open: &[Arc<File>], most: u64) -> io::Result<(u64, bool)> {
    let mut bytes = 0_u64;
    for file in open {
        let about = file.metadata()?;
        if about.nlink() == 0 {
            bytes = bytes.saturating_add(counted(&about));
        }
    }
    let mut way = vec![fs::read_dir(folder)?];
    while let Some(entries) = way.last_mut() {
        let Some(entry) = entries.next() else {
            way.pop();
            continue;
        };
        let entry = entry?;
        let Some(about) = unless_gone(entry.metadata())? else { continue };
        bytes = bytes.saturating_add(counted(&about));
        if bytes > most {
            return Ok((bytes, false));
        }
        if about.is_dir() {
            if way.len() >= DEPTH_MAX {
                return Err(io::Error::other("folders lie too deep within each other"));
            }
            match fs::read_dir(entry.path()) {
                // What the gateway may not look into, no plugin can write into.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {}
                below => way.extend(unless_gone(below)?),
            }
        }
    }
    Ok((bytes, true))
}

/// Others use the folder while it is walked.
fn unless_gone<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

fn counted(about: &Metadata) -> u64 {
    ENTRY_BYTES.saturating_add(if about.is_file() { about.len() } else { 0 })
}
