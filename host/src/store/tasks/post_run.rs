//! Steps added after a task's end: calls of plugins about the finished task.

use std::sync::Arc;

use sqlx::Row as _;

use super::chunks;
use super::chunks::{Chunked, Chunker, LongWrite, Part};
use crate::ids::{TaskId, TenantId};
use crate::store::fair_queue::Flow;
use crate::store::sqlite::fetch;
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::writer::Op;
use crate::store::{Store, StoreError};
use crate::trace::Step;

/// The position of the first such step: behind all steps of a run, which are written by its finish.
const FIRST_POSITION: i64 = 1_000_000;

/// The maximum number of such steps per task. A caller may request a value any number of times.
const STEPS_MAX: i64 = 20;

pub(in crate::store) const ADD: &str = "\
    INSERT INTO steps (task_sequence, position, at, micros, event) \
    SELECT t.sequence, coalesce(max(s.position) + 1, ?1), ?2, ?3, ?4 FROM tasks t \
    LEFT JOIN steps s ON s.task_sequence = t.sequence AND s.position >= ?1 \
    WHERE t.id = ?5 AND t.tenant_id = ?7 AND t.ended IS NOT NULL \
    GROUP BY t.sequence HAVING count(s.position) < ?6 RETURNING task_sequence, position";

impl Store {
    /// Adds a step to a task of this tenant that has ended. Nothing happens if the task has not ended or has the
    /// maximum number of such steps.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]).
    pub async fn add_step(
        &self,
        tenant: TenantId,
        task: TaskId,
        step: &Step,
    ) -> Result<(), StoreError> {
        let event = serde_json::to_string(&step.event)
            .map_err(|error| StoreError::serialization(AddStep::OPERATION, error))?;
        let micros = i64::try_from(step.micros).unwrap_or(i64::MAX);
        let (at, event) = (step.at.micros(), event.into());
        let add = AddStep { tenant, task, at, micros, event, chunked: None };
        self.queue_long(add, |waiting| Op::Other(Box::new(waiting))).await.map(drop)
    }
}

struct AddStep {
    tenant: TenantId,
    task: TaskId,
    at: i64,
    micros: i64,
    event: Arc<str>,
    chunked: Option<Chunked>,
}

impl Write for AddStep {
    /// Whether the step was added.
    type Answer = bool;
    const OPERATION: &'static str = "add a step to a task";

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }

    fn bytes(&self) -> usize {
        self.event.len()
    }
}

impl LongWrite for AddStep {
    fn cut(&mut self, chunker: &mut Chunker) {
        chunker.text(Part::Event(0), &mut self.event);
    }

    fn chunked(&mut self) -> &mut Option<Chunked> {
        &mut self.chunked
    }

    fn is_applied(answer: &bool) -> bool {
        *answer
    }
}

impl SingleWrite for AddStep {
    async fn apply(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let query = sqlx::query(ADD)
            .bind(FIRST_POSITION)
            .bind(self.at)
            .bind(self.micros)
            .bind(Arc::clone(&self.event))
            .bind(self.task.as_bytes().as_slice())
            .bind(STEPS_MAX)
            .bind(self.tenant.as_bytes().as_slice());
        let Some(added) = fetch(query, session.db).await?.into_iter().next() else {
            return Ok(false);
        };
        let (sequence, position) = (added.try_get(0)?, added.try_get(1)?);
        let chunked: Option<_> = self.chunked.as_ref().map(|chunked| (sequence, position, chunked));
        chunks::claim(chunked.as_slice(), session).await?;
        Ok(true)
    }
}
