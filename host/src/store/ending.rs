//! What a task's owner does to it from outside: ending it, whoever runs it, and deleting it.

use sqlx::Row as _;

use super::deliveries::make_due;
use super::sqlite::{execute, fetch};
use super::writer::{Refusal, Session, Write, WriteAlone};
use super::{Store, StoreError};
use crate::ids::{TaskId, TenantId};
use crate::tasks::{Outcome, Status};

pub(super) const END_BY_OWNER: &str = "\
    UPDATE tasks SET status = ?, result = ?, finished_at = ?, lease_until = NULL, fence = fence + 1 \
    WHERE id = ? AND tenant_id = ? AND status IN ('pending', 'executing', 'paused') \
    RETURNING sequence";

pub(super) const FINAL_BY_OWNER: &str = "\
    SELECT sequence FROM tasks WHERE id = ? AND tenant_id = ? \
    AND status IN ('error', 'failed', 'completed', 'stopped')";

/// Everything that belongs to a task, in an order that no reference forbids. The key goes with it: none
/// points at a task that does not exist (CONTRACT section 4).
pub(super) const DELETE: [&str; 6] = [
    "DELETE FROM deliveries WHERE task_sequence = ?",
    "DELETE FROM requests WHERE task_sequence = ?",
    "DELETE FROM steps WHERE task_sequence = ?",
    "DELETE FROM idempotency WHERE task_sequence = ?",
    "DELETE FROM inputs WHERE task_sequence = ?",
    "DELETE FROM tasks WHERE sequence = ?",
];

impl Store {
    /// Ends a task of this tenant, unless it has ended. Whoever runs it has lost its lease. False where
    /// nothing changed.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn end(
        &self,
        tenant: TenantId,
        id: TaskId,
        outcome: Outcome,
    ) -> Result<bool, StoreError> {
        self.write(End { tenant, id, outcome }).await
    }

    /// Deletes a task of this tenant that has ended, with its payload, its steps and its idempotency
    /// key. False where there is none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn delete_task(&self, tenant: TenantId, id: TaskId) -> Result<bool, StoreError> {
        self.write(Delete { tenant, id }).await
    }
}

struct End {
    tenant: TenantId,
    id: TaskId,
    outcome: Outcome,
}

impl Write for End {
    type Answer = bool;
    const OPERATION: &'static str = "end a task";
}

impl WriteAlone for End {
    async fn run(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let query = sqlx::query(END_BY_OWNER)
            .bind(Status::from(self.outcome.status).as_str())
            .bind(&self.outcome.result)
            .bind(session.now.micros())
            .bind(self.id.as_bytes().as_slice())
            .bind(self.tenant.as_bytes().as_slice());
        let Some(ended) = fetch(query, session.db).await?.into_iter().next() else {
            return Ok(false);
        };
        make_due(&[ended.try_get(0)?], session).await?;
        Ok(true)
    }
}

struct Delete {
    tenant: TenantId,
    id: TaskId,
}

impl Write for Delete {
    type Answer = bool;
    const OPERATION: &'static str = "delete a task";
}

impl WriteAlone for Delete {
    async fn run(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let query = sqlx::query(FINAL_BY_OWNER)
            .bind(self.id.as_bytes().as_slice())
            .bind(self.tenant.as_bytes().as_slice());
        let Some(row) = fetch(query, session.db).await?.into_iter().next() else {
            return Ok(false);
        };
        let sequence: i64 = row.try_get(0)?;
        for statement in DELETE {
            execute(sqlx::query(statement).bind(sequence), session.db).await?;
        }
        Ok(true)
    }
}
