//! Starts and ends runs. There is one path: a synchronous caller waits for the same task that an asynchronous one
//! would poll. `submit` turns a call into a task, `worker` runs it under a `lease`, and `registry` tracks which tasks
//! run in this process and who follows them.

mod lease;
mod registry;
mod submit;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{Mutex, Notify};

use crate::approval::DecidedBy;
use crate::ids::{ApprovalId, TaskId, TenantId};
use crate::secrets::{DerivedKey, UserTokens};
use crate::store::{DecideOutcome, Store, StoreError};
use crate::tasks::{EndStatus, Outcome, Task};
pub use registry::Follower;
use registry::Registry;
pub use submit::{Conflict, Submission, SubmitError};
pub use worker::{Workers, start};

/// How long a stop request waits for the run to end. A run drops its current work immediately, so this matters only
/// on a stalled machine.
const STOP_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long user tokens are kept in memory for their run, and the maximum memory for them, in bytes. A run that starts
/// later reads them from the store, where they are sealed.
const TOKENS_TIME_MAX: Duration = Duration::from_hours(1);
const TOKENS_BYTES_MAX: u64 = 64 << 20;

/// The result of a stopped task.
pub const STOPPED: &str = "stopped on request";

/// The runs of one gateway process. Clones share the same state.
#[derive(Debug, Clone)]
pub struct Runs {
    store: Store,
    wake: Arc<Notify>,
    registry: Registry,
    /// Held from claiming tasks until their runs are registered. Its holder can rely on the registry having every
    /// task that this process has claimed.
    claiming: Arc<Mutex<()>>,
    /// Notified when a task has ended: its answer may have to be delivered.
    ended: Arc<Notify>,
    /// They are stored sealed only, and deleted with the end of their task (CONTRACT X8).
    tokens: Cache<TaskId, UserTokens>,
    tokens_key: DerivedKey,
}

impl Runs {
    /// Accepts tasks but runs none; [`start`] starts workers. Tokens of users are sealed with this key.
    #[must_use]
    pub fn new(store: Store, tokens_key: DerivedKey) -> Self {
        let tokens = Cache::builder()
            .weigher(|_, tokens: &UserTokens| {
                u32::try_from(tokens.secrets().map(|secret| secret.len() + 256).sum::<usize>())
                    .unwrap_or(u32::MAX)
            })
            .max_capacity(TOKENS_BYTES_MAX)
            .time_to_live(TOKENS_TIME_MAX)
            .build();
        Self {
            wake: Arc::default(),
            registry: Registry::new(store.changes().clone()),
            claiming: Arc::default(),
            ended: Arc::default(),
            tokens,
            tokens_key,
            store,
        }
    }

    /// The tokens of the user that a task is for: from memory, else from the store if `may_be_stored`, which the first
    /// run of a task in the process that accepted it need not ask.
    ///
    /// # Errors
    /// If the store cannot be read.
    async fn user_tokens(
        &self,
        task: &Task,
        may_be_stored: bool,
    ) -> Result<UserTokens, StoreError> {
        if let Some(tokens) = self.tokens.get(&task.id) {
            return Ok(tokens);
        }
        if !may_be_stored {
            return Ok(UserTokens::default());
        }
        let Some(sealed) = self.store.sealed_tokens(task).await? else {
            return Ok(UserTokens::default());
        };
        let opened = self.tokens_key.unseal(task.id.as_bytes(), &sealed).ok();
        let tokens =
            opened.and_then(|json| UserTokens::parse(std::str::from_utf8(&json).ok()?).ok());
        if tokens.is_none() {
            tracing::warn!(task = %task.id, "the tokens of a task's user cannot be opened, and its run goes on without them");
        }
        Ok(tokens.unwrap_or_default())
    }

    /// Notified when a task has ended whose answer may have to be delivered.
    #[must_use]
    pub fn ended(&self) -> Arc<Notify> {
        Arc::clone(&self.ended)
    }

    /// Follows a task. To miss nothing, call this before the task is accepted or read.
    #[must_use]
    pub fn follow(&self, task: TaskId) -> Follower {
        self.registry.follow(task)
    }

    /// Ends a task of this tenant with this outcome, unless it has already ended, and returns the task as it is then.
    /// Its run is dropped at once, including a tool call that it waits for. `None` if the tenant has no such task.
    ///
    /// # Errors
    /// If the store cannot be used.
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
        // A run of this process ends itself, so that its steps so far are stored.
        let mut follower = self.follow(id);
        if self.registry.stop(id, &outcome) {
            let _ = tokio::time::timeout(STOP_WAIT_MAX, follower.ended()).await;
        }
        if self.store.end(tenant, id, outcome.clone()).await? {
            // Its worker has lost the task. If it was claimed just before, its run may not be registered yet.
            drop(self.claiming.lock().await);
            self.registry.stop(id, &outcome);
            self.ended.notify_one();
            self.tokens.invalidate(&id);
        }
        self.store.task(tenant, id).await
    }

    /// Decides an approval of this tenant, unless that has been done or its time is up. Its task goes on once none of
    /// its approvals is pending.
    ///
    /// # Errors
    /// If the store cannot be used.
    pub async fn decide(
        &self,
        tenant: TenantId,
        id: ApprovalId,
        is_approved: bool,
        by: DecidedBy,
        comment: Option<String>,
    ) -> Result<DecideOutcome, StoreError> {
        let outcome = self.store.decide(tenant, id, is_approved, by, comment).await?;
        if let DecideOutcome::Done(approval) = &outcome {
            let (task, status) = (approval.task, approval.status());
            tracing::info!(approval = %id, %task, %by, %status, "an approval was decided");
            self.wake.notify_one();
        }
        Ok(outcome)
    }

    /// Ends a task of this tenant, if it has not ended, and deletes it with all its data. Returns false if the tenant
    /// has no such task.
    ///
    /// # Errors
    /// If the store cannot be used.
    pub async fn delete(&self, tenant: TenantId, id: TaskId) -> Result<bool, StoreError> {
        let stopped = Outcome { status: EndStatus::Stopped, result: STOPPED.to_owned() };
        match self.end(tenant, id, stopped).await? {
            Some(_) => self.store.delete_task(tenant, id).await,
            None => Ok(false),
        }
    }
}
