//! Who follows which task in this process: synchronous callers until its end, event streams moment by
//! moment, and whoever wants to stop it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::ids::TaskId;
use crate::tasks::Outcome;
use crate::trace::log::{Log, Moment, Progress};

/// The tasks that run here or that somebody follows.
#[derive(Debug, Clone, Default)]
pub(in crate::runs) struct Registry(Arc<Mutex<HashMap<TaskId, Entry>>>);

#[derive(Debug, Default)]
struct Entry {
    log: Arc<Log>,
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
    /// Follows a task, whether it runs already, is yet to run, or is unknown here.
    pub(in crate::runs) fn follow(&self, task: TaskId) -> Follower {
        let mut entries = self.lock();
        let entry = entries.entry(task).or_default();
        entry.followers += 1;
        let log = Arc::clone(&entry.log);
        let progress = log.progress();
        Follower { task, registry: self.clone(), log, progress, seen: 0, saw_end: false }
    }

    /// Says that a task runs here from now on, until what this gives is dropped.
    pub(in crate::runs) fn begin(&self, task: TaskId) -> Running {
        let stop = Arc::new(Stop::default());
        let mut entries = self.lock();
        let entry = entries.entry(task).or_default();
        entry.stop = Some(Arc::clone(&stop));
        entry.log.begin();
        Running { task, registry: self.clone(), log: Arc::clone(&entry.log), stop }
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

    /// Tells whoever follows that the task's end is stored.
    pub(in crate::runs) fn ended(&self, task: TaskId) {
        if let Some(entry) = self.lock().get(&task) {
            entry.log.end();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TaskId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a task that neither runs here nor is followed.
    fn forget_idle(entries: &mut HashMap<TaskId, Entry>, task: TaskId) {
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
    pub(in crate::runs) log: Arc<Log>,
    stop: Arc<Stop>,
}

impl Running {
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
        Registry::forget_idle(&mut entries, self.task);
    }
}

/// A place among those who follow a task; dropping it changes nothing for the task.
#[derive(Debug)]
pub struct Follower {
    task: TaskId,
    registry: Registry,
    log: Arc<Log>,
    progress: watch::Receiver<Progress>,
    seen: usize,
    saw_end: bool,
}

impl Follower {
    /// Comes when the task's end is stored by this process; never where another one does.
    pub async fn ended(&mut self) {
        // The sender lives in the log that this holds.
        let _ = self.progress.wait_for(|progress| progress.ended).await;
    }

    /// Comes when there is a moment that was not taken yet, or once when the end is stored.
    pub async fn changed(&mut self) {
        let (seen, saw_end) = (self.seen, self.saw_end);
        let news = |progress: &Progress| (progress.ended && !saw_end) || progress.moments > seen;
        if let Ok(progress) = self.progress.wait_for(news).await {
            self.saw_end = progress.ended;
        }
    }

    /// The moments since they were last taken.
    pub fn take(&mut self) -> Vec<Moment> {
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
        Registry::forget_idle(&mut entries, self.task);
    }
}
