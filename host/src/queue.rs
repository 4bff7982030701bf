//! From a stored task to a finished one. One path: a synchronous caller waits for the same task that an
//! asynchronous one would poll.

mod lease;
mod waiters;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::{Finished, Runner};
use crate::ids::TaskId;
use crate::settings::QueueSettings;
use crate::store::{Store, StoreError};
use crate::tasks::{Accepted, Claimed, EndStatus, NewTask, Outcome};
use crate::trace::{Event, Step};
use lease::{Lease, Leases};
pub use waiters::Waiter;
use waiters::Waiters;

/// How often is looked for tasks that nobody woke us for: given back by another process, or left by one
/// that died.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Most tasks taken by one claim; more would sit leased while others run.
const CLAIM_MAX: usize = 64;

/// The queue of one gateway process. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Queue {
    store: Store,
    wake: Arc<Notify>,
    waiters: Waiters,
}

impl Queue {
    /// Stores a task, synced, and wakes a worker for it.
    ///
    /// # Errors
    /// When the store cannot take it; nothing is stored then.
    pub async fn accept(&self, task: NewTask) -> Result<Accepted, StoreError> {
        let accepted = self.store.accept(task).await?;
        if accepted == Accepted::New {
            self.wake.notify_one();
        }
        Ok(accepted)
    }

    /// Registers for the end of a task. To miss nothing, register before the task is accepted.
    #[must_use]
    pub fn waiter(&self, task: TaskId) -> Waiter {
        self.waiters.register(task)
    }
}

/// The workers of one gateway process.
#[derive(Debug)]
pub struct Workers {
    stop_claiming: CancellationToken,
    stop_running: CancellationToken,
    runs: TaskTracker,
    loops: TaskTracker,
}

impl Drop for Workers {
    /// A gateway that is dropped without being stopped claims nothing more either.
    fn drop(&mut self) {
        self.stop_claiming.cancel();
    }
}

/// What every run needs.
#[derive(Debug, Clone)]
struct Shop {
    store: Store,
    runner: Runner,
    leases: Leases,
    waiters: Waiters,
    stop: CancellationToken,
    settings: QueueSettings,
}

/// Starts the workers.
#[must_use]
pub fn start(store: Store, runner: Runner, settings: QueueSettings) -> (Queue, Workers) {
    let queue =
        Queue { store: store.clone(), wake: Arc::new(Notify::new()), waiters: Waiters::default() };
    let leases = Leases::new(store.clone(), settings.lease);
    let stop_running = CancellationToken::new();
    let shop = Shop {
        store,
        runner,
        leases,
        waiters: queue.waiters.clone(),
        stop: stop_running.clone(),
        settings,
    };
    let workers = Workers {
        stop_claiming: CancellationToken::new(),
        stop_running,
        runs: TaskTracker::new(),
        loops: TaskTracker::new(),
    };
    let stop = workers.stop_claiming.clone();
    let claiming = claim(shop.clone(), Arc::clone(&queue.wake), workers.runs.clone(), stop.clone());
    workers.loops.spawn(claiming);
    workers.loops.spawn(shop.leases.clone().keep(stop));
    (queue, workers)
}

impl Workers {
    /// Claims no more; gives running tasks `drain` to end. The leases of those that do not are given
    /// back, so that they run again at the next start.
    pub async fn stop(self, drain: Duration) {
        self.stop_claiming.cancel();
        self.runs.close();
        if tokio::time::timeout(drain, self.runs.wait()).await.is_err() {
            tracing::warn!(
                runs = self.runs.len(),
                "runs did not end within the drain time and will run again at the next start"
            );
            self.stop_running.cancel();
            self.runs.wait().await;
        }
        self.loops.close();
        self.loops.wait().await;
    }
}

/// Claims tasks as long as there is room to run them.
async fn claim(shop: Shop, wake: Arc<Notify>, runs: TaskTracker, stop: CancellationToken) {
    // Without room this process only accepts; whoever shares its store runs.
    let room = Arc::new(Semaphore::new(shop.settings.runs_max));
    loop {
        let first = tokio::select! {
            () = stop.cancelled() => return,
            permit = Arc::clone(&room).acquire_owned() => permit,
        };
        let Ok(first) = first else { return };
        let mut permits = vec![first];
        while permits.len() < CLAIM_MAX
            && let Ok(permit) = Arc::clone(&room).try_acquire_owned()
        {
            permits.push(permit);
        }
        match shop
            .store
            .claim(permits.len(), shop.settings.runs_per_tenant_max, shop.settings.lease)
            .await
        {
            Ok(claimed) if !claimed.is_empty() => {
                for (claimed, permit) in claimed.into_iter().zip(permits) {
                    let run = run(shop.clone(), claimed, permit);
                    let wake = Arc::clone(&wake);
                    runs.spawn(async move {
                        run.await;
                        // Its tenant may have had no room for another one until now.
                        wake.notify_one();
                    });
                }
                continue;
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "no tasks can be claimed"),
        }
        drop(permits);
        tokio::select! {
            () = stop.cancelled() => return,
            () = wake.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Runs one claimed task to its end.
async fn run(shop: Shop, claimed: Claimed, _room: OwnedSemaphorePermit) {
    let Claimed { task, fence } = claimed;
    let lease = Lease::held(&shop.leases, task.id, fence);
    let finished = if task.attempts > shop.settings.attempts_max {
        let reason = format!(
            "given up after {} attempts, each of which ended with the worker (fault: host)",
            task.attempts - 1
        );
        ended(&shop, EndStatus::Error, reason)
    } else {
        match shop.store.agent(task.tenant, task.agent).await {
            Ok(Some(agent)) => {
                tokio::select! {
                    finished = shop.runner.run(&agent, &task, shop.settings.run_time_max) => finished,
                    // Another worker has it: whatever this one would still do counts for nothing.
                    () = lease.lost() => return,
                    () = shop.stop.cancelled() => return,
                }
            }
            Ok(None) => {
                ended(&shop, EndStatus::Failed, "the agent does not exist any more".to_owned())
            }
            Err(error) => {
                // Not the task's fault: it goes back and is tried again.
                tracing::error!(task = %task.id, %error, "the agent of a task cannot be read");
                return;
            }
        }
    };
    let status = finished.outcome.status;
    match lease.finish(finished.outcome, finished.steps).await {
        Ok(true) => {
            tracing::debug!(task = %task.id, attempts = task.attempts, ?status, "task finished");
        }
        Ok(false) => tracing::warn!(task = %task.id, "the lease of a finished task was lost"),
        Err(error) => tracing::error!(task = %task.id, %error, "a finished task cannot be stored"),
    }
    shop.waiters.wake(task.id);
}

/// The end of a task that was not run.
fn ended(shop: &Shop, status: EndStatus, reason: String) -> Finished {
    let event = Event::Failure { reason: reason.clone() };
    let step = Step { at: shop.runner.clock.now(), micros: 0, event };
    Finished { outcome: Outcome { status, result: reason }, steps: vec![step] }
}
