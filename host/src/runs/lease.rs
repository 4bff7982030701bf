//! Leases: the right to run a task for a limited time. Renewed while the run continues, released when dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::ids::TaskId;
use crate::store::{Store, StoreError};
use crate::tasks::{Fence, Outcome, Task};
use crate::trace::Step;

/// The shortest and the longest pause between two attempts to store the end of a run: half a minute in total.
const FINISH_PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(16));

/// How often, and with which pause, a task is given back if the store fails.
const RELEASES_MAX: usize = 30;
const RELEASE_PAUSE: Duration = Duration::from_secs(1);

/// Maximum number of times that the store's file is shrunk per heartbeat.
const SHRINKS_MAX: usize = 50;

/// The leases that this process holds.
#[derive(Debug, Clone)]
pub(in crate::runs) struct Leases {
    store: Store,
    length: Duration,
    held: Arc<Mutex<HashMap<TaskId, (Fence, CancellationToken)>>>,
}

impl Leases {
    pub(in crate::runs) fn new(store: Store, length: Duration) -> Self {
        Self { store, length, held: Arc::default() }
    }

    /// Renews every lease three times within its length. Also requeues tasks whose owners are gone, shrinks the
    /// store's file and deletes expired idempotency keys. Returns after `stop`, once no lease is left.
    pub(in crate::runs) async fn maintain(self, stop: CancellationToken) {
        let mut beat = tokio::time::interval(self.length / 3);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beat.tick() => {}
                () = stop.cancelled() => {
                    if self.lock().is_empty() {
                        return;
                    }
                    // A drain is shorter than a lease, so the leases that are still held are released soon.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            }
            let held: Vec<_> = self.lock().iter().map(|(id, (fence, _))| (*id, *fence)).collect();
            match self.store.heartbeat(&held, self.length).await {
                Ok(lost) => {
                    let held = self.lock();
                    for id in lost {
                        if let Some((_, lost)) = held.get(&id) {
                            lost.cancel();
                        }
                    }
                }
                Err(error) => tracing::error!(%error, "leases cannot be extended"),
            }
            if let Err(error) = self.store.requeue_orphaned().await {
                tracing::error!(%error, "tasks of owners that are gone cannot be taken over");
            }
            for _ in 0..SHRINKS_MAX {
                match self.store.shrink().await {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        tracing::error!(%error, "the store's file cannot be made smaller");
                        break;
                    }
                }
            }
            loop {
                match self.store.delete_expired_keys().await {
                    // There may be more.
                    Ok(1_000..) => {}
                    Ok(_) => break,
                    Err(error) => {
                        tracing::error!(%error, "expired idempotency keys cannot be deleted");
                        break;
                    }
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<TaskId, (Fence, CancellationToken)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lease of one task. Dropping it without a finish releases the task.
#[derive(Debug)]
pub(in crate::runs) struct Lease {
    leases: Leases,
    task: TaskId,
    fence: Fence,
    lost: CancellationToken,
    finished: bool,
    /// How long the task waits for another worker if it is released.
    pause: Duration,
}

impl Lease {
    pub(in crate::runs) fn held(leases: &Leases, task: TaskId, fence: Fence) -> Self {
        let lost = CancellationToken::new();
        leases.lock().insert(task, (fence, lost.clone()));
        Self { leases: leases.clone(), task, fence, lost, finished: false, pause: Duration::ZERO }
    }

    /// Resolves when the store reports that another worker has the task.
    pub(in crate::runs) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Releases the task. Another worker can claim it after this pause.
    pub(in crate::runs) fn release_after(mut self, pause: Duration) {
        self.pause = pause;
    }

    /// Gives up a lease that the store no longer has.
    pub(in crate::runs) fn forget(mut self) {
        self.finished = true;
    }

    /// Stores the end of the run of `task`, which is this lease's task. Returns false if the lease was lost: nothing
    /// is stored then. Retries for about half a minute if the store fails, for example because the disk is full.
    pub(in crate::runs) async fn finish(
        mut self,
        task: &Task,
        outcome: Outcome,
        steps: Vec<Step>,
    ) -> Result<bool, StoreError> {
        let mut pause = FINISH_PAUSES.0;
        loop {
            match self.leases.store.finish(task, self.fence, outcome.clone(), &steps).await {
                Ok(stored) => {
                    self.finished = true;
                    return Ok(stored);
                }
                Err(error) if pause > FINISH_PAUSES.1 => return Err(error),
                Err(error) => {
                    tracing::warn!(task = %self.task, %error, "trying again to finish a task")
                }
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.finished {
            self.leases.lock().remove(&self.task);
            return;
        }
        let (leases, task, fence, pause) = (self.leases.clone(), self.task, self.fence, self.pause);
        // If the runtime is gone, the lease expires, or the next start takes the task over.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // While this process lives, its leases do not expire, so an attempt that fails is repeated.
                for _ in 0..RELEASES_MAX {
                    match leases.store.release(task, fence, pause).await {
                        Ok(()) => break,
                        Err(error) => {
                            tracing::error!(%task, %error, "a task cannot be given back yet")
                        }
                    }
                    tokio::time::sleep(RELEASE_PAUSE).await;
                }
                leases.lock().remove(&task);
            });
        }
    }
}
