//! Tasks: accepting, leasing and finishing them through the writer, and reading them.

use std::time::Duration;

use sqlx::sqlite::SqliteRow;

use super::accept::Accept;
use super::finish::Finish;
use super::housekeeping::ForgetExpiredKeys;
use super::lease::{Claim, Extend, GiveBack, TakeBack};
use super::rows::{self, select_tasks};
use super::writer::{Op, Waiting, Write as _};
use super::{Store, StoreError};
use crate::ids::{AgentId, TaskId, TenantId, ThreadId};
use crate::tasks::{Accepted, Claimed, Fence, NewTask, Outcome, Status, Task};
use crate::trace::Step;

impl Store {
    /// Stores a task with its payload and its claim on an idempotency key, and returns once all of it
    /// is synced. Where the key is taken nothing is stored, and the answer names the task that has it:
    /// of any number of callers with one key exactly one gets [`Accepted::New`]. A key is free again
    /// 24 hours after the acceptance of its task.
    ///
    /// Dropping the future does not call the task off.
    ///
    /// # Errors
    /// [`StoreError::Missing`] where the tenant has no such agent, [`StoreError::Conflict`] where the
    /// id is taken, [`StoreError::Unavailable`] where it could not be synced.
    pub async fn accept(&self, task: NewTask) -> Result<Accepted, StoreError> {
        let accept =
            Accept::new(task).map_err(|error| StoreError::unwritable(Accept::OPERATION, error))?;
        let (waiting, answer) = Waiting::new(accept);
        self.queue::<Accept>(Op::Accept(waiting), answer).await
    }

    /// Makes up to `limit` pending tasks executing, for as long as the lease lasts, and counts the
    /// attempt. Tenants take turns, from one claim to the next too: a tenant's next task waits for at
    /// most one task of each other tenant, however many those have in line. No tenant gets more than
    /// `limit_per_tenant` executing at a time, claimed before or now.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; nothing is claimed then.
    pub async fn claim(
        &self,
        limit: usize,
        limit_per_tenant: usize,
        lease: Duration,
    ) -> Result<Vec<Claimed>, StoreError> {
        self.write(Claim { limit, limit_per_tenant, lease }).await
    }

    /// Lets the leases of these tasks end `lease` from now, and returns the tasks whose lease is lost:
    /// their workers should stop.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; the leases end when they would have.
    pub async fn extend(
        &self,
        held: &[(TaskId, Fence)],
        lease: Duration,
    ) -> Result<Vec<TaskId>, StoreError> {
        self.write(Extend { held: held.to_vec(), lease }).await
    }

    /// Makes a task pending again for somebody else to claim. The attempt stays counted. Nothing
    /// happens where the fence is not that of the task's lease.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; the lease will run out by itself.
    pub async fn give_back(&self, task: TaskId, fence: Fence) -> Result<(), StoreError> {
        self.write(GiveBack { task, fence }).await
    }

    /// Ends a task and stores its steps, synced together. False, with nothing stored, where the fence
    /// is not that of the task's lease: somebody else has the task now, or has finished it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where it could not be synced.
    pub async fn finish(
        &self,
        task: TaskId,
        fence: Fence,
        outcome: Outcome,
        steps: Vec<Step>,
    ) -> Result<bool, StoreError> {
        let finish = Finish::new(task, fence, outcome, &steps)
            .map_err(|error| StoreError::unwritable(Finish::OPERATION, error))?;
        let (waiting, answer) = Waiting::new(finish);
        self.queue::<Finish>(Op::Finish(waiting), answer).await
    }

    /// Makes every executing task pending, and returns how many there were. For the start: this
    /// process holds the data folder alone, so the workers that had them are gone.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn take_back_all(&self) -> Result<u64, StoreError> {
        self.write(TakeBack::All).await
    }

    /// Makes the tasks pending whose lease has run out, and returns how many there were.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn expire_leases(&self) -> Result<u64, StoreError> {
        self.write(TakeBack::Expired).await
    }

    /// Deletes idempotency keys that are free again, oldest first, and returns how many. Only to save
    /// room: an expired key counts as free whether it is deleted or not. At most a thousand go at a
    /// time, so that no caller waits long behind it; call it again when a thousand went.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn forget_expired_keys(&self) -> Result<u64, StoreError> {
        self.write(ForgetExpiredKeys).await
    }

    /// A task of this tenant.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn task(&self, tenant: TenantId, id: TaskId) -> Result<Option<Task>, StoreError> {
        let query = sqlx::query(select_tasks!("t.id = ? AND t.tenant_id = ?"))
            .bind(id.as_bytes().as_slice())
            .bind(tenant.as_bytes().as_slice());
        self.one("read a task", query, rows::task).await
    }

    /// A task, whosever it is: for callers who poll with nothing but its id, which cannot be guessed
    /// (CONTRACT D4). Status and result come from one read, so they fit together.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn task_by_id(&self, id: TaskId) -> Result<Option<Task>, StoreError> {
        let query = sqlx::query(TASK_BY_ID).bind(id.as_bytes().as_slice());
        self.one("read a task", query, rows::task).await
    }

    /// The steps of a task of this tenant, in order. None are there before it is finished.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn steps(&self, tenant: TenantId, id: TaskId) -> Result<Vec<Step>, StoreError> {
        let query = sqlx::query(
            "SELECT s.at, s.micros, s.event FROM tasks t JOIN steps s ON s.task_sequence = t.sequence \
             WHERE t.id = ? AND t.tenant_id = ? ORDER BY s.position",
        )
        .bind(id.as_bytes().as_slice())
        .bind(tenant.as_bytes().as_slice());
        self.many("read a task's steps", query, rows::step).await
    }

    /// A task and its steps as of one moment; by its id alone, as [`Store::task_by_id`].
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn task_with_steps_by_id(
        &self,
        id: TaskId,
    ) -> Result<Option<(Task, Vec<Step>)>, StoreError> {
        self.read_task_with_steps(id)
            .await
            .map_err(|error| StoreError::database("read a task and its steps", error))
    }

    async fn read_task_with_steps(&self, id: TaskId) -> sqlx::Result<Option<(Task, Vec<Step>)>> {
        // Both statements see the store as it is when the first one runs.
        let mut reading = self.reads().begin().await?;
        let found: Option<SqliteRow> = sqlx::query(TASK_BY_ID)
            .bind(id.as_bytes().as_slice())
            .fetch_optional(&mut *reading)
            .await?;
        let Some(task) = found.as_ref().map(rows::task).transpose()? else {
            return Ok(None);
        };
        let steps = sqlx::query(
            "SELECT at, micros, event FROM steps WHERE task_sequence = ? ORDER BY position",
        )
        .bind(task.sequence)
        .fetch_all(&mut *reading)
        .await?;
        reading.commit().await?;
        Ok(Some((task, steps.iter().map(rows::step).collect::<Result<_, _>>()?)))
    }

    /// The completed tasks of a conversation that were accepted before the task with this sequence:
    /// the newest `limit` of those that are no longer than `bytes_max` (what was given and the result
    /// together), oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn thread_tasks(
        &self,
        tenant: TenantId,
        agent: AgentId,
        thread: &ThreadId,
        before_sequence: i64,
        limit: usize,
        bytes_max: usize,
    ) -> Result<Vec<Task>, StoreError> {
        let query = sqlx::query(select_tasks!(
            "t.tenant_id = ? AND t.agent_id = ? AND t.thread = ? AND t.sequence < ? \
             AND t.status = 'completed' \
             AND octet_length(i.payload) + coalesce(octet_length(i.prompt), 0) \
               + coalesce(octet_length(t.result), 0) <= ? ORDER BY t.sequence DESC LIMIT ?"
        ))
        .bind(tenant.as_bytes().as_slice())
        .bind(agent.as_bytes().as_slice())
        .bind(thread.as_str())
        .bind(before_sequence)
        .bind(i64::try_from(bytes_max).unwrap_or(i64::MAX))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let mut newest_first = self.many("read a conversation", query, rows::task).await?;
        // A conversation that is named by a task's id began with that task.
        if newest_first.len() < limit
            && let Ok(first) = thread.as_str().parse::<TaskId>()
            && let Some(first) = self.task(tenant, first).await?
            && first.agent == agent
            && first.status == Status::Completed
            && first.sequence < before_sequence
        {
            newest_first.push(first);
        }
        newest_first.reverse();
        Ok(newest_first)
    }
}

const TASK_BY_ID: &str = select_tasks!("t.id = ?");
