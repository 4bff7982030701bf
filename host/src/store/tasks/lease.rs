//! Who runs a task, and until when. A claim is a lease with a fence: whatever a worker does later it
//! does as the holder of that fence, so that one which has lost its lease changes nothing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Row as _, Sqlite};

use super::turns;
use super::turns::{Backlogs, Places};
use crate::ids::{TaskId, TenantId};
use crate::store::fair_queue::Flow;
use crate::store::rows;
use crate::store::rows::select_tasks;
use crate::store::sqlite::{BatchStatement, execute, fetch};
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::tasks::Fence;

pub(in crate::store) static CLAIM: BatchStatement = BatchStatement::new(
    "UPDATE tasks SET status = 'executing', attempts = attempts + 1, fence = fence + 1, \
     lease_until = ?, started_at = coalesce(started_at, ?) WHERE sequence IN (",
    "?",
    ") RETURNING sequence, fence",
);

/// The tasks of a claim, for a connection that reads.
pub(in crate::store) static CLAIMED: BatchStatement =
    BatchStatement::new(select_tasks!("t.sequence IN ("), "?", ")");

// The plus signs keep the planner from making an index over the held ones and reading all tasks.
pub(in crate::store) static EXTEND: BatchStatement = BatchStatement::new(
    "UPDATE tasks SET lease_until = ? FROM (VALUES",
    "(?, ?)",
    ") AS held WHERE tasks.id = +held.column1 AND tasks.fence = +held.column2 \
     AND tasks.status = 'executing' RETURNING id, fence",
);

/// Tenants with pending tasks, behind one of them in the order of their ids. Each step of the
/// recursion is one look into the index: it costs the same behind a short line and a long one.
pub(in crate::store) const TENANTS_BEHIND: &str = "\
    WITH RECURSIVE turn (tenant_id, number) AS ( \
        SELECT (SELECT tenant_id FROM tasks WHERE status = 'pending' AND tenant_id > ?1 \
                ORDER BY tenant_id LIMIT 1), 1 \
        UNION ALL \
        SELECT (SELECT tenant_id FROM tasks \
                WHERE status = 'pending' AND tenant_id > turn.tenant_id \
                ORDER BY tenant_id LIMIT 1), number + 1 \
        FROM turn WHERE turn.tenant_id IS NOT NULL AND number < ?2 \
    ) SELECT tenant_id FROM turn WHERE tenant_id IS NOT NULL";

pub(in crate::store) const PENDING_OF_TENANT: &str = "\
    SELECT sequence FROM tasks WHERE status = 'pending' AND tenant_id = ? \
    ORDER BY sequence LIMIT ? OFFSET ?";

pub(in crate::store) const EXECUTING_BY_TENANT: &str = "\
    SELECT tenant_id, count(*) FROM tasks \
    WHERE lease_until IS NOT NULL AND status = 'executing' GROUP BY +tenant_id";

pub(in crate::store) const GIVE_BACK: &str = "\
    UPDATE tasks SET status = 'pending', lease_until = NULL \
    WHERE id = ? AND fence = ? AND status = 'executing'";

const UNCLAIM: &str = "\
    UPDATE tasks SET status = 'pending', lease_until = NULL, attempts = attempts - 1 \
    WHERE sequence = ? AND fence = ? AND status = 'executing'";

pub(in crate::store) const TAKE_BACK: &str = "\
    UPDATE tasks SET status = 'pending', lease_until = NULL \
    WHERE status = 'executing' AND lease_until <= ?";

/// Makes pending tasks executing, tenants taking turns. A tenant that has as many executing as it may waits
/// for one of them to end. The answer names them in the order of their turns.
pub(in crate::store) struct Claim {
    pub(in crate::store) places: Places,
    pub(in crate::store) lease: Duration,
}

/// Tasks that wait for a run.
struct Pending;

impl Backlogs for Pending {
    fn tenants<'q>(&self, behind: &'q [u8], limit: i64) -> Query<'q, Sqlite, SqliteArguments> {
        sqlx::query(TENANTS_BEHIND).bind(behind).bind(limit)
    }

    fn of_tenant(
        &self,
        tenant: TenantId,
        skip: i64,
        limit: i64,
    ) -> Query<'_, Sqlite, SqliteArguments> {
        sqlx::query(PENDING_OF_TENANT).bind(tenant.as_bytes().to_vec()).bind(limit).bind(skip)
    }
}

impl Write for Claim {
    type Answer = Vec<(i64, Fence)>;
    const OPERATION: &'static str = "claim tasks";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for Claim {
    async fn run(&self, session: &mut Session<'_>) -> Result<Vec<(i64, Fence)>, Refusal> {
        let executing = executing_by_tenant(session).await?;
        let last = session.memory.last_turn;
        let next = turns::next(&Pending, self.places, &executing, last, session.db).await?;
        if let Some((tenant, _)) = next.last() {
            session.memory.last_turn = Some(*tenant);
        }
        let next: Vec<i64> = next.into_iter().map(|(_, sequence)| sequence).collect();
        let lease_until = session.now.plus(self.lease).micros();
        let mut claimed: HashMap<i64, Fence> = HashMap::with_capacity(next.len());
        for (sql, part) in CLAIM.parts(&next) {
            let mut query = sqlx::query(sql).bind(lease_until).bind(session.now.micros());
            for sequence in part {
                query = query.bind(*sequence);
            }
            for row in fetch(query, session.db).await? {
                claimed.insert(row.try_get(0)?, Fence(row.try_get(1)?));
            }
        }
        // The database returns them in an order of its own; the turns are to be kept.
        let fence = |sequence: i64| Some((sequence, claimed.remove(&sequence)?));
        Ok(next.into_iter().filter_map(fence).collect())
    }
}

/// How many tasks of each tenant are executing: as many rows as there are leases.
async fn executing_by_tenant(session: &mut Session<'_>) -> sqlx::Result<HashMap<TenantId, usize>> {
    fetch(sqlx::query(EXECUTING_BY_TENANT), session.db)
        .await?
        .iter()
        .map(|row| {
            let count: i64 = row.try_get(1)?;
            Ok((rows::tenant_id(row, 0)?, usize::try_from(count).unwrap_or(usize::MAX)))
        })
        .collect()
}

/// Lengthens leases, and says whose are lost.
pub(in crate::store) struct Extend {
    pub(in crate::store) held: Vec<(TaskId, Fence)>,
    pub(in crate::store) lease: Duration,
}

impl Write for Extend {
    type Answer = Vec<TaskId>;
    const OPERATION: &'static str = "extend leases";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for Extend {
    async fn run(&self, session: &mut Session<'_>) -> Result<Vec<TaskId>, Refusal> {
        let lease_until = session.now.plus(self.lease).micros();
        let mut kept = HashSet::with_capacity(self.held.len());
        for (sql, part) in EXTEND.parts(&self.held) {
            let mut query = sqlx::query(sql).bind(lease_until);
            for (task, fence) in part {
                query = query.bind(task.as_bytes().as_slice()).bind(fence.0);
            }
            for row in fetch(query, session.db).await? {
                kept.insert((rows::task_id(&row, 0)?, Fence(row.try_get(1)?)));
            }
        }
        let lost = self.held.iter().filter(|held| !kept.contains(held));
        Ok(lost.map(|(task, _)| *task).collect())
    }
}

/// Makes one executing task pending again, if the fence is that of its lease.
pub(in crate::store) struct GiveBack {
    pub(in crate::store) task: TaskId,
    pub(in crate::store) fence: Fence,
}

impl Write for GiveBack {
    type Answer = ();
    const OPERATION: &'static str = "give a task back";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for GiveBack {
    async fn run(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let query = sqlx::query(GIVE_BACK).bind(self.task.as_bytes().as_slice()).bind(self.fence.0);
        execute(query, session.db).await?;
        Ok(())
    }
}

/// Takes a claim back whose tasks nobody got to see: it counts as no attempt.
pub(in crate::store) struct Unclaim {
    pub(in crate::store) claimed: Vec<(i64, Fence)>,
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
        for (sequence, fence) in &self.claimed {
            execute(sqlx::query(UNCLAIM).bind(*sequence).bind(fence.0), session.db).await?;
        }
        Ok(())
    }
}

/// Makes executing tasks pending again without asking their workers.
pub(in crate::store) enum TakeBack {
    /// All of them: their workers are gone with the process that they were part of.
    All,
    /// Those whose lease has run out.
    Expired,
}

impl Write for TakeBack {
    type Answer = u64;
    const OPERATION: &'static str = "take tasks back";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for TakeBack {
    async fn run(&self, session: &mut Session<'_>) -> Result<u64, Refusal> {
        let until = match self {
            Self::All => i64::MAX,
            Self::Expired => session.now.micros(),
        };
        let taken = execute(sqlx::query(TAKE_BACK).bind(until), session.db).await?;
        Ok(taken.rows_affected())
    }
}
