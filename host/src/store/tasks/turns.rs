//! Whose turn it is where many tenants wait for few places: tasks for runs, deliveries for tries.

use std::collections::{HashMap, HashSet};

use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Row as _, Sqlite, SqliteConnection};

use crate::ids::TenantId;
use crate::shares;
use crate::store::rows;
use crate::store::sqlite::fetch;

/// The places of this process for what tenants wait for.
#[derive(Debug, Clone, Copy)]
pub struct Places {
    /// How many are to be filled now.
    pub wanted: usize,
    /// How many are free, those that are to be filled included.
    pub free: usize,
    /// How many of all of them a tenant may hold at most.
    pub per_tenant_max: usize,
}

impl Places {
    /// How many more a tenant may take that holds so many: as many as it leaves to others at most, so that
    /// however many are hostile there is one for the next tenant.
    fn room(&self, held: usize) -> usize {
        shares::places(held, self.free).min(self.per_tenant_max.saturating_sub(held))
    }
}

/// What waits, as the database knows it. Each statement looks into an index: it costs the same behind a
/// short backlog and behind a long one.
pub(in crate::store) trait Backlogs: Sync {
    /// Up to `limit` tenants with a backlog, behind this id in the order of ids.
    fn tenants<'q>(&self, behind: &'q [u8], limit: i64) -> Query<'q, Sqlite, SqliteArguments>;

    /// The sequences of a tenant's backlog, oldest first: `limit` of them behind the first `skip`.
    fn of_tenant(
        &self,
        tenant: TenantId,
        skip: i64,
        limit: i64,
    ) -> Query<'_, Sqlite, SqliteArguments>;
}

/// The backlog of one tenant, as far as it has been looked at.
struct Backlog {
    tenant: TenantId,
    sequences: Vec<i64>,
    held: usize,
    /// How many more the tenant may hold.
    room: usize,
    /// Whether more may be waiting behind these.
    goes_on: bool,
}

/// The sequences of what is next, each with its tenant, for the places that are wanted. Tenants take turns:
/// the one behind `last`, who was served last, comes first, and nobody gets a second place while another
/// one waits for a first. `held` is what each tenant holds already.
pub(in crate::store) async fn next(
    backlogs: &impl Backlogs,
    places: Places,
    held: &HashMap<TenantId, usize>,
    last: Option<TenantId>,
    db: &mut SqliteConnection,
) -> sqlx::Result<Vec<(TenantId, i64)>> {
    let of = |tenant: &TenantId| held.get(tenant).copied().unwrap_or_default();
    // Those without room are in the way of nobody: as many more tenants are asked for.
    let full = held.values().filter(|held| places.room(**held) == 0).count();
    let tenants = tenants_in_turn(backlogs, places.wanted.saturating_add(full), last, db).await?;
    let mut lines: Vec<Backlog> = tenants
        .into_iter()
        .map(|tenant| {
            let (held, sequences) = (of(&tenant), Vec::new());
            Backlog { tenant, sequences, held, room: places.room(held), goes_on: true }
        })
        .filter(|line| line.room > 0)
        .take(places.wanted)
        .collect();
    read_fairly(backlogs, &mut lines, places.wanted, db).await?;
    Ok(by_rounds(&lines, places))
}

/// Everybody's fair share is read first. Where lines turn out shorter than that, what is left over is shared
/// among the others, and so on.
async fn read_fairly(
    backlogs: &impl Backlogs,
    lines: &mut [Backlog],
    wanted: usize,
    db: &mut SqliteConnection,
) -> sqlx::Result<()> {
    loop {
        let found: usize = lines.iter().map(|line| line.sequences.len()).sum();
        let open = lines.iter().filter(|line| line.goes_on).count();
        if open == 0 || found >= wanted {
            return Ok(());
        }
        let share = (wanted - found).div_ceil(open);
        for line in lines.iter_mut().filter(|line| line.goes_on) {
            let share = share.min(line.room);
            let query =
                backlogs.of_tenant(line.tenant, number(line.sequences.len()), number(share));
            let more = fetch(query, db).await?;
            line.room -= more.len();
            line.goes_on = more.len() == share && line.room > 0;
            for row in more {
                line.sequences.push(row.try_get(0)?);
            }
        }
    }
}

/// One of each line, then a second of each, as long as there is a place and its tenant may have it.
fn by_rounds(lines: &[Backlog], places: Places) -> Vec<(TenantId, i64)> {
    let longest = lines.iter().map(|line| line.sequences.len()).max().unwrap_or(0);
    let rounds = (0..longest).flat_map(|round| {
        lines.iter().filter_map(move |line| Some((line, round, *line.sequences.get(round)?)))
    });
    let mut next = Vec::new();
    for (line, round, sequence) in rounds {
        // What the others took meanwhile is not free any more.
        let left = Places { free: places.free.saturating_sub(next.len()), ..places };
        if next.len() < places.wanted && left.room(line.held + round) > 0 {
            next.push((line.tenant, sequence));
        }
    }
    next
}

/// Up to `limit` tenants with a backlog, beginning behind the one served last.
async fn tenants_in_turn(
    backlogs: &impl Backlogs,
    limit: usize,
    last: Option<TenantId>,
    db: &mut SqliteConnection,
) -> sqlx::Result<Vec<TenantId>> {
    let mut tenants = Vec::new();
    // Behind the one served last, then once more from the start: an empty id stands before all.
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
