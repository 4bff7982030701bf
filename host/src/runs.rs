//! What starts and ends a run. One path: a synchronous caller waits for the same task that an asynchronous one
//! would poll. `submit` makes a task of a call, `worker` runs it under a `lease`, `registry` knows what runs here
//! and who follows it.

mod lease;
mod registry;
mod submit;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{Mutex, Notify};

use crate::ids::{TaskId, TenantId};
use crate::secrets::UserTokens;
use crate::store::{Store, StoreError};
use crate::tasks::{Accepted, EndStatus, NewTask, Outcome, Task};
pub use registry::Follower;
use registry::Registry;
pub use submit::{Conflict, Submission, SubmitError};
pub use worker::{Workers, start};

/// How long whoever asks a run to stop waits until it has. It drops what it is in the middle of, so this
/// is for a machine that stalls.
const STOP_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long tokens of users wait for their run, and how many bytes of them. A run that begins later goes
/// on without.
const TOKENS_WAIT_MAX: Duration = Duration::from_hours(1);
const TOKENS_BYTES_MAX: u64 = 64 << 20;

/// What a stopped task says of itself.
pub const STOPPED: &str = "stopped on request";

/// The runs of one gateway process. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Runs {
    store: Store,
    wake: Arc<Notify>,
    registry: Registry,
    /// Held while tasks are claimed, until their runs have begun: whoever has it knows that every task
    /// that this process has claimed is among those that it watches.
    claiming: Arc<Mutex<()>>,
    /// Somebody's answer may have to be delivered.
    ended: Arc<Notify>,
    /// In memory only: they must be in no store (CONTRACT X8).
    tokens: Cache<TaskId, UserTokens>,
}

impl Runs {
    /// Accepts tasks and runs none; [`start`] makes workers.
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
            wake: Arc::default(),
            registry: Registry::new(store.changes().clone()),
            claiming: Arc::default(),
            ended: Arc::default(),
            tokens,
            store,
        }
    }

    /// Stores a task, synced, and wakes a worker for it. The user's tokens wait in memory for its run.
    ///
    /// # Errors
    /// When the store cannot take it; nothing is stored then.
    async fn accept(&self, task: NewTask, tokens: UserTokens) -> Result<Accepted, StoreError> {
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

    /// Notified when a task has ended whose answer may have to be delivered.
    #[must_use]
    pub fn ended(&self) -> Arc<Notify> {
        Arc::clone(&self.ended)
    }

    /// Follows a task. To miss nothing, follow it before it is accepted, or before it is read.
    #[must_use]
    pub fn follow(&self, task: TaskId) -> Follower {
        self.registry.follow(task)
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
        if self.registry.stop(id, &outcome) {
            let _ = tokio::time::timeout(STOP_WAIT_MAX, follower.ended()).await;
        }
        if self.store.end(tenant, id, outcome.clone()).await? {
            // Whoever runs it has lost it. It may have been claimed just before, and not have begun.
            drop(self.claiming.lock().await);
            self.registry.stop(id, &outcome);
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
