//! Tracks the runs and followers of tasks in this process: synchronous callers wait for the end, event streams read
//! events as they happen, and a run can be stopped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::ids::TaskId;
use crate::store::{Changes, TaskEnd};
use crate::tasks::Outcome;
use crate::trace::log::{RunEvent, RunLog};

/// The tasks that run in this process or are followed.
#[derive(Debug, Clone)]
pub(in crate::runs) struct Registry {
    entries: Arc<Mutex<HashMap<TaskId, Entry>>>,
    changes: Changes,
}

#[derive(Debug, Default)]
struct Entry {
    log: Arc<RunLog>,
    /// Stops its run. `None` if it does not run in this process.
    stop: Option<Arc<Stop>>,
    followers: usize,
}

/// A request to end a run. If there are several, the first outcome counts.
#[derive(Debug, Default)]
struct Stop {
    asked: CancellationToken,
    outcome: OnceLock<Outcome>,
}

impl Registry {
    pub(in crate::runs) fn new(changes: Changes) -> Self {
        Self { entries: Arc::default(), changes }
    }

    /// Follows a task, whether it is running, has not started, or is unknown here.
    pub(in crate::runs) fn follow(&self, task: TaskId) -> Follower {
        let mut entries = self.lock();
        let entry = entries.entry(task).or_default();
        entry.followers += 1;
        let log = Arc::clone(&entry.log);
        let progress = log.progress();
        let end = self.changes.wait_for(task);
        Follower { task, registry: self.clone(), log, progress, end, seen: 0, saw_end: false }
    }

    /// Registers a run of this task in this process, until the returned value is dropped.
    pub(in crate::runs) fn begin(&self, task: TaskId) -> Running {
        let stop = Arc::new(Stop::default());
        let mut entries = self.lock();
        let entry = entries.entry(task).or_default();
        entry.stop = Some(Arc::clone(&stop));
        entry.log.begin();
        let end = tokio::sync::Mutex::new(self.changes.wait_for(task));
        Running { task, registry: self.clone(), log: Arc::clone(&entry.log), stop, end }
    }

    /// Requests that a task's run end at once with this outcome. Returns false if it does not run here.
    pub(in crate::runs) fn stop(&self, task: TaskId, outcome: &Outcome) -> bool {
        let entries = self.lock();
        let Some(stop) = entries.get(&task).and_then(|entry| entry.stop.as_ref()) else {
            return false;
        };
        stop.outcome.get_or_init(|| outcome.clone());
        stop.asked.cancel();
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TaskId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evicts a task that neither runs here nor is followed.
    fn evict_idle(entries: &mut HashMap<TaskId, Entry>, task: TaskId) {
        if entries.get(&task).is_some_and(|entry| entry.followers == 0 && entry.stop.is_none()) {
            entries.remove(&task);
        }
    }
}

/// A run in this process.
#[derive(Debug)]
pub(in crate::runs) struct Running {
    task: TaskId,
    registry: Registry,
    /// The log of its steps.
    pub(in crate::runs) log: Arc<RunLog>,
    stop: Arc<Stop>,
    end: tokio::sync::Mutex<TaskEnd>,
}

impl Running {
    /// Resolves when the task has been ended elsewhere, possibly by another process.
    pub(in crate::runs) async fn ended_elsewhere(&self) {
        self.end.lock().await.ended().await;
    }

    /// Resolves when the run is stopped from outside, with the requested outcome.
    pub(in crate::runs) async fn stopped(&self) -> Option<Outcome> {
        self.stop.asked.cancelled().await;
        self.stop.outcome.get().cloned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut entries = self.registry.lock();
        if let Some(entry) = entries.get_mut(&self.task) {
            entry.stop = None;
        }
        Registry::evict_idle(&mut entries, self.task);
    }
}

/// Follows a task. Dropping it does not affect the task.
#[derive(Debug)]
pub struct Follower {
    task: TaskId,
    registry: Registry,
    log: Arc<RunLog>,
    progress: watch::Receiver<usize>,
    end: TaskEnd,
    seen: usize,
    saw_end: bool,
}

impl Follower {
    /// Resolves when the task's end is stored, by any process.
    pub async fn ended(&mut self) {
        self.end.ended().await;
    }

    /// Resolves when there is an event that was not taken yet, or once when the end is stored.
    pub async fn changed(&mut self) {
        let seen = self.seen;
        tokio::select! {
            // Cannot fail: the sender is in the log, which this follower keeps alive.
            _ = self.progress.wait_for(|events| *events > seen) => {}
            () = self.end.ended(), if !self.saw_end => self.saw_end = true,
        }
    }

    /// Whether [`Self::changed`] has seen the end.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.saw_end
    }

    /// Returns the events since the last call.
    pub fn take(&mut self) -> Vec<RunEvent> {
        let events = self.log.since(self.seen);
        self.seen += events.len();
        events
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut entries = self.registry.lock();
        if let Some(entry) = entries.get_mut(&self.task) {
            entry.followers = entry.followers.saturating_sub(1);
        }
        Registry::evict_idle(&mut entries, self.task);
    }
}
