//! Who runs a task, and until when. A claim is a lease with a fence: whatever a worker does later it
//! does as the holder of that fence, so that one which has lost its lease changes nothing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sqlx::Row as _;

use super::lines::Line;
use super::rows::{self, select_tasks};
use super::sqlite::{ByRows, execute, fetch};
use super::writer::{Refusal, Session, Write, WriteAlone};
use crate::ids::{TaskId, TenantId};
use crate::tasks::Fence;

pub(super) static CLAIM: ByRows = ByRows::new(
    "UPDATE tasks SET status = 'executing', attempts = attempts + 1, fence = fence + 1, \
     lease_until = ?, started_at = coalesce(started_at, ?) WHERE sequence IN (",
    "?",
    ") RETURNING sequence, fence",
);

/// The tasks of a claim, for a connection that reads.
pub(super) static CLAIMED: ByRows = ByRows::new(select_tasks!("t.sequence IN ("), "?", ")");

// The plus signs keep the planner from making an index over the held ones and reading all tasks.
pub(super) static EXTEND: ByRows = ByRows::new(
    "UPDATE tasks SET lease_until = ? FROM (VALUES",
    "(?, ?)",
    ") AS held WHERE tasks.id = +held.column1 AND tasks.fence = +held.column2 \
     AND tasks.status = 'executing' RETURNING id, fence",
);

/// Tenants with pending tasks, behind one of them in the order of their ids. Each step of the
/// recursion is one look into the index: it costs the same behind a short line and a long one.
pub(super) const TENANTS_BEHIND: &str = "\
    WITH RECURSIVE turn (tenant_id, number) AS ( \
        SELECT (SELECT tenant_id FROM tasks WHERE status = 'pending' AND tenant_id > ?1 \
                ORDER BY tenant_id LIMIT 1), 1 \
        UNION ALL \
        SELECT (SELECT tenant_id FROM tasks \
                WHERE status = 'pending' AND tenant_id > turn.tenant_id \
                ORDER BY tenant_id LIMIT 1), number + 1 \
        FROM turn WHERE turn.tenant_id IS NOT NULL AND number < ?2 \
    ) SELECT tenant_id FROM turn WHERE tenant_id IS NOT NULL";

pub(super) const PENDING_OF_TENANT: &str = "\
    SELECT sequence FROM tasks WHERE status = 'pending' AND tenant_id = ? AND sequence > ? \
    ORDER BY sequence LIMIT ?";

pub(super) const EXECUTING_BY_TENANT: &str = "\
    SELECT tenant_id, count(*) FROM tasks \
    WHERE lease_until IS NOT NULL AND status = 'executing' GROUP BY +tenant_id";

pub(super) const GIVE_BACK: &str = "\
    UPDATE tasks SET status = 'pending', lease_until = NULL \
    WHERE id = ? AND fence = ? AND status = 'executing'";

const UNCLAIM: &str = "\
    UPDATE tasks SET status = 'pending', lease_until = NULL, attempts = attempts - 1 \
    WHERE sequence = ? AND fence = ? AND status = 'executing'";

pub(super) const TAKE_BACK: &str = "\
    UPDATE tasks SET status = 'pending', lease_until = NULL \
    WHERE status = 'executing' AND lease_until <= ?";

/// Makes pending tasks executing. Tenants take turns: the one after the tenant served last comes
/// first, and nobody gets a second task in one claim while another one waits for a first. A tenant that
/// has as many executing as it may waits for one of them to end. The answer names them in the order of their
/// turns.
pub(super) struct Claim {
    pub(super) limit: usize,
    pub(super) limit_per_tenant: usize,
    pub(super) lease: Duration,
}

impl Write for Claim {
    type Answer = Vec<(i64, Fence)>;
    const OPERATION: &'static str = "claim tasks";

    fn line(&self) -> Line {
        Line::Gateway
    }
}

impl WriteAlone for Claim {
    async fn run(&self, session: &mut Session<'_>) -> Result<Vec<(i64, Fence)>, Refusal> {
        let picked = pick(self.limit, self.limit_per_tenant, session).await?;
        let lease_until = session.now.plus(self.lease).micros();
        let mut claimed: HashMap<i64, Fence> = HashMap::with_capacity(picked.len());
        for (sql, part) in CLAIM.parts(&picked) {
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
        Ok(picked.into_iter().filter_map(fence).collect())
    }
}

/// The pending tasks of one tenant, as far as they have been looked at.
struct Backlog {
    tenant: TenantId,
    sequences: Vec<i64>,
    /// How many more the tenant may have executing.
    room: usize,
    /// Whether more of them may be waiting behind these.
    goes_on: bool,
}

/// The sequences of up to `limit` pending tasks, in the order of the tenants' turns.
async fn pick(
    limit: usize,
    limit_per_tenant: usize,
    session: &mut Session<'_>,
) -> sqlx::Result<Vec<i64>> {
    let executing = executing_by_tenant(session).await?;
    let room = |tenant: &TenantId| {
        limit_per_tenant.saturating_sub(executing.get(tenant).copied().unwrap_or_default())
    };
    // Those without room are in the way of nobody: as many more tenants are asked for.
    let full = executing.keys().filter(|tenant| room(tenant) == 0).count();
    let tenants = tenants_in_turn(limit.saturating_add(full), session).await?;
    let mut lines: Vec<Backlog> = tenants
        .into_iter()
        .map(|tenant| (tenant, room(&tenant)))
        .filter(|(_, room)| *room > 0)
        .take(limit)
        .map(|(tenant, room)| Backlog { tenant, sequences: Vec::new(), room, goes_on: true })
        .collect();
    // Everybody's fair share is read first. Where lines turn out shorter than that, what is left over
    // is shared among the others, and so on.
    loop {
        let found: usize = lines.iter().map(|line| line.sequences.len()).sum();
        let open = lines.iter().filter(|line| line.goes_on).count();
        if open == 0 || found >= limit {
            break;
        }
        let share = (limit - found).div_ceil(open);
        for line in lines.iter_mut().filter(|line| line.goes_on) {
            let share = share.min(line.room);
            let more =
                pending_of(line.tenant, line.sequences.last().copied(), share, session).await?;
            line.room -= more.len();
            line.goes_on = more.len() == share && line.room > 0;
            line.sequences.extend(more);
        }
    }
    let longest = lines.iter().map(|line| line.sequences.len()).max().unwrap_or(0);
    let rounds = (0..longest).flat_map(|round| {
        lines.iter().filter_map(move |line| Some((line.tenant, *line.sequences.get(round)?)))
    });
    let picked: Vec<(TenantId, i64)> = rounds.take(limit).collect();
    if let Some((tenant, _)) = picked.last() {
        session.memory.last_turn = Some(*tenant);
    }
    Ok(picked.into_iter().map(|(_, sequence)| sequence).collect())
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

/// Up to `limit` tenants that have pending tasks, beginning behind the one served last.
async fn tenants_in_turn(limit: usize, session: &mut Session<'_>) -> sqlx::Result<Vec<TenantId>> {
    let last_turn = session.memory.last_turn;
    let mut tenants = Vec::new();
    // Behind the one served last, then once more from the start: an empty id stands before all.
    let starts = last_turn.as_ref().map(|last| last.as_bytes().as_slice());
    for start in starts.into_iter().chain([[].as_slice()]) {
        let query =
            sqlx::query(TENANTS_BEHIND).bind(start).bind(i64::try_from(limit).unwrap_or(i64::MAX));
        for row in fetch(query, session.db).await? {
            tenants.push(rows::tenant_id(&row, 0)?);
        }
    }
    let mut seen = HashSet::new();
    tenants.retain(|tenant| seen.insert(*tenant));
    tenants.truncate(limit);
    Ok(tenants)
}

/// The first `limit` pending tasks of a tenant behind the task `after`.
async fn pending_of(
    tenant: TenantId,
    after: Option<i64>,
    limit: usize,
    session: &mut Session<'_>,
) -> sqlx::Result<Vec<i64>> {
    let query = sqlx::query(PENDING_OF_TENANT)
        .bind(tenant.as_bytes().as_slice())
        .bind(after.unwrap_or(i64::MIN))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX));
    fetch(query, session.db).await?.iter().map(|row| row.try_get(0)).collect()
}

/// Lengthens leases, and says whose are lost.
pub(super) struct Extend {
    pub(super) held: Vec<(TaskId, Fence)>,
    pub(super) lease: Duration,
}

impl Write for Extend {
    type Answer = Vec<TaskId>;
    const OPERATION: &'static str = "extend leases";

    fn line(&self) -> Line {
        Line::Gateway
    }
}

impl WriteAlone for Extend {
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
pub(super) struct GiveBack {
    pub(super) task: TaskId,
    pub(super) fence: Fence,
}

impl Write for GiveBack {
    type Answer = ();
    const OPERATION: &'static str = "give a task back";

    fn line(&self) -> Line {
        Line::Gateway
    }
}

impl WriteAlone for GiveBack {
    async fn run(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let query = sqlx::query(GIVE_BACK).bind(self.task.as_bytes().as_slice()).bind(self.fence.0);
        execute(query, session.db).await?;
        Ok(())
    }
}

/// Takes a claim back whose tasks nobody got to see: it counts as no attempt.
pub(super) struct Unclaim {
    pub(super) claimed: Vec<(i64, Fence)>,
}

impl Write for Unclaim {
    type Answer = ();
    const OPERATION: &'static str = "take a claim back";

    fn line(&self) -> Line {
        Line::Gateway
    }
}

impl WriteAlone for Unclaim {
    async fn run(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        for (sequence, fence) in &self.claimed {
            execute(sqlx::query(UNCLAIM).bind(*sequence).bind(fence.0), session.db).await?;
        }
        Ok(())
    }
}

/// Makes executing tasks pending again without asking their workers.
pub(super) enum TakeBack {
    /// All of them: their workers are gone with the process that they were part of.
    All,
    /// Those whose lease has run out.
    Expired,
}

impl Write for TakeBack {
    type Answer = u64;
    const OPERATION: &'static str = "take tasks back";

    fn line(&self) -> Line {
        Line::Gateway
    }
}

impl WriteAlone for TakeBack {
    async fn run(&self, session: &mut Session<'_>) -> Result<u64, Refusal> {
        let until = match self {
            Self::All => i64::MAX,
            Self::Expired => session.now.micros(),
        };
        let taken = execute(sqlx::query(TAKE_BACK).bind(until), session.db).await?;
        Ok(taken.rows_affected())
    }
}
