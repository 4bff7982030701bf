//! Synchronous callers, waiting for their tasks to end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::ids::TaskId;

type Senders = HashMap<TaskId, oneshot::Sender<()>>;

/// Who waits for what. One caller a task: a task's id is new when its caller begins to wait.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiters(Arc<Mutex<Senders>>);

impl Waiters {
    pub(super) fn register(&self, task: TaskId) -> Waiter {
        let (sender, ended) = oneshot::channel();
        self.lock().insert(task, sender);
        Waiter { task, waiters: self.clone(), ended }
    }

    pub(super) fn wake(&self, task: TaskId) {
        if let Some(waiter) = self.lock().remove(&task) {
            // A caller who has hung up is no error.
            let _ = waiter.send(());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Senders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in the list; dropping it takes it back.
#[derive(Debug)]
pub struct Waiter {
    task: TaskId,
    waiters: Waiters,
    ended: oneshot::Receiver<()>,
}

impl Waiter {
    /// Comes when the task has ended, or when this process will not learn of it.
    pub async fn ended(&mut self) {
        let _ = (&mut self.ended).await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiters.lock().remove(&self.task);
    }
}
