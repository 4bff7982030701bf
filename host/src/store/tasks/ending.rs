//! Ends tasks from outside their runs, whichever worker runs them, and deletes ended tasks.

use std::sync::Arc;

use sqlx::Row as _;

use super::approvals::{DELETE_APPROVALS, WITHDRAW};
use super::chunks;
use super::chunks::{ChunkRange, Chunked, Chunker, LongWrite, Part};
use super::deliveries::make_due;
use super::finish::insert_rests;
use super::journal::DELETE_JOURNAL;
use super::lease::task_state;
use crate::ids::{TaskId, TenantId};
use crate::store::changes::Change;
use crate::store::fair_queue::Flow;
use crate::store::rows;
use crate::store::sqlite::{execute, fetch};
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::writer::Op;
use crate::store::{Store, StoreError};
use crate::tasks::{EndStatus, Outcome, Status};

pub(in crate::store) const OPEN: &str =
    "SELECT sequence FROM tasks WHERE id = ? AND tenant_id = ? AND ended IS NULL";

/// Removes the row of a task that has not ended from whichever table holds it.
pub(in crate::store) const DELETE_STATE: [&str; 3] = [
    "DELETE FROM leases WHERE tenant_id = ? AND task_sequence = ? \
     RETURNING tenant_id, task_sequence, attempts, fence, started_at",
    "DELETE FROM ready WHERE tenant_id = ? AND task_sequence = ? \
     RETURNING tenant_id, task_sequence, attempts, fence, started_at",
    "DELETE FROM later WHERE tenant_id = ? AND task_sequence = ? \
     RETURNING tenant_id, task_sequence, attempts, fence, started_at",
];

const END: &str = "\
    UPDATE tasks SET ended = ?, result = ?, finished_at = ?, attempts = ?, started_at = ? \
    WHERE sequence = ?";

pub(in crate::store) const FINAL_BY_OWNER: &str =
    "SELECT sequence FROM tasks WHERE id = ? AND tenant_id = ? AND ended IS NOT NULL";

pub(in crate::store) const DELETE_SEALED: &str =
    "DELETE FROM sealed_tokens WHERE task_sequence = ?";

/// Deletes everything that belongs to a task, in an order that the foreign keys allow. The idempotency key is deleted
/// too: no key points at a task that does not exist (CONTRACT section 4).
pub(in crate::store) const DELETE: [&str; 10] = [
    DELETE_SEALED,
    DELETE_JOURNAL,
    DELETE_APPROVALS,
    "DELETE FROM chunked_texts WHERE task_sequence = ?",
    "DELETE FROM result_rests WHERE task_sequence = ?",
    "DELETE FROM deliveries WHERE task_sequence = ?",
    "DELETE FROM steps WHERE task_sequence = ?",
    "DELETE FROM idempotency WHERE task_sequence = ?",
    "DELETE FROM bodies WHERE task_sequence = ?",
    "DELETE FROM tasks WHERE sequence = ?",
];

impl Store {
    /// Ends a task of this tenant, unless it has already ended. A worker that runs the task loses its lease. Returns
    /// false if nothing changed.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]).
    pub async fn end(
        &self,
        tenant: TenantId,
        id: TaskId,
        outcome: Outcome,
    ) -> Result<bool, StoreError> {
        let (result, rest) = rows::stored_result(outcome.result);
        let status = outcome.status;
        let end = End { tenant, id, status, result, rest, chunked: None };
        self.queue_long(end, |waiting| Op::Other(Box::new(waiting))).await
    }

    /// Deletes a task of this tenant that has ended, with its payload, its steps and its idempotency key. Returns
    /// false if there is no such task.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]).
    pub async fn delete_task(&self, tenant: TenantId, id: TaskId) -> Result<bool, StoreError> {
        let Some(chunks) = self.write(Delete { tenant, id }).await? else { return Ok(false) };
        // The task is gone; the chunks of its long texts are deleted afterwards.
        self.delete_given_back(Flow::Requests(tenant), chunks).await;
        Ok(true)
    }
}

struct End {
    tenant: TenantId,
    id: TaskId,
    status: EndStatus,
    /// See [`rows::stored_result`].
    result: Arc<str>,
    rest: Option<Arc<str>>,
    chunked: Option<Chunked>,
}

impl Write for End {
    type Answer = bool;
    const OPERATION: &'static str = "end a task";

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }

    fn change(&self, has_ended: &bool) -> Option<Change> {
        has_ended.then_some(Change::TaskEnded(self.id))
    }

    fn bytes(&self) -> usize {
        self.result.len() + self.rest.as_ref().map_or(0, |rest| rest.len())
    }
}

impl LongWrite for End {
    fn cut(&mut self, chunker: &mut Chunker) {
        if let Some(rest) = &mut self.rest {
            chunker.text(Part::Rest, rest);
        }
    }

    fn chunked(&mut self) -> &mut Option<Chunked> {
        &mut self.chunked
    }

    fn is_applied(answer: &bool) -> bool {
        *answer
    }
}

impl SingleWrite for End {
    async fn apply(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let query = sqlx::query(OPEN)
            .bind(self.id.as_bytes().as_slice())
            .bind(self.tenant.as_bytes().as_slice());
        let Some(open) = fetch(query, session.db).await?.into_iter().next() else {
            return Ok(false);
        };
        let sequence: i64 = open.try_get(0)?;
        let mut attempts = (0, None);
        for state in DELETE_STATE {
            let query = sqlx::query(state).bind(self.tenant.as_bytes().as_slice()).bind(sequence);
            if let Some(row) = fetch(query, session.db).await?.first() {
                let was = task_state(row)?;
                attempts = (was.attempts, was.started_at);
            }
        }
        let query = sqlx::query(END)
            .bind(Status::from(self.status).as_str())
            .bind(Arc::clone(&self.result))
            .bind(session.now.micros())
            .bind(attempts.0)
            .bind(attempts.1)
            .bind(sequence);
        execute(query, session.db).await?;
        execute(sqlx::query(DELETE_JOURNAL).bind(sequence), session.db).await?;
        execute(sqlx::query(DELETE_SEALED).bind(sequence), session.db).await?;
        let withdraw = sqlx::query(WITHDRAW).bind(sequence).bind(session.now.micros());
        execute(withdraw, session.db).await?;
        make_due(sequence, session).await?;
        let rest: Option<_> = self.rest.as_ref().map(|rest| (sequence, Arc::clone(rest)));
        insert_rests(rest.as_slice(), session).await?;
        let chunked: Option<_> = self.chunked.as_ref().map(|chunked| (sequence, 0, chunked));
        chunks::claim(chunked.as_slice(), session).await?;
        Ok(true)
    }
}

struct Delete {
    tenant: TenantId,
    id: TaskId,
}

impl Write for Delete {
    /// The chunks of its texts. None if there is no such task.
    type Answer = Option<Vec<ChunkRange>>;
    const OPERATION: &'static str = "delete a task";

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }
}

impl SingleWrite for Delete {
    async fn apply(&self, session: &mut Session<'_>) -> Result<Self::Answer, Refusal> {
        let query = sqlx::query(FINAL_BY_OWNER)
            .bind(self.id.as_bytes().as_slice())
            .bind(self.tenant.as_bytes().as_slice());
        let Some(row) = fetch(query, session.db).await?.into_iter().next() else {
            return Ok(None);
        };
        let sequence: i64 = row.try_get(0)?;
        let given_back = fetch(sqlx::query(chunks::UNCLAIM).bind(sequence), session.db).await?;
        let given_back = given_back.iter().map(chunks::range).collect::<Result<_, _>>()?;
        for statement in DELETE {
            execute(sqlx::query(statement).bind(sequence), session.db).await?;
        }
        Ok(Some(given_back))
    }
}
