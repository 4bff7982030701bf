//! Claims: a worker takes ready tasks, each with a lease and a fence, and tenants take turns.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Row as _, Sqlite};

use super::lease::{end_leases, make_due_ready, make_ready, renew_owner};
use super::turns;
use super::turns::{Backlogs, Capacity};
use crate::ids::{OwnerId, TenantId};
use crate::store::fair_queue::Flow;
use crate::store::rows;
use crate::store::rows::select_tasks;
use crate::store::sqlite::{BatchScript, BatchStatement, fetch};
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::{Store, StoreError};
use crate::tasks::{Claimed, Fence};

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

impl Store {
    /// Claims pending tasks for as many places as are wanted, with leases of this duration, and counts the attempts.
    /// Tenants take turns, also from one claim to the next: a tenant's next task waits for at most one task of each
    /// other tenant, however long their backlogs are. No tenant gets more tasks executing at a time than it leaves
    /// places free, or than `per_tenant_max`, including those claimed earlier.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]). Tasks already claimed are then made pending again.
    pub async fn claim(
        &self,
        capacity: Capacity,
        lease: Duration,
    ) -> Result<Vec<Claimed>, StoreError> {
        let claimed = self.write(Claim { owner: self.0.owner, capacity, lease }).await?;
        match self.read_claimed(&claimed).await {
            Ok(tasks) => Ok(tasks),
            Err(error) => {
                // Nobody will run these tasks, and the failure is not theirs.
                self.write(Unclaim { owner: self.0.owner, claimed }).await?;
                Err(StoreError::database("read claimed tasks", error))
            }
        }
    }

    /// Reads the tasks of these claims, in their order. Does not use the writer, which every caller waits for, since
    /// payloads may be large. Tasks that were deleted meanwhile are left out.
    async fn read_claimed(&self, claimed: &[(TenantId, i64, Fence)]) -> sqlx::Result<Vec<Claimed>> {
        let mut tasks = HashMap::with_capacity(claimed.len());
        for (sql, part) in CLAIMED.parts(claimed) {
            let query =
                part.iter().fold(sqlx::query(sql), |query, (_, sequence, _)| query.bind(*sequence));
            for row in query.fetch_all(self.reads()).await? {
                let task = rows::task(&row)?;
                tasks.insert(task.sequence, task);
            }
        }
        let claimed = claimed.iter().filter_map(|(_, sequence, fence)| {
            Some(Claimed { task: tasks.remove(sequence)?, fence: *fence })
        });
        Ok(claimed.collect())
    }
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
    async fn apply(&self, session: &mut Session<'_>) -> Result<Self::Answer, Refusal> {
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
            for row in CLAIM.fetch_rows(query, session.db).await? {
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
    async fn apply(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let mut tasks = end_leases(self.owner, &self.claimed, session).await?;
        for task in &mut tasks {
            task.attempts -= 1;
            task.started_at = task.started_at.filter(|_| task.attempts > 0);
        }
        make_ready(&tasks, session).await?;
        Ok(())
    }
}
