//! Accepts, leases and finishes tasks through the writer, and reads them.

pub(super) mod accept;
pub(super) mod approvals;
pub(super) mod chunks;
pub(super) mod claim;
pub(super) mod deliveries;
pub(super) mod ending;
pub(super) mod finish;
pub(super) mod housekeeping;
pub(super) mod journal;
pub(super) mod lease;
pub(super) mod listing;
pub(super) mod long_writes;
pub(super) mod post_run;
pub(super) mod spending;
pub(super) mod steps;
pub(super) mod turns;

use std::time::Duration;

use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use self::housekeeping::{DeleteExpiredKeys, Shrink};
use self::lease::{Heartbeat, Release, ReplaceOwners, RequeueOrphaned};
use super::rows::whole_text;
use super::rows::{self, select_tasks};
use super::{Store, StoreError, busy};
use crate::ids::{TaskId, TenantId};
use crate::tasks::{Fence, Task};
use crate::trace::Step;

impl Store {
    /// Records that this process is alive for `lease` from now, which extends its leases. Returns those of the given
    /// tasks whose lease is lost: their workers should stop.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]). The leases then expire when they would have.
    pub async fn heartbeat(
        &self,
        held: &[(TaskId, Fence)],
        lease: Duration,
    ) -> Result<Vec<TaskId>, StoreError> {
        self.write(Heartbeat { owner: self.0.owner, held: held.to_vec(), lease }).await
    }

    /// Makes a task pending again, for a worker to claim after `pause` at the earliest. The attempt stays counted.
    /// Nothing happens if the fence is not that of the task's lease.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]). The lease then expires by itself.
    pub async fn release(
        &self,
        task: TaskId,
        fence: Fence,
        pause: Duration,
    ) -> Result<(), StoreError> {
        self.write(Release { owner: self.0.owner, task, fence, pause }).await
    }

    /// Makes this process the only owner of leases, takes over the tasks of the owners before it, and returns how
    /// many tasks became ready. For the start of a process that holds the data folder alone.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]).
    pub async fn replace_owners(&self, lease: Duration) -> Result<u64, StoreError> {
        self.write(ReplaceOwners { owner: self.0.owner, lease }).await
    }

    /// Makes tasks ready whose owner is no longer alive or whose pause has ended, and returns how many.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]).
    pub async fn requeue_orphaned(&self) -> Result<u64, StoreError> {
        self.write(RequeueOrphaned).await
    }

    /// Deletes expired idempotency keys, oldest first, and returns how many. This only saves space: an expired key
    /// counts as free whether it is deleted or not. At most 1,000 are deleted per call, so that no caller waits long
    /// behind it; call it again after it has deleted 1,000.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]).
    pub async fn delete_expired_keys(&self) -> Result<u64, StoreError> {
        self.write(DeleteExpiredKeys).await
    }

    /// Returns some free pages of the file to the file system, as long as they are a large part of it. Returns true
    /// if there are more to return.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]).
    pub async fn shrink(&self) -> Result<bool, StoreError> {
        self.write(Shrink).await
    }

    /// A task of this tenant.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn task(&self, tenant: TenantId, id: TaskId) -> Result<Option<Task>, StoreError> {
        let query = sqlx::query(select_tasks!("t.id = ? AND t.tenant_id = ?"))
            .bind(id.as_bytes().as_slice())
            .bind(tenant.as_bytes().as_slice());
        self.one_task(tenant, "read a task", query, rows::task).await
    }

    /// A task of any tenant, for callers who poll with nothing but its id, which cannot be guessed (CONTRACT D4).
    /// Status and result come from one read, so they are consistent.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn task_by_id(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        let Some(tenant) = self.tenant_of(id).await? else { return Ok(None) };
        let query = sqlx::query(TASK_BY_ID).bind(id.as_bytes().as_slice());
        self.one_task(tenant, "read a task", query, rows::task).await
    }

    /// The tenant of a task, whose turn it is to read the task.
    async fn tenant_of(&self, id: TaskId) -> Result<Option<TenantId>, StoreError> {
        let query = sqlx::query("SELECT tenant_id FROM tasks WHERE id = ?");
        let query = query.bind(id.as_bytes().as_slice());
        self.one("read a task", query, |row| rows::tenant_id(row, 0)).await
    }

    /// The steps of a task, in order, read when it is its tenant's turn for a list. There are none before the task is
    /// finished.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn steps(&self, task: &Task) -> Result<Vec<Step>, StoreError> {
        if !task.status.is_final() {
            // The task may have ended since it was read, and its steps may quote its result.
            let now = self.task_with_steps_by_id(task.id).await?;
            return Ok(now.map(|(_, steps)| steps).unwrap_or_default());
        }
        let query = sqlx::query(STEPS).bind(task.sequence);
        self.list(task.tenant, "read a task's steps", query, |row| steps::step(row, task)).await
    }

    /// A task and its steps from one snapshot; by its id alone, like [`Store::task_by_id`].
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn task_with_steps_by_id(
        &self,
        id: TaskId,
    ) -> Result<Option<(Task, Vec<Step>)>, StoreError> {
        const OPERATION: &str = "read a task and its steps";
        let Some(tenant) = self.tenant_of(id).await? else { return Ok(None) };
        let tasks = self.0.tasks.clone();
        let read = self.read_on_home_runtime(async move {
            let mut turn = tasks.acquire(tenant).await?;
            read_task_with_steps(&mut turn.connection, id).await
        });
        read.await.map_err(|error| busy(OPERATION, error))
    }

    /// The completed tasks of this task's conversation that were accepted before it, oldest first: the newest `limit`
    /// of those with at most `bytes_max` bytes (payload, prompt and result together).
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn thread_tasks(
        &self,
        task: &Task,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Task>, StoreError> {
        const OPERATION: &str = "read a conversation";
        let Some(thread) = &task.thread else { return Ok(Vec::new()) };
        let bytes_max = i64::try_from(bytes_max).unwrap_or(i64::MAX);
        let bound = |statement: &'static str| {
            sqlx::query(statement)
                .bind(task.tenant.as_bytes().as_slice())
                .bind(rows::stored_surface(task.thread_surface))
                .bind(task.agent.as_bytes().as_slice())
                .bind(task.sequence)
                .bind(bytes_max)
        };
        let newest = bound(EARLIER_IN_THREAD)
            .bind(thread.as_str())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let mut newest_first = self.many(OPERATION, newest, rows::task).await?;
        // A conversation that is named after a task's id began with that task.
        if newest_first.len() < limit
            && let Ok(first) = thread.as_str().parse::<TaskId>()
        {
            let first = bound(FIRST_OF_THREAD).bind(first.as_bytes().as_slice());
            newest_first.extend(self.one(OPERATION, first, rows::task).await?);
        }
        newest_first.reverse();
        Ok(newest_first)
    }
}

async fn read_task_with_steps(
    connection: &mut SqliteConnection,
    id: TaskId,
) -> sqlx::Result<Option<(Task, Vec<Step>)>> {
    // Both statements see the snapshot of the first one.
    let mut reading = connection.begin().await?;
    let found: Option<SqliteRow> = sqlx::query(TASK_BY_ID)
        .bind(id.as_bytes().as_slice())
        .fetch_optional(&mut *reading)
        .await?;
    let Some(task) = found.as_ref().map(rows::task).transpose()? else {
        return Ok(None);
    };
    let steps = sqlx::query(STEPS).bind(task.sequence).fetch_all(&mut *reading).await?;
    reading.commit().await?;
    let steps = steps.iter().map(|row| steps::step(row, &task)).collect::<Result<_, _>>()?;
    Ok(Some((task, steps)))
}

/// The conditions on an earlier task of a conversation, and which of these tasks to select.
macro_rules! earlier_tasks {
    ($which:literal) => {
        select_tasks!(
            "t.tenant_id = ?1 AND t.thread_surface = ?2 AND t.agent_id = ?3 AND t.sequence < ?4 \
             AND t.ended = 'completed' \
             AND octet_length(b.payload) + coalesce(octet_length(b.prompt), 0) \
               + coalesce(octet_length(t.result), 0) + coalesce(octet_length(x.rest), 0) \
               + coalesce((SELECT sum(c.octets) FROM chunked_texts c \
                   WHERE c.task_sequence = t.sequence AND c.part IN ('payload', 'prompt', 'rest')), 0) \
               <= ?5 AND ",
            $which
        )
    };
}

const EARLIER_IN_THREAD: &str = earlier_tasks!("t.thread = ?6 ORDER BY t.sequence DESC LIMIT ?7");
const FIRST_OF_THREAD: &str = earlier_tasks!("t.id = ?6");

const TASK_BY_ID: &str = select_tasks!("t.id = ?");

const STEPS: &str = concat!(
    "SELECT s.at, s.micros, ",
    whole_text!("s.event", "event", "s.task_sequence", "s.position"),
    ", s.quotes, s.quoted_at FROM steps s WHERE s.task_sequence = ? ORDER BY s.position"
);
