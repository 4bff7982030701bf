//! Who follows which task in this process: synchronous callers until its end, event streams moment by
//! moment, and whoever wants to stop it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::ids::TaskId;
use crate::store::{Changes, TaskEnd};
use crate::tasks::Outcome;
use crate::trace::log::{RunEvent, RunLog};

/// The tasks that run here or that somebody follows.
#[derive(Debug, Clone)]
pub(in crate::runs) struct Registry {
    entries: Arc<Mutex<HashMap<TaskId, Entry>>>,
    changes: Changes,
}

#[derive(Debug, Default)]
struct Entry {
    log: Arc<RunLog>,
    /// How to end its run. None: it does not run in this process.
    stop: Option<Arc<Stop>>,
    followers: usize,
}

/// Ends a run from outside. Of several ends the first one counts.
#[derive(Debug, Default)]
struct Stop {
    asked: CancellationToken,
    outcome: OnceLock<Outcome>,
}

impl Registry {
    pub(in crate::runs) fn new(changes: Changes) -> Self {
        Self { entries: Arc::default(), changes }
    }

    /// Follows a task, whether it runs already, is yet to run, or is unknown here.
    pub(in crate::runs) fn follow(&self, task: TaskId) -> Follower {
        let mut entries = self.lock();
        let entry = entries.entry(task).or_default();
        entry.followers += 1;
        let log = Arc::clone(&entry.log);
        let progress = log.progress();
        let end = self.changes.wait_for(task);
        Follower { task, registry: self.clone(), log, progress, end, seen: 0, saw_end: false }
    }

    /// Says that a task runs here from now on, until what this gives is dropped.
    pub(in crate::runs) fn begin(&self, task: TaskId) -> Running {
        let stop = Arc::new(Stop::default());
        let mut entries = self.lock();
        let entry = entries.entry(task).or_default();
        entry.stop = Some(Arc::clone(&stop));
        entry.log.begin();
        let end = tokio::sync::Mutex::new(self.changes.wait_for(task));
        Running { task, registry: self.clone(), log: Arc::clone(&entry.log), stop, end }
    }

    /// Asks the run of a task to end like this where it stands. False where it does not run here.
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

    /// Forgets a task that neither runs here nor is followed.
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
    /// Where its steps go.
    pub(in crate::runs) log: Arc<RunLog>,
    stop: Arc<Stop>,
    end: tokio::sync::Mutex<TaskEnd>,
}

impl Running {
    /// Comes when the task has been ended elsewhere, by another process too.
    pub(in crate::runs) async fn ended_elsewhere(&self) {
        self.end.lock().await.ended().await;
    }

    /// Comes when somebody ends it from outside, with what it comes to.
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

/// A place among those who follow a task; dropping it changes nothing for the task.
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
    /// Comes when the task's end is stored, by whichever process.
    pub async fn ended(&mut self) {
        self.end.ended().await;
    }

    /// Comes when there is a moment that was not taken yet, or once when the end is stored.
    pub async fn changed(&mut self) {
        let seen = self.seen;
        tokio::select! {
            // The sender lives in the log that this holds.
            _ = self.progress.wait_for(|moments| *moments > seen) => {}
            () = self.end.ended(), if !self.saw_end => self.saw_end = true,
        }
    }

    /// The moments since they were last taken.
    pub fn take(&mut self) -> Vec<RunEvent> {
        let moments = self.log.since(self.seen);
        self.seen += moments.len();
        moments
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
