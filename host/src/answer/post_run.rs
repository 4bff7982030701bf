//! What plugins are asked about a task that has ended becomes a part of its trace, without anybody waiting.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::ids::{TaskId, TenantId};
use crate::sandbox::{Binding, Called};
use crate::store::Store;
use crate::trace::{Event, Step};

/// Steps on their way to the store at once. Beyond that they are not kept: a caller may ask for one value as
/// fast as he likes, and is not to be slowed down by a store that is slow.
const UNDER_WAY_MAX: usize = 256;

/// Where such calls are noted.
#[derive(Debug, Clone)]
pub struct PostRunRecorder {
    store: Store,
    clock: Clock,
    room: Arc<Semaphore>,
}

impl PostRunRecorder {
    /// For the tasks of this store.
    #[must_use]
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock, room: Arc::new(Semaphore::new(UNDER_WAY_MAX)) }
    }

    /// Notes a call about a task. Whoever made it has his answer already.
    pub fn note(&self, tenant: TenantId, task: TaskId, event: Event) {
        let Ok(turn) = Arc::clone(&self.room).try_acquire_owned() else {
            tracing::warn!(%task, "a call about a task is not kept: too many are on their way");
            return;
        };
        let this = self.clone();
        tokio::spawn(async move {
            let _turn = turn;
            this.keep(tenant, task, event).await;
        });
    }

    /// Keeps a call about a task.
    pub async fn keep(&self, tenant: TenantId, task: TaskId, event: Event) {
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

/// A call about a task as the trace keeps it. The recording and the log lines are taken out of it.
#[must_use]
pub fn called_about<T>(call: &str, binding: &Binding, called: &mut Called<T>) -> Event {
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
