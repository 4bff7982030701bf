//! Notifies of what has changed: tasks that have ended, and changes to a tenant's directory. Waiting requests and
//! caches subscribe here.
//!
//! The writer says what it has committed, before it answers. What other processes commit (commands that work on the
//! data folder) is polled (`other_processes`).

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::ids::{TaskId, TenantId};

/// Tenants share versions by a part of their ids: two that do see each other's changes as theirs, which costs a
/// look into the store.
const VERSIONS: usize = 1024;

/// Something that a write has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// A task has ended.
    TaskEnded(TaskId),
    /// A tenant's directory has changed; without a tenant, the operators'.
    Directory(Option<TenantId>),
}

/// Tells of changes. Cloning gives another handle.
#[derive(Clone)]
pub struct Changes(Arc<Inner>);

struct Inner {
    tenants: Box<[AtomicU64]>,
    /// Grows with every change of any directory.
    all: AtomicU64,
    /// Grows with changes that are no tenant's.
    operators: AtomicU64,
    waits: Mutex<HashMap<TaskId, watch::Sender<bool>>>,
    /// The last change that another process's are known up to.
    polled: AtomicU64,
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Changes")
    }
}

/// The state of a tenant's directory when something was read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    tenant: u64,
    operators: u64,
}

/// Taken before reading what is to be cached.
#[derive(Debug, Clone, Copy)]
pub struct BeforeReading(u64);

impl Changes {
    pub(super) fn new() -> Self {
        let tenants = (0..VERSIONS).map(|_| AtomicU64::new(0)).collect();
        let (all, operators) = (AtomicU64::new(0), AtomicU64::new(0));
        let (waits, polled) = (Mutex::default(), AtomicU64::new(0));
        Self(Arc::new(Inner { tenants, all, operators, waits, polled }))
    }

    /// Where the reading of something begins that is to be cached.
    #[must_use]
    pub fn before_reading(&self) -> BeforeReading {
        BeforeReading(self.0.all.load(Ordering::SeqCst))
    }

    /// What goes with something of this tenant in a cache. None where a directory has changed since the reading
    /// began: what was read may be what was there before, and is not to be cached.
    #[must_use]
    pub fn stamp(&self, tenant: Option<TenantId>, before: BeforeReading) -> Option<Stamp> {
        let stamp = self.now(tenant);
        (self.0.all.load(Ordering::SeqCst) == before.0).then_some(stamp)
    }

    /// Whether something of this tenant is as it was when it was stamped.
    #[must_use]
    pub fn holds(&self, tenant: Option<TenantId>, stamp: Stamp) -> bool {
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

    /// Waits for the end of a task: to miss nothing, from before it is accepted, or before it is read.
    #[must_use]
    pub fn wait_for(&self, task: TaskId) -> TaskEnd {
        let mut waits = self.waits();
        let ended = waits.entry(task).or_insert_with(|| watch::channel(false).0).subscribe();
        TaskEnd { changes: self.clone(), task, ended }
    }

    /// The tasks whose ends are waited for.
    pub(super) fn waited(&self) -> Vec<TaskId> {
        self.waits().keys().copied().collect()
    }

    /// The last change that those of other processes are known up to.
    pub(super) fn polled(&self) -> u64 {
        self.0.polled.load(Ordering::SeqCst)
    }

    /// Notes that they are known up to this one.
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
                // First this one: `stamp` reads it last, so that it never gives the new version to what was read before.
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

/// The end of a task, for somebody who waits for it.
#[derive(Debug)]
pub struct TaskEnd {
    changes: Changes,
    task: TaskId,
    ended: watch::Receiver<bool>,
}

impl TaskEnd {
    /// Comes when the task's end is stored.
    pub async fn ended(&mut self) {
        // The sender lives as long as this waits.
        let _ = self.ended.wait_for(|ended| *ended).await;
    }
}

impl Drop for TaskEnd {
    fn drop(&mut self) {
        let mut waits = self.changes.waits();
        // This one is counted still.
        if waits.get(&self.task).is_some_and(|wait| wait.receiver_count() <= 1) {
            waits.remove(&self.task);
        }
    }
}

/// Written with each change of a directory, for other processes.
pub(super) const NOTE: &str = "\
    INSERT INTO directory_changes (tenant_id, version) \
    VALUES (?, 1 + coalesce((SELECT max(version) FROM directory_changes), 0)) \
    ON CONFLICT (tenant_id) DO UPDATE SET version = excluded.version";
