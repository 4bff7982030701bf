//! Finishes tasks: the outcome and the steps of the attempt that produced it, in one transaction.
//!
//! Only a finish writes the steps of a run. What earlier attempts did is in the run's journal (`journal`), which a finish
//! deletes; the attempt that finishes has taken it over. Steps after the end of a run are added by `post_run`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::chunks;
use super::chunks::{Chunked, Chunker, LongWrite, Part};
use super::deliveries::make_due_statement;
use super::journal::DELETE_JOURNAL;
use super::lease::end_leases;
use super::steps::StoredStep;
use crate::ids::{OwnerId, TaskId, TenantId};
use crate::store::changes::Change;
use crate::store::fair_queue::Flow;
use crate::store::rows;
use crate::store::sqlite::{BatchScript, BatchStatement, execute};
use crate::store::write::{Queued, Session, Write};
use crate::store::writer::Op;
use crate::store::{Store, StoreError};
use crate::tasks::{EndStatus, Fence, Outcome, Status, Task};
use crate::trace::{Event, Step};

/// Ends tasks whose leases are deleted, and makes the deliveries of their answers due. The plus sign keeps the
/// planner from building an index over `finish` and scanning all tasks.
pub(in crate::store) static END: BatchScript<3> = BatchScript::new([
    BatchStatement::new(
        "UPDATE tasks SET ended = finish.column2, result = finish.column3, \
         attempts = finish.column4, started_at = finish.column5, finished_at = ? FROM (VALUES",
        "(?, ?, ?, ?, ?)",
        ") AS finish WHERE tasks.sequence = +finish.column1",
    ),
    make_due_statement(),
    BatchStatement::new("DELETE FROM sealed_tokens WHERE task_sequence IN (", "?", ")"),
]);

static INSERT_STEPS: BatchStatement = BatchStatement::new(
    "INSERT INTO steps (task_sequence, position, at, micros, event, quotes, quoted_at) VALUES",
    "(?, ?, ?, ?, ?, ?, ?)",
    "",
);

static INSERT_RESTS: BatchStatement =
    BatchStatement::new("INSERT INTO result_rests (task_sequence, rest) VALUES", "(?, ?)", "");

impl Store {
    /// Ends a task, given as it was claimed, and stores its steps in the same commit. Returns false, with nothing
    /// stored, if the fence is not that of the task's lease: another worker has the task now, or has finished it.
    ///
    /// # Errors
    /// If the commit cannot be synced ([`StoreError::Unavailable`]).
    pub async fn finish(
        &self,
        task: &Task,
        fence: Fence,
        outcome: Outcome,
        steps: &[Step],
    ) -> Result<bool, StoreError> {
        let finish = Finish::new(self.0.owner, task, fence, outcome, steps)
            .map_err(|error| StoreError::serialization(Finish::OPERATION, error))?;
        self.queue_long(finish, Op::Finish).await
    }
}

/// The end of a task's run, with texts that can be bound without being copied.
pub(in crate::store) struct Finish {
    owner: OwnerId,
    tenant: TenantId,
    id: TaskId,
    sequence: i64,
    fence: Fence,
    status: EndStatus,
    /// See [`rows::stored_result`].
    result: Arc<str>,
    rest: Option<Arc<str>>,
    steps: Vec<StoredStep>,
    /// False for a run that completed in its first attempt without calling a tool.
    may_have_journal: bool,
    /// The texts that are written ahead; their fields here are empty.
    chunked: Option<Chunked>,
}

impl Write for Finish {
    type Answer = bool;
    const OPERATION: &'static str = "finish a task";

    fn flow(&self) -> Flow {
        Flow::Runs(self.tenant)
    }

    fn change(&self, has_ended: &bool) -> Option<Change> {
        has_ended.then_some(Change::TaskEnded(self.id))
    }

    fn bytes(&self) -> usize {
        let steps: usize = self.steps.iter().map(|step| step.event.len()).sum();
        self.result.len() + self.rest.as_ref().map_or(0, |rest| rest.len()) + steps
    }
}

impl LongWrite for Finish {
    fn cut(&mut self, chunker: &mut Chunker) {
        if let Some(rest) = &mut self.rest {
            chunker.text(Part::Rest, rest);
        }
        for (position, step) in (0..).zip(&mut self.steps) {
            chunker.text(Part::Event(position), &mut step.event);
        }
    }

    fn chunked(&mut self) -> &mut Option<Chunked> {
        &mut self.chunked
    }

    fn is_applied(answer: &bool) -> bool {
        *answer
    }
}

impl Finish {
    pub(in crate::store) fn new(
        owner: OwnerId,
        task: &Task,
        fence: Fence,
        outcome: Outcome,
        steps: &[Step],
    ) -> Result<Self, serde_json::Error> {
        let calls_tools = |step: &Step| matches!(&step.event, Event::Model { tool_calls, .. } if !tool_calls.is_empty());
        // A run that was stopped may have been about to record its first step.
        let may_have_journal = task.attempts > 1
            || outcome.status != EndStatus::Completed
            || steps.iter().any(calls_tools);
        let stored = |step| StoredStep::new(step, &task.input.payload, &outcome.result);
        let steps = steps.iter().map(stored).collect::<Result<_, _>>()?;
        let (result, rest) = rows::stored_result(outcome.result);
        Ok(Self {
            owner,
            tenant: task.tenant,
            id: task.id,
            sequence: task.sequence,
            fence,
            status: outcome.status,
            result,
            rest,
            steps,
            may_have_journal,
            chunked: None,
        })
    }
}

/// Ends every task whose fence holds, and answers for each whether it did.
pub(in crate::store) async fn apply_finishes(
    finishes: &mut [Queued<Finish>],
    session: &mut Session<'_>,
) -> sqlx::Result<()> {
    // Of two finishes with the same fence only the first is tried: a statement with both would choose either one.
    let mut firsts = HashMap::with_capacity(finishes.len());
    for finish in finishes.iter().map(|one| &one.write) {
        firsts.entry((finish.sequence, finish.fence)).or_insert(finish);
    }
    let mut ended = end(&firsts, session).await?;
    let (mut steps, mut rests, mut chunked) = (Vec::new(), Vec::new(), Vec::new());
    for finish in finishes {
        let sequence = finish.write.sequence;
        let has_ended = ended.remove(&(sequence, finish.write.fence));
        finish.set_answer(has_ended);
        if has_ended {
            if finish.write.may_have_journal {
                execute(sqlx::query(DELETE_JOURNAL).bind(sequence), session.db).await?;
            }
            steps.extend((0_i64..).zip(&finish.write.steps).map(|(at, step)| (sequence, at, step)));
            rests.extend(finish.write.rest.as_ref().map(|rest| (sequence, Arc::clone(rest))));
            chunked.extend(finish.write.chunked.as_ref().map(|chunked| (sequence, 0, chunked)));
        }
    }
    insert_steps(&steps, session).await?;
    insert_rests(&rests, session).await?;
    chunks::claim(&chunked, session).await
}

/// Ends the tasks whose leases hold, and returns them.
async fn end(
    finishes: &HashMap<(i64, Fence), &Finish>,
    session: &mut Session<'_>,
) -> sqlx::Result<HashSet<(i64, Fence)>> {
    let Some(owner) = finishes.values().next().map(|finish| finish.owner) else {
        return Ok(HashSet::new());
    };
    let leases: Vec<_> =
        finishes.values().map(|finish| (finish.tenant, finish.sequence, finish.fence)).collect();
    let held = end_leases(owner, &leases, session).await?;
    for (sql, part) in END.parts(&held) {
        let mut query = sqlx::query(sql).bind(session.now.micros());
        for lease in part {
            let Some(finish) = finishes.get(&(lease.sequence, lease.fence)) else { continue };
            query = query
                .bind(lease.sequence)
                .bind(Status::from(finish.status).as_str())
                .bind(Arc::clone(&finish.result))
                .bind(lease.attempts)
                .bind(lease.started_at);
        }
        query = query.bind(session.now.micros());
        for lease in part.iter().chain(part) {
            query = query.bind(lease.sequence);
        }
        END.fetch_rows(query, session.db).await?;
    }
    Ok(held.iter().map(|lease| (lease.sequence, lease.fence)).collect())
}

/// Inserts steps, each with its task's sequence and its position among the task's steps.
async fn insert_steps(
    steps: &[(i64, i64, &StoredStep)],
    session: &mut Session<'_>,
) -> sqlx::Result<()> {
    for (sql, part) in INSERT_STEPS.parts(steps) {
        let mut query = sqlx::query(sql);
        for (sequence, position, step) in part {
            query = query
                .bind(*sequence)
                .bind(*position)
                .bind(step.at)
                .bind(step.micros)
                .bind(Arc::clone(&step.event))
                .bind(step.quote.map(|quote| quote.source))
                .bind(step.quote.map(|quote| quote.offset));
        }
        execute(query, session.db).await?;
    }
    Ok(())
}

/// Inserts those parts of results that exceed what the rows of their tasks hold.
pub(in crate::store) async fn insert_rests(
    rests: &[(i64, Arc<str>)],
    session: &mut Session<'_>,
) -> sqlx::Result<()> {
    for (sql, part) in INSERT_RESTS.parts(rests) {
        let mut query = sqlx::query(sql);
        for (sequence, rest) in part {
            query = query.bind(*sequence).bind(Arc::clone(rest));
        }
        execute(query, session.db).await?;
    }
    Ok(())
}
