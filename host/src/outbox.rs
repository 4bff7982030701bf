//! Delivers answers: after a task has ended, the replier of its channel sends the answer to the provider, if the
//! channel says so. A delivery is stored with its task and retried until it succeeds or is given up, even if
//! processes die in between: at least once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::answer::PostRunRecorder;
use crate::channel::{Channels, DeliverError, Delivery};
use crate::fault::Fault;
use crate::ids::TenantId;
use crate::plugins::Plugins;
use crate::sandbox::{PluginError, Refusal};
use crate::store::{Capacity, DueDelivery, Store, StoreError};
use crate::tasks::DeliveryEnd;

/// Maximum number of concurrent deliveries, in total and of one tenant. A tenant gets fewer while others have some.
const IN_FLIGHT_MAX: usize = 64;
const IN_FLIGHT_PER_TENANT_MAX: usize = 8;

/// The time limit of one attempt, and how long until an attempt whose worker died is retried.
const ATTEMPT_TIME_MAX: Duration = Duration::from_secs(120);
const LEASE: Duration = Duration::from_secs(150);

/// Maximum number of attempts at a delivery, over about six hours.
const ATTEMPTS_MAX: u32 = 8;

/// The longest failure reason that is stored, in characters: a plugin words it, and lists show it.
const REASON_CHARS_MAX: usize = 1_000;

/// The pause between two attempts grows from the first to the second of these.
const PAUSES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_hours(4));

/// The longest and the shortest time between two polls for due deliveries.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const POLL_DEBOUNCE: Duration = Duration::from_millis(20);

/// What the outbox needs to deliver answers.
#[derive(Debug, Clone)]
pub struct Deliveries {
    /// Stores the deliveries.
    pub store: Store,
    /// Runs the repliers.
    pub plugins: Plugins,
    /// Knows each channel's replier.
    pub channels: Channels,
    /// Records the attempts in the tasks' traces.
    pub post_run: PostRunRecorder,
}

/// The outbox of one gateway process. It delivers until it is stopped.
#[derive(Debug)]
pub struct Outbox {
    stop: CancellationToken,
    abort: CancellationToken,
    attempts: TaskTracker,
    serving: TaskTracker,
}

impl Drop for Outbox {
    /// A gateway that is dropped without being stopped starts no further deliveries.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Outbox {
    /// Starts delivering what is due. `wake` is notified when a task has ended.
    #[must_use]
    pub fn start(deliveries: Deliveries, wake: Arc<Notify>) -> Self {
        let outbox = Self {
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
            attempts: TaskTracker::new(),
            serving: TaskTracker::new(),
        };
        let (attempts, stop, abort) =
            (outbox.attempts.clone(), outbox.stop.clone(), outbox.abort.clone());
        outbox.serving.spawn(deliveries.serve(wake, attempts, stop, abort));
        outbox
    }

    /// Stops starting deliveries and gives those in progress `drain` to end. One that is cut off is due again when
    /// its lease expires.
    pub async fn stop(self, drain: Duration) {
        self.stop.cancel();
        self.serving.close();
        self.serving.wait().await;
        self.attempts.close();
        if tokio::time::timeout(drain, self.attempts.wait()).await.is_err() {
            self.abort.cancel();
            self.attempts.wait().await;
        }
    }
}

impl Deliveries {
    /// Delivers what is due until `stop` is cancelled. `wake` is notified when a task has ended.
    async fn serve(
        self,
        wake: Arc<Notify>,
        attempts: TaskTracker,
        stop: CancellationToken,
        abort: CancellationToken,
    ) {
        let in_flight = Arc::new(InFlight::default());
        let mut last = None;
        loop {
            let held = in_flight.by_tenant();
            let free = IN_FLIGHT_MAX.saturating_sub(held.values().sum());
            let capacity =
                Capacity { wanted: free, free, per_tenant_max: IN_FLIGHT_PER_TENANT_MAX };
            match self.store.take_deliveries(capacity, held, last, LEASE).await {
                Ok(due) => {
                    last = due.last().map(|due| due.tenant).or(last);
                    for due in due {
                        let guard = InFlight::guard(&in_flight, due.tenant);
                        let (deliveries, abort) = (self.clone(), abort.clone());
                        let wake = Arc::clone(&wake);
                        let span = tracing::error_span!(
                            "delivery",
                            task = %due.task,
                            tenant = %due.tenant,
                            channel = %due.channel
                        );
                        let attempt = async move {
                            tokio::select! {
                                () = deliveries.attempt(due) => {}
                                // Due again when its lease expires.
                                () = abort.cancelled() => {}
                            }
                            drop(guard);
                            // The tenant may have had no room for another delivery until now.
                            wake.notify_one();
                        };
                        attempts.spawn(attempt.instrument(span));
                    }
                }
                Err(error) => tracing::error!(%error, "no deliveries can be taken"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = wake.notified() => tokio::time::sleep(POLL_DEBOUNCE).await,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
    }

    /// Attempts one delivery and stores the result.
    async fn attempt(&self, due: DueDelivery) {
        let tried = tokio::time::timeout(ATTEMPT_TIME_MAX, self.deliver(due)).await;
        let end =
            match tried.unwrap_or_else(|_| Err(DeliveryFailure::transient("it took too long"))) {
                Ok(()) => DeliveryEnd::Delivered,
                Err(DeliveryFailure { reason, retry_after: Some(after) })
                    if due.attempts < ATTEMPTS_MAX =>
                {
                    DeliveryEnd::Again { after: after.max(pause(due.attempts)), reason }
                }
                Err(DeliveryFailure { reason, .. }) => {
                    tracing::warn!(attempts = due.attempts, %reason, "a delivery is given up");
                    DeliveryEnd::Dead { reason }
                }
            };
        self.record_end(due, end).await;
    }

    async fn record_end(&self, due: DueDelivery, mut end: DeliveryEnd) {
        if let DeliveryEnd::Again { reason, .. } | DeliveryEnd::Dead { reason } = &mut end {
            shorten(reason);
        }
        if let Err(error) = self.store.end_delivery(due.task, end).await {
            tracing::error!(%error, "a delivery's end cannot be noted; it will be made again");
        }
    }

    async fn deliver(&self, due: DueDelivery) -> Result<(), DeliveryFailure> {
        let gone = |what: &str| DeliveryFailure { reason: what.to_owned(), retry_after: None };
        let channel = self.store.channel(due.channel).await?;
        let channel = channel.ok_or_else(|| gone("its channel does not exist any more"))?;
        let replier = channel.definition.replier.clone();
        let replier = replier.ok_or_else(|| gone("its channel has no replier any more"))?;
        let task = self.store.task(due.tenant, due.task).await?;
        let task = task.ok_or_else(|| gone("its task does not exist any more"))?;
        let agent = self.store.agent(due.tenant, task.agent).await?;
        let agent = agent.ok_or_else(|| gone("its agent does not exist any more"))?;
        let stored_request = self.store.request(due.tenant, due.task).await?;
        let stored_request = stored_request.ok_or_else(|| gone("its request was not kept"))?;
        let delivery = Delivery {
            channel: &channel,
            replier: &replier,
            agent: &agent,
            task: &task,
            request: stored_request,
        };
        let (delivered, event) = self.channels.deliver(&self.plugins, delivery).await?;
        self.post_run.record(due.tenant, due.task, event).await;
        delivered.map_err(|error| DeliveryFailure::from_plugin(&replier.to_string(), &error))
    }
}

/// Why a delivery failed, and after how long it may be retried, if it may.
struct DeliveryFailure {
    reason: String,
    retry_after: Option<Duration>,
}

impl DeliveryFailure {
    fn transient(reason: &str) -> Self {
        Self { reason: reason.to_owned(), retry_after: Some(Duration::ZERO) }
    }

    fn from_plugin(plugin: &str, error: &PluginError) -> Self {
        let retry_after = match error {
            PluginError::Failure(failure) => {
                let is_transient =
                    matches!(failure.code.as_str(), "upstream" | "timeout" | "rate-limited");
                let after = failure.retry_after_ms.map(Duration::from_millis);
                after.or_else(|| is_transient.then_some(Duration::ZERO))
            }
            PluginError::Refusal(Refusal::Quarantined { retry_after_ms, .. }) => {
                Some(Duration::from_millis(*retry_after_ms))
            }
            PluginError::Refusal(refusal) => {
                let is_transient = refusal.fault() == Fault::Host
                    || matches!(refusal.underlying(), Refusal::Deadline { .. });
                is_transient.then_some(Duration::ZERO)
            }
        };
        let retry_after = retry_after.map(|after| after.min(PAUSES.1));
        Self { reason: format!("plugin {plugin}: {error}"), retry_after }
    }
}

impl From<StoreError> for DeliveryFailure {
    fn from(error: StoreError) -> Self {
        Self::transient(&error.to_string())
    }
}

impl From<DeliverError> for DeliveryFailure {
    fn from(error: DeliverError) -> Self {
        match error {
            error @ DeliverError::RequestUnreadable => {
                Self { reason: error.to_string(), retry_after: None }
            }
            error => Self::transient(&error.to_string()),
        }
    }
}

fn shorten(reason: &mut String) {
    if let Some((end, _)) = reason.char_indices().nth(REASON_CHARS_MAX) {
        reason.truncate(end);
    }
}

/// The pause after this many attempts: four times the previous one, plus up to a tenth of jitter, so that deliveries
/// that failed together are not retried together.
fn pause(attempts: u32) -> Duration {
    let factor = 4_u32.saturating_pow(attempts.saturating_sub(1).min(12));
    let pause = PAUSES.0.saturating_mul(factor).min(PAUSES.1);
    pause + pause.mul_f64(rand::random::<f64>() / 10.0)
}

/// The number of deliveries in progress of each tenant.
#[derive(Debug, Default)]
struct InFlight(Mutex<HashMap<TenantId, usize>>);

/// Counts one delivery in progress. Dropping it makes room for another.
struct InFlightGuard {
    in_flight: Arc<InFlight>,
    tenant: TenantId,
}

impl InFlight {
    fn by_tenant(&self) -> HashMap<TenantId, usize> {
        self.counts().clone()
    }

    fn guard(in_flight: &Arc<Self>, tenant: TenantId) -> InFlightGuard {
        *in_flight.counts().entry(tenant).or_default() += 1;
        InFlightGuard { in_flight: Arc::clone(in_flight), tenant }
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<TenantId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let mut counts = self.in_flight.counts();
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_have_an_end() {
        let seconds: Vec<_> = (1..=8).map(|attempts| pause(attempts).as_secs()).collect();
        for (pause, min) in seconds.iter().zip([5, 20, 80, 320, 1_280, 5_120, 14_400, 14_400]) {
            assert!((min..=min + min / 10 + 1).contains(pause), "{seconds:?}");
        }
    }

    #[test]
    fn a_reason_is_kept_no_longer_than_a_list_can_show() {
        for (given, expected) in [(0, 0), (1_000, 1_000), (1_001, 1_000), (1 << 20, 1_000)] {
            let mut reason = "ü".repeat(given);
            shorten(&mut reason);
            assert_eq!(reason.chars().count(), expected);
        }
    }

    #[test]
    fn places_are_counted_by_tenant_and_given_back() {
        let (in_flight, tenant) = (Arc::new(InFlight::default()), TenantId::random());
        let guards = [0; 2].map(|_| InFlight::guard(&in_flight, tenant));
        let other = InFlight::guard(&in_flight, TenantId::random());
        assert_eq!(in_flight.by_tenant().get(&tenant), Some(&2));
        drop((guards, other));
        assert!(in_flight.by_tenant().is_empty());
    }
}
