//! From a stored task to a finished one. One path: a synchronous caller waits for the same task that an
//! asynchronous one would poll.

mod delivery;
mod lease;
mod watching;

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::{Frame, Runner};
use crate::bulk::{BULK_BYTES, BulkLane, Whose};
use crate::ids::{TaskId, TenantId};
use crate::secrets::UserTokens;
use crate::settings::QueueSettings;
use crate::store::{Places, Store, StoreError};
use crate::tasks::{Accepted, Claimed, EndStatus, NewTask, Outcome, Task};
use crate::trace::log::{Log, Moment};
use crate::trace::{Event, Step};
pub use delivery::Deliveries;
use lease::{Lease, Leases};
pub use watching::Follower;
use watching::{Running, Watching};

/// How often is looked for tasks that nobody woke us for: given back by another process, or left by one
/// that died.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Most tasks taken by one claim; more would sit leased while others run.
const CLAIM_MAX: usize = 64;

/// How long whoever asks a run to stop waits until it has. It drops what it is in the middle of, so this
/// is for a machine that stalls.
const STOP_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long tokens of users wait for their run, and how many bytes of them. A run that begins later goes
/// on without.
const TOKENS_WAIT_MAX: Duration = Duration::from_hours(1);
const TOKENS_BYTES_MAX: u64 = 64 << 20;

/// How long a task that met a store that fails waits before it goes back.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// What a stopped task says of itself.
pub const STOPPED: &str = "stopped on request";

/// The queue of one gateway process. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Queue {
    store: Store,
    wake: Arc<Notify>,
    watching: Watching,
    /// Held while tasks are claimed, until their runs have begun: whoever has it knows that every task
    /// that this process has claimed is among those that it watches.
    claiming: Arc<Mutex<()>>,
    /// Somebody's answer may have to be delivered.
    ended: Arc<Notify>,
    /// In memory only: they must be in no store (CONTRACT X8).
    tokens: Cache<TaskId, UserTokens>,
}

impl Queue {
    /// A queue that accepts and runs nothing by itself; [`start`] gives it workers.
    #[must_use]
    pub fn new(store: Store) -> Self {
        let tokens = Cache::builder()
            .weigher(|_, tokens: &UserTokens| {
                u32::try_from(tokens.secrets().map(|secret| secret.len() + 256).sum::<usize>())
                    .unwrap_or(u32::MAX)
            })
            .max_capacity(TOKENS_BYTES_MAX)
            .time_to_live(TOKENS_WAIT_MAX)
            .build();
        Self {
            store,
            wake: Arc::default(),
            watching: Watching::default(),
            claiming: Arc::default(),
            ended: Arc::default(),
            tokens,
        }
    }

    /// Stores a task, synced, and wakes a worker for it. The user's tokens wait in memory for its run.
    ///
    /// # Errors
    /// When the store cannot take it; nothing is stored then.
    pub async fn accept(&self, task: NewTask, tokens: UserTokens) -> Result<Accepted, StoreError> {
        let id = task.id;
        let has_tokens = !tokens.is_empty();
        if has_tokens {
            // Before it is stored: a worker may have it right after.
            self.tokens.insert(id, tokens);
        }
        let accepted = self.store.accept(task).await;
        match &accepted {
            Ok(Accepted::New) => self.wake.notify_one(),
            _ if has_tokens => self.tokens.invalidate(&id),
            _ => {}
        }
        accepted
    }

    /// Follows a task. To miss nothing, follow it before it is accepted, or before it is read.
    #[must_use]
    pub fn follow(&self, task: TaskId) -> Follower {
        self.watching.follow(task)
    }

    /// Ends a task of this tenant with this outcome, unless it has ended already, and gives the task as
    /// it is then. Its run, the tool call that it waits for included, is dropped where it stands. None
    /// where the tenant has no such task.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn end(
        &self,
        tenant: TenantId,
        id: TaskId,
        outcome: Outcome,
    ) -> Result<Option<Task>, StoreError> {
        let Some(task) = self.store.task(tenant, id).await? else { return Ok(None) };
        if task.status.is_final() {
            return Ok(Some(task));
        }
        // A run of this process ends itself, so that what it did until now is kept.
        let mut follower = self.follow(id);
        if self.watching.stop(id, &outcome) {
            let _ = tokio::time::timeout(STOP_WAIT_MAX, follower.ended()).await;
        }
        if self.store.end(tenant, id, outcome.clone()).await? {
            // Whoever runs it has lost it. It may have been claimed just before, and not have begun.
            drop(self.claiming.lock().await);
            self.watching.stop(id, &outcome);
            self.watching.ended(id);
            self.ended.notify_one();
            self.tokens.invalidate(&id);
        }
        self.store.task(tenant, id).await
    }

    /// Ends a task of this tenant, if it has not ended, and deletes it with everything that belongs to
    /// it. False where the tenant has no such task.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn delete(&self, tenant: TenantId, id: TaskId) -> Result<bool, StoreError> {
        let stopped = Outcome { status: EndStatus::Stopped, result: STOPPED.to_owned() };
        match self.end(tenant, id, stopped).await? {
            Some(_) => self.store.delete_task(tenant, id).await,
            None => Ok(false),
        }
    }
}

/// The workers of one gateway process.
#[derive(Debug)]
pub struct Workers {
    stop_claiming: CancellationToken,
    stop_running: CancellationToken,
    runs: TaskTracker,
    claims: TaskTracker,
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
    queue: Queue,
    stop: CancellationToken,
    /// Where runs about long payloads are done.
    bulk: Arc<BulkLane>,
    settings: QueueSettings,
}

/// Starts workers for a queue, and what delivers its answers.
#[must_use]
pub fn start(
    queue: &Queue,
    runner: Runner,
    deliveries: Deliveries,
    bulk: Arc<BulkLane>,
    settings: QueueSettings,
) -> Workers {
    let store = queue.store.clone();
    let leases = Leases::new(store.clone(), settings.lease);
    let stop_running = CancellationToken::new();
    let stop = stop_running.clone();
    let shop = Shop { store, runner, leases, queue: queue.clone(), stop, bulk, settings };
    let workers = Workers {
        stop_claiming: CancellationToken::new(),
        stop_running,
        runs: TaskTracker::new(),
        claims: TaskTracker::new(),
        loops: TaskTracker::new(),
    };
    let stop = workers.stop_claiming.clone();
    let claiming = claim(shop.clone(), Arc::clone(&queue.wake), workers.runs.clone(), stop.clone());
    workers.claims.spawn(claiming);
    workers.loops.spawn(shop.leases.clone().keep(stop.clone()));
    let (wake, tries, cut) =
        (Arc::clone(&queue.ended), workers.runs.clone(), workers.stop_running.clone());
    workers.claims.spawn(deliveries.serve(wake, tries, stop, cut));
    workers
}

impl Workers {
    /// Claims no more; gives running tasks `drain` to end. The leases of those that do not are given
    /// back, so that they run again at the next start.
    pub async fn stop(self, drain: Duration) {
        self.stop_claiming.cancel();
        // A claim that is under way still makes runs: they are among those that are waited for.
        self.claims.close();
        self.claims.wait().await;
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
        let claiming = shop.queue.claiming.lock().await;
        let places = Places {
            wanted: permits.len(),
            free: permits.len() + room.available_permits(),
            per_tenant_max: shop.settings.runs_per_tenant_max,
        };
        match shop.store.claim(places, shop.settings.lease).await {
            Ok(claimed) if !claimed.is_empty() => {
                for (claimed, permit) in claimed.into_iter().zip(permits) {
                    let running = shop.queue.watching.begin(claimed.task.id);
                    let is_long = claimed.task.input.payload.len() > BULK_BYTES;
                    let whose = Whose::from(claimed.task.tenant);
                    let run = run(shop.clone(), claimed, running, permit);
                    let wake = Arc::clone(&wake);
                    let run = async move {
                        run.await;
                        // Its tenant may have had no room for another one until now.
                        wake.notify_one();
                    };
                    match shop.bulk.handle().filter(|_| is_long) {
                        Some(threads) => runs.spawn_on(shop.bulk.in_turns(whose, run), threads),
                        None => runs.spawn(run),
                    };
                }
                continue;
            }
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "no tasks can be claimed"),
        }
        drop(claiming);
        drop(permits);
        tokio::select! {
            () = stop.cancelled() => return,
            () = wake.notified() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

/// Runs one claimed task to its end.
async fn run(shop: Shop, claimed: Claimed, running: Running, _room: OwnedSemaphorePermit) {
    let Claimed { task, fence } = claimed;
    let lease = Lease::held(&shop.leases, task.id, fence);
    let outcome = tokio::select! {
        outcome = outcome(&shop, &task, &running.log) => outcome,
        outcome = running.stopped() => outcome.map(|outcome| ended_from_outside(&shop, &running.log, outcome)),
        // Another worker has it: whatever this one would still do counts for nothing.
        () = lease.lost() => None,
        () = shop.stop.cancelled() => None,
    };
    let Some(outcome) = outcome else { return };
    let status = outcome.status;
    match lease.finish(&task, outcome, running.log.steps()).await {
        Ok(true) => {
            tracing::debug!(task = %task.id, attempts = task.attempts, ?status, "task finished");
        }
        Ok(false) => tracing::info!(task = %task.id, "a task was ended by somebody else, or lost"),
        Err(error) => {
            // Nobody is told of an end that is not stored; the lease is given back with this.
            tracing::error!(task = %task.id, %error, "a finished task cannot be stored");
            return;
        }
    }
    shop.queue.tokens.invalidate(&task.id);
    shop.queue.watching.ended(task.id);
    shop.queue.ended.notify_one();
}

/// What a run comes to. None where that is not the task's fault: it goes back and is tried again.
async fn outcome(shop: &Shop, task: &Task, log: &Log) -> Option<Outcome> {
    if task.attempts > shop.settings.attempts_max {
        let reason = format!(
            "given up after {} attempts, each of which ended with the worker (fault: host)",
            task.attempts - 1
        );
        return Some(ended_unrun(shop, log, EndStatus::Error, reason));
    }
    match shop.store.agent(task.tenant, task.agent).await {
        Ok(Some(agent)) => {
            let tokens = shop.queue.tokens.get(&task.id).unwrap_or_default();
            let frame = Frame { tokens, log, time_max: shop.settings.run_time_max };
            match shop.runner.run(&agent, task, frame).await {
                Ok(outcome) => Some(outcome),
                Err(error) => not_the_tasks_fault(task, &error).await,
            }
        }
        Ok(None) => {
            let reason = "the agent does not exist any more".to_owned();
            Some(ended_unrun(shop, log, EndStatus::Failed, reason))
        }
        Err(error) => not_the_tasks_fault(task, &error).await,
    }
}

/// A store that fails ends no task. The pause keeps a failure of seconds from using up every attempt.
async fn not_the_tasks_fault(task: &Task, error: &StoreError) -> Option<Outcome> {
    tracing::error!(task = %task.id, %error, "a run cannot go on and goes back");
    tokio::time::sleep(STORE_PAUSE).await;
    None
}

/// The end of a run that was under way.
fn ended_from_outside(shop: &Shop, log: &Log, outcome: Outcome) -> Outcome {
    log.give_up_call(shop.runner.clock.now());
    match outcome.status {
        EndStatus::Completed => outcome,
        status => ended_unrun(shop, log, status, outcome.result),
    }
}

/// The end of a run that did not come to one by itself.
fn ended_unrun(shop: &Shop, log: &Log, status: EndStatus, reason: String) -> Outcome {
    let event = Event::Failure { reason: reason.clone() };
    log.push(Moment::Did(Step { at: shop.runner.clock.now(), micros: 0, event }));
    Outcome { status, result: reason }
}
