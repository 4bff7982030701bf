//! Schedules tenants fairly when many wait for few places: tasks for runs, deliveries for attempts.

use std::collections::{HashMap, HashSet};

use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Row as _, Sqlite, SqliteConnection};

use crate::ids::TenantId;
use crate::shares;
use crate::store::rows;
use crate::store::sqlite::fetch;

/// The places of this process that tenants wait for.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// How many to fill now.
    pub wanted: usize,
    /// How many are free, including those to be filled.
    pub free: usize,
    /// How many places one tenant may hold at most.
    pub per_tenant_max: usize,
}

impl Capacity {
    /// How many more places a tenant that holds this many may take: a tenant leaves at least as many free as it
    /// holds, so that a place remains for the next tenant, however many tenants are hostile.
    fn available(&self, held: usize) -> usize {
        shares::available(held, self.free).min(self.per_tenant_max.saturating_sub(held))
    }
}

/// The backlogs in the database. Each query is an index look-up, so it costs the same for a short and for a long
/// backlog.
pub(in crate::store) trait Backlogs: Sync {
    /// Up to `limit` tenants with a backlog, after this id in the order of ids.
    fn tenants<'q>(&self, behind: &'q [u8], limit: i64) -> Query<'q, Sqlite, SqliteArguments>;

    /// The sequences of a tenant's backlog, oldest first: `limit` of them, after the first `skip`.
    fn of_tenant(
        &self,
        tenant: TenantId,
        skip: i64,
        limit: i64,
    ) -> Query<'_, Sqlite, SqliteArguments>;
}

/// The part of one tenant's backlog that has been read.
struct Backlog {
    tenant: TenantId,
    sequences: Vec<i64>,
    held: usize,
    /// How many more places the tenant may take.
    available: usize,
    /// Whether the backlog may continue after these.
    has_more: bool,
}

/// The sequences to serve next, each with its tenant, for the wanted places. Tenants take turns: the tenant after
/// `last`, which was served last, comes first, and no tenant gets a second place while another one waits for its
/// first. `held` is how many places each tenant already holds.
pub(in crate::store) async fn next(
    backlogs: &impl Backlogs,
    capacity: Capacity,
    held: &HashMap<TenantId, usize>,
    last: Option<TenantId>,
    db: &mut SqliteConnection,
) -> sqlx::Result<Vec<(TenantId, i64)>> {
    let held_by = |tenant: &TenantId| held.get(tenant).copied().unwrap_or_default();
    // Tenants without room must not displace others, so as many more tenants are read.
    let full = held.values().filter(|held| capacity.available(**held) == 0).count();
    let tenants = tenants_in_turn(backlogs, capacity.wanted.saturating_add(full), last, db).await?;
    let mut lines: Vec<Backlog> = tenants
        .into_iter()
        .map(|tenant| {
            let (held, sequences) = (held_by(&tenant), Vec::new());
            Backlog { tenant, sequences, held, available: capacity.available(held), has_more: true }
        })
        .filter(|line| line.available > 0)
        .take(capacity.wanted)
        .collect();
    read_fairly(backlogs, &mut lines, capacity.wanted, db).await?;
    Ok(by_rounds(&lines, capacity))
}

/// Reads every tenant's fair share first. If some backlogs are shorter, what they leave is shared among the others,
/// and so on.
async fn read_fairly(
    backlogs: &impl Backlogs,
    lines: &mut [Backlog],
    wanted: usize,
    db: &mut SqliteConnection,
) -> sqlx::Result<()> {
    loop {
        let found: usize = lines.iter().map(|line| line.sequences.len()).sum();
        let open = lines.iter().filter(|line| line.has_more).count();
        if open == 0 || found >= wanted {
            return Ok(());
        }
        let share = (wanted - found).div_ceil(open);
        for line in lines.iter_mut().filter(|line| line.has_more) {
            let share = share.min(line.available);
            let query =
                backlogs.of_tenant(line.tenant, number(line.sequences.len()), number(share));
            let more = fetch(query, db).await?;
            line.available -= more.len();
            line.has_more = more.len() == share && line.available > 0;
            for row in more {
                line.sequences.push(row.try_get(0)?);
            }
        }
    }
}

/// One entry of each backlog, then a second one of each, as long as there are places and the tenant may have one.
fn by_rounds(lines: &[Backlog], capacity: Capacity) -> Vec<(TenantId, i64)> {
    let longest = lines.iter().map(|line| line.sequences.len()).max().unwrap_or(0);
    let rounds = (0..longest).flat_map(|round| {
        lines.iter().filter_map(move |line| Some((line, round, *line.sequences.get(round)?)))
    });
    let mut next = Vec::new();
    for (line, round, sequence) in rounds {
        // Places that others have just taken are no longer free.
        let left = Capacity { free: capacity.free.saturating_sub(next.len()), ..capacity };
        if next.len() < capacity.wanted && left.available(line.held + round) > 0 {
            next.push((line.tenant, sequence));
        }
    }
    next
}

/// Up to `limit` tenants with a backlog, starting after the one served last.
async fn tenants_in_turn(
    backlogs: &impl Backlogs,
    limit: usize,
    last: Option<TenantId>,
    db: &mut SqliteConnection,
) -> sqlx::Result<Vec<TenantId>> {
    let mut tenants = Vec::new();
    // After the tenant served last, then again from the start: an empty id sorts before all others.
    let starts = last.as_ref().map(|last| last.as_bytes().as_slice());
    for start in starts.into_iter().chain([[].as_slice()]) {
        for row in fetch(backlogs.tenants(start, number(limit)), db).await? {
            tenants.push(rows::tenant_id(&row, 0)?);
        }
    }
    let mut seen = HashSet::new();
    tenants.retain(|tenant| seen.insert(*tenant));
    tenants.truncate(limit);
    Ok(tenants)
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
