//! The workers of one gateway process: they claim tasks while there is room, run each to its end, and store the end.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::Runs;
use super::lease::{Lease, Leases};
use super::registry::Running;
use crate::agent::{RunContext, RunEnd, Runner};
use crate::bulk::{BULK_BYTES, BulkLane, TenantCell};
use crate::ids::AgentId;
use crate::settings::QueueSettings;
use crate::store::{Capacity, Stamp, Store, StoreError};
use crate::tasks::{Claimed, EndStatus, Fence, Outcome, Task};
use crate::telemetry::{EndedRun, Telemetry};
use crate::tenants::Agent;
use crate::trace::log::{RunEvent, RunLog};
use crate::trace::{Event, Step};

/// How often to poll for tasks that nothing notified this process of: released by another process, or left behind by
/// one that died.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of tasks per claim. More would stay leased while others run.
const CLAIM_MAX: usize = 64;

/// How long a task whose run met a failing store waits for its next attempt, so that an outage of seconds does not
/// use up all attempts.
const STORE_PAUSE: Duration = Duration::from_secs(1);

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
    /// A gateway that is dropped without being stopped stops claiming as well.
    fn drop(&mut self) {
        self.stop_claiming.cancel();
    }
}

/// The context of every run.
#[derive(Debug, Clone)]
struct WorkerContext {
    store: Store,
    runner: Runner,
    leases: Leases,
    runs: Runs,
    stop: CancellationToken,
    agents: Cache<AgentId, (Arc<Agent>, Stamp)>,
    /// Executes runs with long payloads.
    bulk: Arc<BulkLane>,
    telemetry: Telemetry,
    settings: QueueSettings,
}

/// Maximum number of cached agents.
const AGENTS_MAX: u64 = 10_000;

impl WorkerContext {
    /// The current version of a task's agent.
    async fn agent(&self, task: &Task) -> Result<Option<Arc<Agent>>, StoreError> {
        let (tenant, changes) = (task.tenant, self.store.changes());
        if let Some((agent, stamp)) = self.agents.get(&task.agent)
            && agent.tenant == tenant
            && changes.is_current(Some(tenant), stamp)
        {
            return Ok(Some(agent));
        }
        let before = changes.before_reading();
        let agent = self.store.agent(tenant, task.agent).await?.map(Arc::new);
        if let (Some(agent), Some(stamp)) = (&agent, changes.stamp(Some(tenant), before)) {
            self.agents.insert(task.agent, (Arc::clone(agent), stamp));
        }
        Ok(agent)
    }
}

/// Starts the workers of this process.
#[must_use]
pub fn start(
    runs: &Runs,
    runner: Runner,
    bulk: Arc<BulkLane>,
    telemetry: Telemetry,
    settings: QueueSettings,
) -> Workers {
    let store = runs.store.clone();
    let leases = Leases::new(store.clone(), settings.lease);
    let stop_running = CancellationToken::new();
    let stop = stop_running.clone();
    let context = WorkerContext {
        store,
        runner,
        leases,
        runs: runs.clone(),
        stop,
        agents: Cache::new(AGENTS_MAX),
        bulk,
        telemetry,
        settings,
    };
    let workers = Workers {
        stop_claiming: CancellationToken::new(),
        stop_running,
        runs: TaskTracker::new(),
        claims: TaskTracker::new(),
        loops: TaskTracker::new(),
    };
    let stop = workers.stop_claiming.clone();
    let claiming =
        claim(context.clone(), Arc::clone(&runs.wake), workers.runs.clone(), stop.clone());
    workers.claims.spawn(claiming);
    workers.loops.spawn(context.leases.clone().maintain(stop.clone()));
    workers
}

impl Workers {
    /// Stops claiming and gives running tasks `drain` to end. The leases of those that do not are released, so that
    /// they run again at the next start.
    pub async fn stop(self, drain: Duration) {
        self.stop_claiming.cancel();
        // A claim in progress still starts runs, and they are waited for as well.
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

/// Claims tasks while there is room to run them.
async fn claim(
    context: WorkerContext,
    wake: Arc<Notify>,
    runs: TaskTracker,
    stop: CancellationToken,
) {
    // With `runs_max` 0, this process only accepts tasks; other processes that share its store run them.
    let slots = Arc::new(Semaphore::new(context.settings.runs_max));
    loop {
        let first = tokio::select! {
            () = stop.cancelled() => return,
            permit = Arc::clone(&slots).acquire_owned() => permit,
        };
        let Ok(first) = first else { return };
        let mut permits = vec![first];
        while permits.len() < CLAIM_MAX
            && let Ok(permit) = Arc::clone(&slots).try_acquire_owned()
        {
            permits.push(permit);
        }
        let claiming = context.runs.claiming.lock().await;
        let capacity = Capacity {
            wanted: permits.len(),
            free: permits.len() + slots.available_permits(),
            per_tenant_max: context.settings.runs_per_tenant_max,
        };
        match context.store.claim(capacity, context.settings.lease).await {
            Ok(claimed) if !claimed.is_empty() => {
                for (claimed, permit) in claimed.into_iter().zip(permits) {
                    let running = context.runs.registry.begin(claimed.task.id);
                    let is_long = claimed.task.input.payload.len() > BULK_BYTES;
                    let tenant = TenantCell::from(claimed.task.tenant);
                    let span = tracing::error_span!(
                        "run",
                        task = %claimed.task.id,
                        tenant = %claimed.task.tenant,
                        agent = %claimed.task.agent,
                        attempt = claimed.task.attempts
                    );
                    let run = run_task(context.clone(), claimed, running, permit).instrument(span);
                    let wake = Arc::clone(&wake);
                    let run = async move {
                        run.await;
                        // The tenant may have had no room for another run until now.
                        wake.notify_one();
                    };
                    match context.bulk.handle().filter(|_| is_long) {
                        Some(threads) => runs.spawn_on(context.bulk.in_turns(tenant, run), threads),
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
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
    }
}

/// Runs one claimed task to its end.
async fn run_task(
    context: WorkerContext,
    claimed: Claimed,
    running: Running,
    _room: OwnedSemaphorePermit,
) {
    let Claimed { task, fence } = claimed;
    let lease = Lease::held(&context.leases, task.id, fence);
    // The agent as the run has it: it may be changed meanwhile.
    let agent = OnceLock::new();
    let outcome = tokio::select! {
        outcome = outcome(&context, &task, fence, &running.log, &agent) => match outcome {
            Ok(RunEnd::Ended(outcome)) => Some(outcome),
            Ok(RunEnd::Paused) => {
                tracing::debug!("task paused");
                return lease.forget();
            }
            Err(StoreFailed) => return lease.release_after(STORE_PAUSE),
        },
        outcome = running.stopped() => outcome.map(|outcome| ended_from_outside(&context, &running.log, outcome)),
        // Another worker has the task, so this run's result would be rejected.
        () = lease.lost() => None,
        () = running.ended_elsewhere() => None,
        () = context.stop.cancelled() => None,
    };
    let Some(outcome) = outcome else { return };
    let status = outcome.status;
    let steps = running.log.steps();
    let exported = context.telemetry.is_on().then(|| (outcome.result.clone(), steps.clone()));
    match lease.finish(&task, outcome, steps).await {
        Ok(true) => {
            tracing::debug!(attempts = task.attempts, ?status, "task finished");
            if let Some((result, steps)) = &exported {
                let agent = agent.get().map(|agent| &**agent);
                context.telemetry.record(EndedRun { task: &task, agent, status, result, steps });
            }
        }
        Ok(false) => {
            tracing::info!("a task was ended elsewhere, or its lease was lost")
        }
        Err(error) => {
            // An end that is not stored is not announced. Returning releases the lease.
            tracing::error!(%error, "a finished task cannot be stored");
            return;
        }
    }
    context.runs.tokens.invalidate(&task.id);
    context.runs.ended.notify_one();
}

/// The run could not continue because the store failed, which is not the task's fault.
struct StoreFailed;

/// Runs the agent and returns the outcome.
async fn outcome(
    context: &WorkerContext,
    task: &Task,
    fence: Fence,
    log: &RunLog,
    used: &OnceLock<Arc<Agent>>,
) -> Result<RunEnd, StoreFailed> {
    if task.attempts > context.settings.attempts_max {
        let reason = format!(
            "given up after {} attempts, all ended by the death of a worker (fault: host)",
            task.attempts - 1
        );
        context.runner.show_recorded(task, log).await.map_err(|error| store_failed(&error))?;
        return Ok(RunEnd::Ended(end_with_reason(context, log, EndStatus::Error, reason)));
    }
    match context.agent(task).await {
        Ok(Some(agent)) => {
            let agent = used.get_or_init(|| agent);
            let is_resumed = fence > Fence(1);
            let may_be_stored = is_resumed || !agent.definition.mcp_servers.is_empty();
            let tokens = context.runs.user_tokens(task, may_be_stored).await;
            let tokens = tokens.map_err(|error| store_failed(&error))?;
            let time_max = context.settings.run_time_max;
            let run = RunContext { tokens, log, fence, time_max };
            match context.runner.run(agent, task, run).await {
                Ok(end) => Ok(end),
                Err(error) => Err(store_failed(&error)),
            }
        }
        Ok(None) => {
            let reason = "the agent does not exist any more".to_owned();
            context.runner.show_recorded(task, log).await.map_err(|error| store_failed(&error))?;
            Ok(RunEnd::Ended(end_with_reason(context, log, EndStatus::Failed, reason)))
        }
        Err(error) => Err(store_failed(&error)),
    }
}

fn store_failed(error: &StoreError) -> StoreFailed {
    tracing::error!(%error, "a run cannot go on and goes back");
    StoreFailed
}

/// Ends a run that was stopped while it was in progress.
fn ended_from_outside(context: &WorkerContext, log: &RunLog, outcome: Outcome) -> Outcome {
    log.abandon_calls(context.runner.clock.now());
    match outcome.status {
        EndStatus::Completed => outcome,
        status => end_with_reason(context, log, status, outcome.result),
    }
}

/// Ends a run that has no outcome of its own, and records the reason as a step.
fn end_with_reason(
    context: &WorkerContext,
    log: &RunLog,
    status: EndStatus,
    reason: String,
) -> Outcome {
    let event = Event::Failure { reason: reason.clone() };
    log.push(RunEvent::StepCompleted(Step { at: context.runner.clock.now(), micros: 0, event }));
    Outcome { status, result: reason }
}
