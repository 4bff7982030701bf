//! Leases: which worker runs a task, and until when. A claim is a lease with a fence. Each later write of the worker
//! presents that fence, so that a worker that has lost its lease changes nothing. Leases last as long as their owner,
//! a process, is alive: its heartbeat extends all of them with one row.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row as _, Sqlite};

use super::turns;
use super::turns::{Backlogs, Capacity};
use crate::ids::{OwnerId, TaskId, TenantId};
use crate::store::fair_queue::Flow;
use crate::store::rows;
use crate::store::rows::select_tasks;
use crate::store::sqlite::{BatchScript, BatchStatement, execute, fetch};
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::tasks::Fence;

/// Moves tasks from `ready` to `leases`.
pub(in crate::store) static CLAIM: BatchScript<2> = BatchScript::new([
    BatchStatement::new(
        "INSERT INTO leases (tenant_id, task_sequence, owner, attempts, fence, started_at) \
     SELECT r.tenant_id, r.task_sequence, ?, r.attempts + 1, r.fence + 1, coalesce(r.started_at, ?) \
     FROM (VALUES",
        "(?, ?)",
        ") AS claimed CROSS JOIN ready r ON r.tenant_id = claimed.column1 \
     AND r.task_sequence = claimed.column2 RETURNING task_sequence, fence",
    ),
    BatchStatement::new(
        "DELETE FROM ready WHERE (tenant_id, task_sequence) IN (SELECT column1, column2 FROM (VALUES",
        "(?, ?)",
        "))",
    ),
]);

/// Reads the tasks of a claim, on a connection for reads.
pub(in crate::store) static CLAIMED: BatchStatement =
    BatchStatement::new(select_tasks!("t.sequence IN ("), "?", ")");

/// Tenants with ready tasks, after a given tenant in the order of ids. Each step of the recursion is one index
/// look-up, so it costs the same for a short and for a long backlog.
pub(in crate::store) const TENANTS_AFTER: &str = "\
    WITH RECURSIVE turn (tenant_id, number) AS ( \
        SELECT (SELECT tenant_id FROM ready WHERE tenant_id > ?1 ORDER BY tenant_id LIMIT 1), 1 \
        UNION ALL \
        SELECT (SELECT tenant_id FROM ready WHERE tenant_id > turn.tenant_id \
                ORDER BY tenant_id LIMIT 1), number + 1 \
        FROM turn WHERE turn.tenant_id IS NOT NULL AND number < ?2 \
    ) SELECT tenant_id FROM turn WHERE tenant_id IS NOT NULL";

pub(in crate::store) const READY_OF_TENANT: &str = "\
    SELECT task_sequence FROM ready WHERE tenant_id = ? ORDER BY task_sequence LIMIT ? OFFSET ?";

/// Reads as many rows as there are leases, which is as many as tasks are executing.
const LEASES_BY_TENANT: &str = "SELECT tenant_id, count(*) FROM leases GROUP BY tenant_id";

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
    RETURNING tenant_id, task_sequence, attempts, fence, started_at";

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
pub(in crate::store) async fn make_ready(
    tasks: &[TaskState],
    session: &mut Session<'_>,
) -> sqlx::Result<()> {
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
async fn renew_owner(
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
async fn make_due_ready(session: &mut Session<'_>) -> sqlx::Result<usize> {
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

/// Claims ready tasks, tenants taking turns. A tenant at its limit of executing tasks waits for one of them to end.
/// The answer lists the tasks in the order of the turns.
pub(in crate::store) struct Claim {
    pub(in crate::store) owner: OwnerId,
    pub(in crate::store) capacity: Capacity,
    pub(in crate::store) lease: Duration,
}

/// Tasks that are ready to run.
struct Ready;

impl Backlogs for Ready {
    fn tenants<'q>(&self, behind: &'q [u8], limit: i64) -> Query<'q, Sqlite, SqliteArguments> {
        sqlx::query(TENANTS_AFTER).bind(behind).bind(limit)
    }

    fn of_tenant(
        &self,
        tenant: TenantId,
        skip: i64,
        limit: i64,
    ) -> Query<'_, Sqlite, SqliteArguments> {
        sqlx::query(READY_OF_TENANT).bind(tenant.as_bytes().to_vec()).bind(limit).bind(skip)
    }
}

impl Write for Claim {
    type Answer = Vec<(TenantId, i64, Fence)>;
    const OPERATION: &'static str = "claim tasks";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for Claim {
    async fn run(&self, session: &mut Session<'_>) -> Result<Self::Answer, Refusal> {
        make_due_ready(session).await?;
        let executing = executing_by_tenant(session).await?;
        let last = session.state.last_turn;
        let next = turns::next(&Ready, self.capacity, &executing, last, session.db).await?;
        let Some((tenant, _)) = next.last() else { return Ok(Vec::new()) };
        session.state.last_turn = Some(*tenant);
        // Heartbeats record this too. If there has been none recently, as just after the start, a claim records it.
        let until = session.now.plus(self.lease / 3);
        if session.state.alive_until.is_none_or(|alive| alive < until) {
            renew_owner(self.owner, self.lease, session).await?;
        }
        let mut claimed: HashMap<i64, Fence> = HashMap::with_capacity(next.len());
        for (sql, part) in CLAIM.parts(&next) {
            let mut query =
                sqlx::query(sql).bind(self.owner.as_bytes().to_vec()).bind(session.now.micros());
            for (tenant, sequence) in part.iter().chain(part) {
                query = query.bind(tenant.as_bytes().to_vec()).bind(*sequence);
            }
            for row in CLAIM.run(query, session.db).await? {
                claimed.insert(row.try_get(0)?, Fence(row.try_get(1)?));
            }
        }
        // The database returns the rows in its own order; the order of the turns is restored here.
        let fenced = |(tenant, sequence)| Some((tenant, sequence, claimed.remove(&sequence)?));
        Ok(next.into_iter().filter_map(fenced).collect())
    }
}

/// The number of executing tasks of each tenant. Reads as many rows as there are leases.
async fn executing_by_tenant(session: &mut Session<'_>) -> sqlx::Result<HashMap<TenantId, usize>> {
    fetch(sqlx::query(LEASES_BY_TENANT), session.db)
        .await?
        .iter()
        .map(|row| {
            let count: i64 = row.try_get(1)?;
            Ok((rows::tenant_id(row, 0)?, usize::try_from(count).unwrap_or(usize::MAX)))
        })
        .collect()
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
    async fn run(&self, session: &mut Session<'_>) -> Result<Vec<TaskId>, Refusal> {
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
    async fn run(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
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

/// Undoes a claim whose tasks no worker has received: it does not count as an attempt.
pub(in crate::store) struct Unclaim {
    pub(in crate::store) owner: OwnerId,
    pub(in crate::store) claimed: Vec<(TenantId, i64, Fence)>,
}

impl Write for Unclaim {
    type Answer = ();
    const OPERATION: &'static str = "take a claim back";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for Unclaim {
    async fn run(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let mut tasks = end_leases(self.owner, &self.claimed, session).await?;
        for task in &mut tasks {
            task.attempts -= 1;
            task.started_at = task.started_at.filter(|_| task.attempts > 0);
        }
        make_ready(&tasks, session).await?;
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
    async fn run(&self, session: &mut Session<'_>) -> Result<u64, Refusal> {
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
    async fn run(&self, session: &mut Session<'_>) -> Result<u64, Refusal> {
        execute(sqlx::query("DELETE FROM owners"), session.db).await?;
        session.state.alive_until = None;
        renew_owner(self.owner, self.lease, session).await?;
        RequeueOrphaned.run(session).await
    }
}
