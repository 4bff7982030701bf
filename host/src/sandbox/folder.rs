//! A folder that a plugin may write to, and its quota.
//!
//! Other programs use the folder too, and all share the disk. A plugin therefore cannot create links, symbolic or
//! hard, since another program would follow them with its own permissions. It cannot create holes, so that a file
//! is as large as its length says. Everything in the folder together stays within the bytes of the grant.
//!
//! The bytes are counted by walking the folder, and what plugins add is added to that sum. Deletions, and changes
//! by other programs, only show at the next walk, so the folder is walked again before a write is refused (up to
//! [`WALKS_MAX`] times in a call).

pub(super) mod listing;
pub(super) mod operations;
pub(super) mod reader;
pub(super) mod stream;
pub(super) mod walk;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use self::operations::trap_in;
pub(super) use self::operations::{FileOperations, FileThreads};
pub(super) use self::walk::ENTRY_BYTES;
use self::walk::{DEPTH_MAX, MayMove, Walk};
use super::grants::{FolderAccess, FolderRule};
use super::quota::MemoryReservation;
use crate::shares::slots::{Reserve, Slot, Slots};

/// Host memory that one stream or directory listing holds at most, in bytes.
const STREAM_BYTES: usize = 64 << 10;

/// How long a sum is trusted, since other programs may use the folder.
const SUM_TTL: Duration = Duration::from_secs(10);

/// Walks of one call. A full folder is walked at every attempt to write more.
const WALKS_MAX: u32 = 16;

/// The folders that plugins of this process may write to.
#[derive(Debug, Default)]
pub(super) struct Folders(Mutex<HashMap<PathBuf, Weak<WritableFolder>>>);

impl Folders {
    /// The folder of a rule, shared by all plugins that are granted it. `None` if the rule allows no writing.
    pub(super) fn for_rule(&self, rule: Option<&FolderRule>) -> Option<Arc<WritableFolder>> {
        let rule = rule.filter(|rule| rule.access == FolderAccess::ReadWrite)?;
        let path = fs::canonicalize(&rule.path).unwrap_or_else(|_| rule.path.clone());
        let mut folders = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = folders.get(&path).and_then(Weak::upgrade) {
            return Some(known);
        }
        folders.retain(|_, folder| folder.strong_count() > 0);
        let fresh = Arc::new(WritableFolder {
            path: path.clone(),
            turns: Slots::new(1, Reserve::Nothing),
            usage: Default::default(),
        });
        folders.insert(path, Arc::downgrade(&fresh));
        Some(fresh)
    }
}

/// A folder, and what is known of its contents.
#[derive(Debug)]
pub(super) struct WritableFolder {
    path: PathBuf,
    /// Serializes changes to the folder.
    turns: Arc<Slots>,
    usage: tokio::sync::Mutex<Usage>,
}

#[derive(Debug, Default)]
struct Usage {
    /// The sum of the last walk, and what plugins have added since, in bytes.
    bytes: u64,
    /// `None` if the folder has not been walked to its end.
    counted_at: Option<Instant>,
    /// Files that plugins have open for writing. An unlinked file occupies space until it is closed.
    open: Vec<Weak<File>>,
}

/// What one call may still add to a folder.
#[derive(Debug, Clone)]
pub(super) struct FolderQuota {
    folder: Arc<WritableFolder>,
    bytes_max: u64,
    call: Arc<CallQuota>,
    operations: FileOperations,
}

#[derive(Debug)]
struct CallQuota {
    walks_left: AtomicU32,
    was_exceeded: AtomicBool,
    was_too_deep: AtomicBool,
}

/// Exclusive access to the folder: no other plugin changes it meanwhile.
pub(super) struct LockedFolder<'a> {
    quota: &'a FolderQuota,
    _turn: Slot,
    usage: tokio::sync::MutexGuard<'a, Usage>,
}

/// What the host holds for a stream or directory listing: memory, and a slot for its file, which stays open after
/// its descriptor is dropped.
pub(super) struct StreamResources {
    _memory: MemoryReservation,
    _file: Slot,
}

impl StreamResources {
    /// `None` if the tenant's calls have no memory left for it.
    pub(super) fn new(file: Slot, mut memory: MemoryReservation) -> Option<Self> {
        memory.take(STREAM_BYTES).ok()?;
        Some(Self { _memory: memory, _file: file })
    }
}

impl FolderQuota {
    /// The quota of one call in a folder whose contents together may reach `bytes_max`.
    pub(super) fn new(
        folder: Arc<WritableFolder>,
        bytes_max: u64,
        operations: FileOperations,
    ) -> Self {
        let call = Arc::new(CallQuota {
            walks_left: AtomicU32::new(WALKS_MAX),
            was_exceeded: AtomicBool::new(false),
            was_too_deep: AtomicBool::new(false),
        });
        Self { folder, bytes_max, call, operations }
    }

    pub(super) async fn lock(&self) -> io::Result<LockedFolder<'_>> {
        // Tenants that share the folder take turns, however many calls of one tenant wait.
        let turn = self.folder.turns.acquire(self.operations.tenant()).await;
        let _turn = turn.ok_or_else(|| io::Error::other("it is shutting down"))?;
        Ok(LockedFolder { quota: self, _turn, usage: self.folder.usage.lock().await })
    }

    /// The size of an open file, in bytes.
    pub(super) async fn size(&self, file: &Arc<File>) -> io::Result<u64> {
        let file = Arc::clone(file);
        let about = self.operations.run_blocking(move || file.metadata()).await.flatten();
        Ok(about?.len())
    }

    /// Notes on this call for the operator of the plugin.
    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        let was = |what: &AtomicBool| what.load(Ordering::Relaxed);
        let exceeded = was(&self.call.was_exceeded).then(|| {
            format!(
                "Folder: its files would take more than the {} bytes that are granted ([folder] bytes; \
                 each file and folder counts for {ENTRY_BYTES} besides), or could not be counted",
                self.bytes_max
            )
        });
        let too_deep = was(&self.call.was_too_deep)
            .then(|| format!("Folder: a plugin makes no folders more than {DEPTH_MAX} deep"));
        exceeded.into_iter().chain(too_deep)
    }
}

impl LockedFolder<'_> {
    /// Reserves this many more bytes, after a walk if the sum is old or the folder seems full.
    pub(super) async fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        let bytes_max = self.quota.bytes_max;
        let is_recent = self.usage.counted_at.is_some_and(|at| at.elapsed() < SUM_TTL);
        if !(is_recent && self.usage.bytes.saturating_add(bytes) <= bytes_max) {
            self.count().await?;
        }
        let sum = self.usage.bytes.saturating_add(bytes);
        if sum > bytes_max {
            return Err(self.full());
        }
        self.usage.bytes = sum;
        Ok(())
    }

    /// Walks the folder until its end, or until it is known to be full.
    async fn count(&mut self) -> io::Result<()> {
        self.begin_walk()?;
        self.usage.open.retain(|file| file.strong_count() > 0);
        let open: Vec<_> = self.usage.open.iter().filter_map(Weak::upgrade).collect();
        let (path, bytes_max) = (self.quota.folder.path.clone(), self.quota.bytes_max);
        let walk =
            self.quota.operations.run_blocking(move || Walk::through(&path, &open)).await.flatten();
        let walked = match walk {
            Ok(walk) => self.walk(walk, |walk| walk.bytes > bytes_max).await,
            Err(error) => Err(error),
        };
        self.usage.counted_at = None;
        match walked {
            Ok(walk) => {
                self.usage.bytes = walk.bytes;
                self.usage.counted_at = (walk.bytes <= bytes_max).then(Instant::now);
                Ok(())
            }
            Err(error) if trap_in(&error).is_some() => Err(error),
            Err(error) => {
                let path = self.quota.folder.path.display();
                tracing::warn!(%path, %error, "a folder that a plugin may write to cannot be counted");
                Err(self.full())
            }
        }
    }

    /// Uses up one of the call's walks.
    fn begin_walk(&self) -> io::Result<()> {
        let walks = &self.quota.call.walks_left;
        // The calls of one guest are sequential, and its streams take turns, so no decrement is lost in between.
        let left = walks.load(Ordering::Relaxed).checked_sub(1).ok_or_else(|| self.full())?;
        walks.store(left, Ordering::Relaxed);
        Ok(())
    }

    /// Walks until the end, or until `stop_when` holds.
    async fn walk(&self, mut walk: Walk, stop_when: impl Fn(&Walk) -> bool) -> io::Result<Walk> {
        loop {
            let operation = move || walk.step().map(|ended| (ended, walk));
            let (ended, back) = self.quota.operations.run_blocking(operation).await.flatten()?;
            if ended || stop_when(&back) {
                return Ok(back);
            }
            walk = back;
        }
    }

    /// Checks that a folder may be created in this one.
    pub(super) async fn check_depth(&self, parent: Arc<File>) -> io::Result<()> {
        let path = self.quota.folder.path.clone();
        let operation = move || walk::may_create_folder_in(&path, parent);
        match self.quota.operations.run_blocking(operation).await.flatten()? {
            true => Ok(()),
            false => Err(self.too_deep()),
        }
    }

    /// Checks that moving a folder puts nothing in it deeper than plugins may create folders.
    pub(super) async fn check_move(
        &self,
        moved: Arc<File>,
        from: Arc<File>,
        to: Arc<File>,
    ) -> io::Result<()> {
        let path = self.quota.folder.path.clone();
        let operation = move || walk::may_move(&path, from, to);
        let max_depth = match self.quota.operations.run_blocking(operation).await.flatten()? {
            MayMove::AnyDepth => return Ok(()),
            MayMove::No => return Err(self.too_deep()),
            MayMove::MaxDepth(max_depth) => max_depth,
        };
        self.begin_walk()?;
        let walk =
            self.quota.operations.run_blocking(move || Walk::below(moved)).await.flatten()?;
        let walk = self.walk(walk, |walk| walk.deepest > max_depth).await?;
        if walk.deepest > max_depth { Err(self.too_deep()) } else { Ok(()) }
    }

    fn too_deep(&self) -> io::Error {
        self.quota.call.was_too_deep.store(true, Ordering::Relaxed);
        Errno::PERM.into()
    }

    fn full(&self) -> io::Error {
        self.quota.call.was_exceeded.store(true, Ordering::Relaxed);
        Errno::NOSPC.into()
    }

    /// Reserves the bytes by which a write at `offset`, or at the end, makes the file grow.
    pub(super) async fn reserve_in(
        &mut self,
        file: &Arc<File>,
        offset: Option<u64>,
        bytes: u64,
    ) -> io::Result<()> {
        let size = self.quota.size(file).await?;
        let offset = offset.unwrap_or(size);
        if offset > size && bytes > 0 {
            // The bytes in between would be a hole.
            return Err(Errno::PERM.into());
        }
        match offset.saturating_add(bytes).saturating_sub(size) {
            0 => Ok(()),
            growth => self.reserve(growth).await,
        }
    }

    pub(super) fn track_open_file(&mut self, file: &Arc<File>) {
        let open = &mut self.usage.open;
        if open.len() == open.capacity() {
            open.retain(|file| file.strong_count() > 0);
        }
        open.push(Arc::downgrade(file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TenantId;

    #[tokio::test]
    async fn tenants_that_share_a_folder_change_it_in_turns() {
        let path = tempfile::tempdir().unwrap();
        let rule = FolderRule {
            path: path.path().to_owned(),
            access: FolderAccess::ReadWrite,
            bytes: 1 << 20,
        };
        let folder = Folders::default().for_rule(Some(&rule)).unwrap();
        let files = FileThreads::new(tokio::runtime::Handle::current(), 1);
        let quota = |tenant: u8| FolderQuota {
            folder: Arc::clone(&folder),
            bytes_max: 1 << 20,
            call: Arc::new(CallQuota {
                walks_left: AtomicU32::new(WALKS_MAX),
                was_exceeded: AtomicBool::new(false),
                was_too_deep: AtomicBool::new(false),
            }),
            operations: files.of_call(TenantId::from_bytes([tenant; 16]), Duration::MAX),
        };
        let first = quota(1);
        let held = first.lock().await.unwrap();
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiting: Vec<_> = std::iter::repeat_n(1, 20)
            .chain([2])
            .map(|tenant| {
                let (quota, order) = (quota(tenant), Arc::clone(&order));
                tokio::spawn(async move {
                    let _locked = quota.lock().await.unwrap();
                    order.lock().unwrap().push(tenant);
                })
            })
            .collect();
        // All tasks queue up, on this one thread.
        tokio::task::yield_now().await;
        drop(held);
        for one in waiting {
            one.await.unwrap();
        }
        let order = order.lock().unwrap();
        let position = order.iter().position(|tenant| *tenant == 2).unwrap();
        assert!(position <= 1, "{order:?}");
    }
}
