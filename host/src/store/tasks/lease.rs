//! Leases: which worker runs a task, and until when. A claim is a lease with a fence. Each later write of the worker
//! presents that fence, so that a worker that has lost its lease changes nothing. Leases last as long as their owner,
//! a process, is alive: its heartbeat extends all of them with one row.

use std::collections::HashSet;
use std::time::Duration;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::ids::{OwnerId, TaskId, TenantId};
use crate::store::fair_queue::Flow;
use crate::store::rows;
use crate::store::sqlite::{BatchStatement, execute, fetch};
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::tasks::Fence;

const LEASES_OF_OWNER: &str = "\
    SELECT t.id, l.fence FROM leases l CROSS JOIN tasks t ON t.sequence = l.task_sequence \
    WHERE l.owner = ?";

pub(in crate::store) const RENEW_OWNER: &str = "\
    INSERT INTO owners (id, alive_until) VALUES (?1, ?2) \
    ON CONFLICT (id) DO UPDATE SET alive_until = max(alive_until, ?2)";

/// Deletes a task's lease by the task's id, the fence and the owner, to move the task out of `leases`.
pub(in crate::store) const LEASE_OF_TASK: &str = "\
    DELETE FROM leases WHERE (tenant_id, task_sequence) = \
        (SELECT tenant_id, sequence FROM tasks WHERE id = ?) AND fence = ? AND owner = ? \
    RETURNING tenant_id, task_sequence, attempts, fence, started_at";

pub(in crate::store) static LEASES: BatchStatement = BatchStatement::new(
    "DELETE FROM leases WHERE owner = ? AND (tenant_id, task_sequence, fence) IN \
     (SELECT column1, column2, column3 FROM (VALUES",
    "(?, ?, ?)",
    ")) RETURNING tenant_id, task_sequence, attempts, fence, started_at",
);

const ORPHANED: &str = "\
    DELETE FROM leases WHERE owner NOT IN (SELECT id FROM owners WHERE alive_until > ?) \
    RETURNING tenant_id, task_sequence, attempts, fence, started_at";

pub(in crate::store) const DUE: &str = "\
    DELETE FROM later WHERE due_at <= ? \
    RETURNING tenant_id, task_sequence, attempts - is_paused, fence, started_at";

pub(in crate::store) const NEXT_DUE: &str = "SELECT due_at FROM later ORDER BY due_at LIMIT 1";

static MAKE_READY: BatchStatement = BatchStatement::new(
    "INSERT INTO ready (tenant_id, task_sequence, attempts, fence, started_at) VALUES",
    "(?, ?, ?, ?, ?)",
    "",
);

/// The state that a task takes along between `ready`, `later` and `leases`.
#[derive(Debug, Clone)]
pub(in crate::store) struct TaskState {
    pub(in crate::store) tenant: TenantId,
    pub(in crate::store) sequence: i64,
    pub(in crate::store) attempts: i64,
    pub(in crate::store) fence: Fence,
    /// When the first attempt started, in microseconds.
    pub(in crate::store) started_at: Option<i64>,
}

/// Columns: tenant_id, task_sequence, attempts, fence, started_at.
pub(in crate::store) fn task_state(row: &SqliteRow) -> sqlx::Result<TaskState> {
    Ok(TaskState {
        tenant: rows::tenant_id(row, 0)?,
        sequence: row.try_get(1)?,
        attempts: row.try_get(2)?,
        fence: Fence(row.try_get(3)?),
        started_at: row.try_get(4)?,
    })
}

/// Makes tasks ready.
pub(super) async fn make_ready(tasks: &[TaskState], session: &mut Session<'_>) -> sqlx::Result<()> {
    for (sql, part) in MAKE_READY.parts(tasks) {
        let mut query = sqlx::query(sql);
        for task in part {
            query = query
                .bind(task.tenant.as_bytes().to_vec())
                .bind(task.sequence)
                .bind(task.attempts)
                .bind(task.fence.0)
                .bind(task.started_at);
        }
        execute(query, session.db).await?;
    }
    Ok(())
}

/// Records that an owner is alive for `lease` from now.
pub(super) async fn renew_owner(
    owner: OwnerId,
    lease: Duration,
    session: &mut Session<'_>,
) -> sqlx::Result<()> {
    let until = session.now.plus(lease);
    let query = sqlx::query(RENEW_OWNER).bind(owner.as_bytes().to_vec()).bind(until.micros());
    execute(query, session.db).await?;
    session.state.alive_until = Some(until);
    Ok(())
}

/// Makes tasks ready whose pause has ended.
pub(super) async fn make_due_ready(session: &mut Session<'_>) -> sqlx::Result<usize> {
    if session.state.next_due.is_none_or(|due| due > session.now.micros()) {
        return Ok(0);
    }
    let due = fetch(sqlx::query(DUE).bind(session.now.micros()), session.db).await?;
    let due = due.iter().map(task_state).collect::<Result<Vec<_>, _>>()?;
    make_ready(&due, session).await?;
    let next = fetch(sqlx::query(NEXT_DUE), session.db).await?;
    session.state.next_due = next.first().map(|row| row.try_get(0)).transpose()?;
    Ok(due.len())
}

/// Records that an owner is alive, and finds which of its leases are lost.
pub(in crate::store) struct Heartbeat {
    pub(in crate::store) owner: OwnerId,
    pub(in crate::store) held: Vec<(TaskId, Fence)>,
    pub(in crate::store) lease: Duration,
}

impl Write for Heartbeat {
    type Answer = Vec<TaskId>;
    const OPERATION: &'static str = "keep leases";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for Heartbeat {
    async fn apply(&self, session: &mut Session<'_>) -> Result<Vec<TaskId>, Refusal> {
        // If the owner counted as dead meanwhile, others may have its tasks: these are no longer among its leases.
        renew_owner(self.owner, self.lease, session).await?;
        let query = sqlx::query(LEASES_OF_OWNER).bind(self.owner.as_bytes().to_vec());
        let current = fetch(query, session.db).await?;
        let current =
            current.iter().map(|row| Ok((rows::task_id(row, 0)?, Fence(row.try_get(1)?))));
        let current = current.collect::<sqlx::Result<HashSet<_>>>()?;
        let lost = self.held.iter().filter(|held| !current.contains(held));
        Ok(lost.map(|(task, _)| *task).collect())
    }
}

/// Makes one executing task pending again, if the fence is that of its lease.
pub(in crate::store) struct Release {
    pub(in crate::store) owner: OwnerId,
    pub(in crate::store) task: TaskId,
    pub(in crate::store) fence: Fence,
    pub(in crate::store) pause: Duration,
}

impl Write for Release {
    type Answer = ();
    const OPERATION: &'static str = "give a task back";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for Release {
    async fn apply(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let query = sqlx::query(LEASE_OF_TASK)
            .bind(self.task.as_bytes().to_vec())
            .bind(self.fence.0)
            .bind(self.owner.as_bytes().to_vec());
        let lease = fetch(query, session.db).await?;
        let Some(task) = lease.first().map(task_state).transpose()? else { return Ok(()) };
        if self.pause.is_zero() {
            make_ready(&[task], session).await?;
            return Ok(());
        }
        let due_at = session.now.plus(self.pause).micros();
        let query = sqlx::query(
            "INSERT INTO later (task_sequence, tenant_id, due_at, attempts, fence, started_at) \
             VALUES (?, ?, ?, ?, ?, ?)",
        )
        .bind(task.sequence)
        .bind(task.tenant.as_bytes().to_vec())
        .bind(due_at)
        .bind(task.attempts)
        .bind(task.fence.0)
        .bind(task.started_at);
        execute(query, session.db).await?;
        let next = session.state.next_due.map_or(due_at, |next| next.min(due_at));
        session.state.next_due = Some(next);
        Ok(())
    }
}

/// Deletes those of an owner's leases whose fences match.
pub(in crate::store) async fn end_leases(
    owner: OwnerId,
    leases: &[(TenantId, i64, Fence)],
    session: &mut Session<'_>,
) -> sqlx::Result<Vec<TaskState>> {
    let mut ended = Vec::with_capacity(leases.len());
    for (sql, part) in LEASES.parts(leases) {
        let mut query = sqlx::query(sql).bind(owner.as_bytes().to_vec());
        for (tenant, sequence, fence) in part {
            query = query.bind(tenant.as_bytes().to_vec()).bind(*sequence).bind(fence.0);
        }
        for row in fetch(query, session.db).await? {
            ended.push(task_state(&row)?);
        }
    }
    Ok(ended)
}

/// Makes tasks ready whose owner is not alive, and those whose pause has ended.
pub(in crate::store) struct RequeueOrphaned;

impl Write for RequeueOrphaned {
    type Answer = u64;
    const OPERATION: &'static str = "take tasks over";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for RequeueOrphaned {
    async fn apply(&self, session: &mut Session<'_>) -> Result<u64, Refusal> {
        let orphaned = sqlx::query(ORPHANED).bind(session.now.micros());
        let orphaned = fetch(orphaned, session.db).await?;
        let orphaned = orphaned.iter().map(task_state).collect::<Result<Vec<_>, _>>()?;
        make_ready(&orphaned, session).await?;
        // A rolled-back write may have left a later time in memory than the store holds, so each beat queries the
        // store.
        session.state.next_due = Some(i64::MIN);
        let due = make_due_ready(session).await?;
        Ok(u64::try_from(orphaned.len() + due).unwrap_or(u64::MAX))
    }
}

/// Makes an owner the only one, and takes over the tasks of its predecessors.
pub(in crate::store) struct ReplaceOwners {
    pub(in crate::store) owner: OwnerId,
    pub(in crate::store) lease: Duration,
}

impl Write for ReplaceOwners {
    type Answer = u64;
    const OPERATION: &'static str = "succeed earlier processes";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for ReplaceOwners {
    async fn apply(&self, session: &mut Session<'_>) -> Result<u64, Refusal> {
        execute(sqlx::query("DELETE FROM owners"), session.db).await?;
        session.state.alive_until = None;
        renew_owner(self.owner, self.lease, session).await?;
        RequeueOrphaned.apply(session).await
    }
}
