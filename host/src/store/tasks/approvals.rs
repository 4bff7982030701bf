//! Approvals: a run pauses its task for a person's decision, which makes the task ready again.

use std::sync::Arc;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::lease::{LEASE_OF_TASK, make_ready, task_state};
use crate::approval::{Approval, ApprovalStatus, CallPosition, Decided, DecidedBy, NewApproval};
use crate::clock::Timestamp;
use crate::ids::{AgentId, ApprovalId, OwnerId, TaskId, TenantId};
use crate::store::fair_queue::Flow;
use crate::store::sqlite::{execute, fetch};
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::{Store, StoreError, rows};
use crate::tasks::{Fence, Task};

/// Selects approvals, in the columns that [`approval`] reads.
macro_rules! select_approvals {
    ($rest:literal) => {
        concat!(
            "SELECT p.id, p.tenant_id, t.id, t.agent_id, p.turn, p.call, p.round, p.tool, p.arguments, p.call_hash, \
             p.created_at, p.expires_at, p.decision, p.decided_at, p.decided_by, p.comment \
             FROM approvals p CROSS JOIN tasks t ON t.sequence = p.task_sequence WHERE ",
            $rest
        )
    };
}

const BY_ID: &str = select_approvals!("p.id = ?");

const OF_TASK: &str = select_approvals!("p.task_sequence = ? ORDER BY p.turn, p.call, p.round");

const PENDING_OF_TENANT: &str = select_approvals!(
    "p.tenant_id = ?1 AND p.decision IS NULL AND (?2 IS NULL OR t.agent_id = ?2) \
     ORDER BY p.created_at DESC, p.id LIMIT ?3"
);

const OF_TENANT: &str = select_approvals!(
    "p.tenant_id = ?1 AND (?2 IS NULL OR t.agent_id = ?2) ORDER BY p.created_at DESC, p.id LIMIT ?3"
);

const DECIDED_OF_TENANT: &str = select_approvals!(
    "p.tenant_id = ?1 AND p.decision = ?4 AND (?2 IS NULL OR t.agent_id = ?2) \
     ORDER BY p.created_at DESC, p.id LIMIT ?3"
);

const INSERT: &str = "\
    INSERT INTO approvals (id, tenant_id, task_sequence, turn, call, round, tool, arguments, call_hash, created_at, \
        expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

const PAUSE: &str = "\
    INSERT INTO later (task_sequence, tenant_id, due_at, attempts, fence, started_at, is_paused) \
    VALUES (?, ?, ?, ?, ?, ?, TRUE)";

pub(in crate::store) const DECIDE: &str = "\
    UPDATE approvals SET decision = ?, decided_at = ?, decided_by = ?, comment = ? \
    WHERE id = ? AND tenant_id = ? AND decision IS NULL AND expires_at > ? RETURNING task_sequence";

pub(in crate::store) const EXPIRE: &str = "\
    UPDATE approvals SET decision = 'expired', decided_at = ?2, decided_by = 'gateway' \
    WHERE task_sequence = ?1 AND decision IS NULL AND expires_at <= ?2";

/// Decides what nobody can decide any more, since the task has ended.
pub(in crate::store) const WITHDRAW: &str = "\
    UPDATE approvals SET decision = 'withdrawn', decided_at = ?2, decided_by = 'gateway' \
    WHERE task_sequence = ?1 AND decision IS NULL";

pub(in crate::store) const ANY_PENDING: &str =
    "SELECT 1 FROM approvals WHERE task_sequence = ? AND decision IS NULL LIMIT 1";

/// The next claim adds an attempt, which resuming after a pause is not.
pub(in crate::store) const RESUME: &str = "\
    DELETE FROM later WHERE task_sequence = ? AND is_paused \
    RETURNING tenant_id, task_sequence, attempts - 1, fence, started_at";

pub(in crate::store) const DELETE_APPROVALS: &str = "DELETE FROM approvals WHERE task_sequence = ?";

/// What a decision has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecideOutcome {
    /// It is stored.
    Done(Approval),
    /// There was a decision before, or the time was up.
    TooLate(Approval),
    /// The tenant has no such approval.
    Unknown,
}

impl Store {
    /// Pauses a task until these approvals and those still pending are decided, at most until `until`. The pause does
    /// not count as an attempt. Returns false, with nothing changed, if the fence is not that of the task's lease.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]).
    pub async fn pause(
        &self,
        task: &Task,
        fence: Fence,
        approvals: Vec<NewApproval>,
        until: Timestamp,
    ) -> Result<bool, StoreError> {
        let (owner, tenant, task) = (self.0.owner, task.tenant, task.id);
        self.write(Pause { owner, tenant, task, fence, approvals: approvals.into(), until }).await
    }

    /// The approvals of a task, in the order of its calls. Those whose time is up are marked as expired.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]).
    pub async fn approvals_of_run(&self, task: &Task) -> Result<Vec<Approval>, StoreError> {
        let (tenant, sequence) = (task.tenant, task.sequence);
        let before = self.approvals_of_task(task).await?;
        if before.iter().all(|approval| approval.decided.is_some()) {
            return Ok(before);
        }
        self.write(Expire { tenant, sequence }).await?;
        self.approvals_of_task(task).await
    }

    /// The approvals of a task, in the order of its calls.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn approvals_of_task(&self, task: &Task) -> Result<Vec<Approval>, StoreError> {
        let query = sqlx::query(OF_TASK).bind(task.sequence);
        self.many("read approvals", query, approval).await
    }

    /// The newest approvals of a tenant, of one agent and one status or of all: at most `limit`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn approvals(
        &self,
        tenant: TenantId,
        agent: Option<AgentId>,
        status: Option<ApprovalStatus>,
        limit: u32,
    ) -> Result<Vec<Approval>, StoreError> {
        let sql = match status {
            None => OF_TENANT,
            Some(ApprovalStatus::Pending) => PENDING_OF_TENANT,
            Some(_) => DECIDED_OF_TENANT,
        };
        let query = sqlx::query(sql)
            .bind(tenant.as_bytes().to_vec())
            .bind(agent.map(|agent| agent.as_bytes().to_vec()))
            .bind(limit);
        let query = match status {
            None | Some(ApprovalStatus::Pending) => query,
            Some(status) => query.bind(status.as_str()),
        };
        self.many("list approvals", query, approval).await
    }

    /// An approval of any tenant: signed links do not name the tenant.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn approval(&self, id: ApprovalId) -> Result<Option<Approval>, StoreError> {
        let query = sqlx::query(BY_ID).bind(id.as_bytes().as_slice());
        self.one("read an approval", query, approval).await
    }

    /// Decides an approval of a tenant, unless that has been done or its time is up. The task is made ready once none
    /// of its approvals is pending.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]).
    pub async fn decide(
        &self,
        tenant: TenantId,
        id: ApprovalId,
        is_approved: bool,
        by: DecidedBy,
        comment: Option<String>,
    ) -> Result<DecideOutcome, StoreError> {
        let decision = if is_approved { ApprovalStatus::Approved } else { ApprovalStatus::Denied };
        let comment = comment.map(Arc::from);
        let is_done = self.write(Decide { tenant, id, decision, by, comment }).await?;
        let found = self.approval(id).await?.filter(|approval| approval.tenant == tenant);
        Ok(match found {
            None => DecideOutcome::Unknown,
            Some(approval) if is_done => DecideOutcome::Done(approval),
            Some(approval) => DecideOutcome::TooLate(approval),
        })
    }
}

/// Reads the columns of `select_approvals`.
fn approval(row: &SqliteRow) -> sqlx::Result<Approval> {
    let decided = match row.try_get::<Option<&str>, _>(12)? {
        None => None,
        Some(decision) => Some(Decided {
            decision: rows::parse(decision)?,
            at: rows::timestamp(row, 13)?,
            by: rows::parsed(row, 14)?,
            comment: row.try_get(15)?,
        }),
    };
    Ok(Approval {
        id: ApprovalId::from_stored(rows::bytes(row, 0)?),
        tenant: rows::tenant_id(row, 1)?,
        task: rows::task_id(row, 2)?,
        agent: rows::agent_id(row, 3)?,
        position: CallPosition {
            turn: row.try_get(4)?,
            call: row.try_get(5)?,
            round: row.try_get(6)?,
        },
        tool: row.try_get(7)?,
        arguments: row.try_get(8)?,
        call_hash: rows::bytes(row, 9)?,
        created_at: rows::timestamp(row, 10)?,
        expires_at: rows::timestamp(row, 11)?,
        decided,
    })
}

struct Pause {
    owner: OwnerId,
    tenant: TenantId,
    task: TaskId,
    fence: Fence,
    approvals: Arc<[NewApproval]>,
    until: Timestamp,
}

impl Write for Pause {
    type Answer = bool;
    const OPERATION: &'static str = "pause a task";

    fn flow(&self) -> Flow {
        Flow::Runs(self.tenant)
    }

    fn bytes(&self) -> usize {
        self.approvals.iter().map(|approval| approval.arguments.len()).sum()
    }
}

impl SingleWrite for Pause {
    async fn apply(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let lease = sqlx::query(LEASE_OF_TASK)
            .bind(self.task.as_bytes().to_vec())
            .bind(self.fence.0)
            .bind(self.owner.as_bytes().to_vec());
        let lease = fetch(lease, session.db).await?;
        let Some(task) = lease.first().map(task_state).transpose()? else { return Ok(false) };
        for approval in &*self.approvals {
            let CallPosition { turn, call, round } = approval.position;
            let insert = sqlx::query(INSERT)
                .bind(approval.id.as_bytes().to_vec())
                .bind(self.tenant.as_bytes().to_vec())
                .bind(task.sequence)
                .bind(turn)
                .bind(call)
                .bind(round)
                .bind(approval.tool.clone())
                .bind(approval.arguments.clone())
                .bind(approval.call_hash.to_vec())
                .bind(session.now.micros())
                .bind(approval.expires_at.micros());
            execute(insert, session.db).await?;
        }
        let due_at = self.until.micros();
        let pause = sqlx::query(PAUSE)
            .bind(task.sequence)
            .bind(task.tenant.as_bytes().to_vec())
            .bind(due_at)
            .bind(task.attempts)
            .bind(task.fence.0)
            .bind(task.started_at);
        execute(pause, session.db).await?;
        let next = session.state.next_due.map_or(due_at, |next| next.min(due_at));
        session.state.next_due = Some(next);
        Ok(true)
    }
}

struct Expire {
    tenant: TenantId,
    sequence: i64,
}

impl Write for Expire {
    type Answer = ();
    const OPERATION: &'static str = "mark approvals as expired";

    fn flow(&self) -> Flow {
        Flow::Runs(self.tenant)
    }
}

impl SingleWrite for Expire {
    async fn apply(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let expire = sqlx::query(EXPIRE).bind(self.sequence).bind(session.now.micros());
        execute(expire, session.db).await?;
        Ok(())
    }
}

struct Decide {
    tenant: TenantId,
    id: ApprovalId,
    decision: ApprovalStatus,
    by: DecidedBy,
    comment: Option<Arc<str>>,
}

impl Write for Decide {
    type Answer = bool;
    const OPERATION: &'static str = "decide an approval";

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }
}

impl SingleWrite for Decide {
    async fn apply(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let now = session.now.micros();
        let decide = sqlx::query(DECIDE)
            .bind(self.decision.as_str())
            .bind(now)
            .bind(self.by.as_str())
            .bind(self.comment.clone())
            .bind(self.id.as_bytes().to_vec())
            .bind(self.tenant.as_bytes().to_vec())
            .bind(now);
        let decided = fetch(decide, session.db).await?;
        let Some(row) = decided.first() else { return Ok(false) };
        let sequence: i64 = row.try_get(0)?;
        if fetch(sqlx::query(ANY_PENDING).bind(sequence), session.db).await?.is_empty() {
            let resumed = fetch(sqlx::query(RESUME).bind(sequence), session.db).await?;
            let resumed = resumed.iter().map(task_state).collect::<Result<Vec<_>, _>>()?;
            make_ready(&resumed, session).await?;
        }
        Ok(true)
    }
}
