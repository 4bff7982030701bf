//! Notifies subscribers of changes: tasks that have ended, and changes to a tenant's directory. Waiting requests and
//! caches subscribe here.
//!
//! The writer publishes what it has committed before it replies. Commits of other processes (commands that work on
//! the data folder) are found by polling (`other_processes`).

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::ids::{TaskId, TenantId};

/// The number of version counters. Tenants share them by the last bytes of their ids: two tenants with the same
/// counter see each other's changes as their own, which costs an additional read from the store.
const VERSIONS: usize = 1024;

/// A change that a write has committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// A task has ended.
    TaskEnded(TaskId),
    /// The directory of a tenant has changed; without a tenant, that of the operators.
    Directory(Option<TenantId>),
}

/// Publishes changes to subscribers. Clones are handles to the same publisher.
#[derive(Clone)]
pub struct Changes(Arc<Inner>);

struct Inner {
    tenants: Box<[AtomicU64]>,
    /// Incremented by every change to any directory.
    all: AtomicU64,
    /// Incremented by changes that belong to no tenant.
    operators: AtomicU64,
    waits: Mutex<HashMap<TaskId, watch::Sender<bool>>>,
    /// The last version of `directory_changes` that has been polled.
    polled: AtomicU64,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Changes")
    }
}

/// The version of a tenant's directory when something was read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    tenant: u64,
    operators: u64,
}

/// Marks a point in time before the read of something to be cached.
#[derive(Debug, Clone, Copy)]
pub struct BeforeReading(u64);

impl Changes {
    pub(super) fn new() -> Self {
        let tenants = (0..VERSIONS).map(|_| AtomicU64::new(0)).collect();
        let (all, operators) = (AtomicU64::new(0), AtomicU64::new(0));
        let (waits, polled) = (Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(Inner { tenants, all, operators, waits, polled }))
    }

    /// Marks the start of a read whose result is to be cached.
    #[must_use]
    pub fn before_reading(&self) -> BeforeReading {
        BeforeReading(self.0.all.load(Ordering::SeqCst))
    }

    /// The stamp to store with data of this tenant in a cache. None if a directory has changed since the read
    /// started: the result may be outdated and must not be cached.
    #[must_use]
    pub fn stamp(&self, tenant: Option<TenantId>, before: BeforeReading) -> Option<Stamp> {
        let stamp = self.now(tenant);
        (self.0.all.load(Ordering::SeqCst) == before.0).then_some(stamp)
    }

    /// Whether cached data of this tenant with this stamp is still current.
    #[must_use]
    pub fn is_current(&self, tenant: Option<TenantId>, stamp: Stamp) -> bool {
        self.now(tenant) == stamp
    }

    fn now(&self, tenant: Option<TenantId>) -> Stamp {
        let version = tenant.and_then(|tenant| self.version(tenant));
        Stamp {
            tenant: version.map_or(0, |version| version.load(Ordering::SeqCst)),
            operators: self.0.operators.load(Ordering::SeqCst),
        }
    }

    fn version(&self, tenant: TenantId) -> Option<&AtomicU64> {
        let [.., a, b] = *tenant.as_bytes();
        self.0.tenants.get(usize::from(u16::from_be_bytes([a, b])) % VERSIONS)
    }

    /// Subscribes to the end of a task. To miss nothing, subscribe before the task is accepted, or before it is read.
    #[must_use]
    pub fn wait_for(&self, task: TaskId) -> TaskEnd {
        let mut waits = self.waits();
        let ended = waits.entry(task).or_insert_with(|| watch::channel(false).0).subscribe();
        TaskEnd { changes: self.clone(), task, ended }
    }

    /// The tasks whose ends have subscribers.
    pub(super) fn awaited_tasks(&self) -> Vec<TaskId> {
        self.waits().keys().copied().collect()
    }

    /// The last version of `directory_changes` that has been polled.
    pub(super) fn polled(&self) -> u64 {
        self.0.polled.load(Ordering::SeqCst)
    }

    /// Records that changes have been polled up to this version.
    pub(super) fn set_polled(&self, version: u64) {
        self.0.polled.fetch_max(version, Ordering::SeqCst);
    }

    pub(super) fn publish(&self, change: Change) {
        match change {
            Change::TaskEnded(task) => {
                if let Some(wait) = self.waits().get(&task) {
                    wait.send_replace(true);
                }
            }
            Change::Directory(tenant) => {
                // `all` comes first: `stamp` reads it last, so it never gives the new version to a value read before
                // the change.
                self.0.all.fetch_add(1, Ordering::SeqCst);
                match tenant.and_then(|tenant| self.version(tenant)) {
                    Some(version) => version.fetch_add(1, Ordering::SeqCst),
                    None => self.0.operators.fetch_add(1, Ordering::SeqCst),
                };
            }
        }
    }

    fn waits(&self) -> MutexGuard<'_, HashMap<TaskId, watch::Sender<bool>>> {
        self.0.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A subscription to the end of a task.
#[derive(Debug)]
pub struct TaskEnd {
    changes: Changes,
    task: TaskId,
    ended: watch::Receiver<bool>,
}

impl TaskEnd {
    /// Resolves once the task's end is stored.
    pub async fn ended(&mut self) {
        // The sender lives at least as long as this subscription.
        let _ = self.ended.wait_for(|ended| *ended).await;
    }
}

impl Drop for TaskEnd {
    fn drop(&mut self) {
        let mut waits = self.changes.waits();
        // This subscription is still counted.
        if waits.get(&self.task).is_some_and(|wait| wait.receiver_count() <= 1) {
            waits.remove(&self.task);
        }
    }
}

/// Recorded with each change to a directory, for other processes.
pub(super) const RECORD_CHANGE: &str = "\
    INSERT INTO directory_changes (tenant_id, version) \
    VALUES (?, 1 + coalesce((SELECT max(version) FROM directory_changes), 0)) \
    ON CONFLICT (tenant_id) DO UPDATE SET version = excluded.version";
