//! Records plugin calls about a finished task in its trace, in the background.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::ids::{TaskId, TenantId};
use crate::sandbox::{Binding, Called};
use crate::store::Store;
use crate::trace::{Event, Step};

/// Maximum number of steps being stored at once. Further ones are dropped: a caller may request a value as often as
/// it likes, and must not be slowed down by a slow store.
const IN_FLIGHT_MAX: usize = 256;

/// Records plugin calls about finished tasks.
#[derive(Debug, Clone)]
pub struct PostRunRecorder {
    store: Store,
    clock: Clock,
    permits: Arc<Semaphore>,
}

impl PostRunRecorder {
    /// Creates a recorder for the tasks of this store.
    #[must_use]
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock, permits: Arc::new(Semaphore::new(IN_FLIGHT_MAX)) }
    }

    /// Stores a call in the background. Drops it with a warning if too many are pending.
    pub fn record_in_background(&self, tenant: TenantId, task: TaskId, event: Event) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            tracing::warn!(%task, "a call about a task is not kept: too many are on their way");
            return;
        };
        let this = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            this.record(tenant, task, event).await;
        });
    }

    /// Stores a call and logs a failure.
    pub async fn record(&self, tenant: TenantId, task: TaskId, event: Event) {
        let micros = match &event {
            Event::PluginCall { ran, .. } => ran.cost.micros,
            _ => 0,
        };
        let began = self.clock.now().minus(Duration::from_micros(micros));
        let step = Step { at: began, micros, event };
        if let Err(error) = self.store.add_step(tenant, task, &step).await {
            tracing::warn!(%task, %error, "a call about a task is not kept");
        }
    }
}

/// Builds the trace event of a call about a task. Moves the recording and the log lines out of `called`.
#[must_use]
pub fn plugin_call_event<T>(call: &str, binding: &Binding, called: &mut Called<T>) -> Event {
    Event::PluginCall {
        call: call.to_owned(),
        plugin: binding.name().to_string(),
        path: None,
        value: None,
        error: called.value.as_ref().err().map(ToString::to_string),
        logs: std::mem::take(&mut called.logs),
        ran: Box::new(called.take_run()),
    }
}
