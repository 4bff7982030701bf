//! What agents have spent on models, day by day.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::clock::Day;
use crate::ids::{AgentId, TenantId};
use crate::store::fair_queue::Flow;
use crate::store::sqlite::execute;
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::{Store, StoreError, rows};
use crate::trace::usage::{Spending, Usage};

/// What was spent on a day, as far as budgets count it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spent {
    /// Input tokens that no cache held, and output tokens.
    pub tokens: u64,
    /// Millionths of the operator's currency.
    pub cost_micros: u64,
}

/// What an agent has spent on a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaySpending {
    /// The day.
    pub day: Day,
    /// The agent.
    pub agent: AgentId,
    /// Turns of models.
    pub turns: u64,
    /// What budgets count.
    pub spent: Spent,
    /// Turns whose tokens are estimated, in part or as a whole.
    pub estimated_turns: u64,
    /// Turns whose cost is unknown, since their model has no price.
    pub unpriced_turns: u64,
    /// Tokens as the providers reported them: fresh input, cache read, cache write, output, reasoning.
    pub classes: [u64; 5],
}

/// No count of one turn is larger: what a server reports is not trusted to be a sum that a row can hold.
const COUNT_MAX: u64 = 1 << 40;

/// Adds a turn. Sums stop where another turn might no longer fit.
const ADD: &str = "\
    INSERT INTO spending (tenant_id, day, agent_id, turns, tokens, estimated_turns, cost_micros, unpriced_turns, \
        fresh_input, cache_read, cache_write, output, reasoning) \
    VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
    ON CONFLICT (tenant_id, day, agent_id) DO UPDATE SET \
        turns = turns + 1, \
        tokens = min(tokens + excluded.tokens, 1 << 60), \
        estimated_turns = estimated_turns + excluded.estimated_turns, \
        cost_micros = min(cost_micros + excluded.cost_micros, 1 << 60), \
        unpriced_turns = unpriced_turns + excluded.unpriced_turns, \
        fresh_input = min(fresh_input + excluded.fresh_input, 1 << 60), \
        cache_read = min(cache_read + excluded.cache_read, 1 << 60), \
        cache_write = min(cache_write + excluded.cache_write, 1 << 60), \
        output = min(output + excluded.output, 1 << 60), \
        reasoning = min(reasoning + excluded.reasoning, 1 << 60)";

const OF_AGENT: &str = "\
    SELECT tokens, cost_micros FROM spending WHERE tenant_id = ? AND day = ? AND agent_id = ?";

const OF_TENANT: &str = "\
    SELECT min(total(tokens), 1e18), min(total(cost_micros), 1e18) FROM spending WHERE tenant_id = ? AND day = ?";

const LIST: &str = "\
    SELECT day, agent_id, turns, tokens, cost_micros, estimated_turns, unpriced_turns, \
        fresh_input, cache_read, cache_write, output, reasoning \
    FROM spending WHERE tenant_id = ? AND day BETWEEN ? AND ? ORDER BY day DESC, agent_id LIMIT ?";

impl Store {
    /// Adds what a turn has spent.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]).
    pub async fn add_spending(
        &self,
        (tenant, agent): (TenantId, AgentId),
        day: Day,
        spending: Spending,
        usage: &Usage,
    ) -> Result<(), StoreError> {
        let Usage { fresh_input, cache_read, cache_write, output, reasoning, .. } = *usage;
        let classes = [fresh_input, cache_read, cache_write, output, reasoning];
        let classes = classes.map(Option::unwrap_or_default);
        self.write(AddSpending { tenant, agent, day, spending, classes }).await
    }

    /// What an agent, or all agents of a tenant together, have spent on a day.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn spent(
        &self,
        tenant: TenantId,
        agent: Option<AgentId>,
        day: Day,
    ) -> Result<Spent, StoreError> {
        let query = sqlx::query(if agent.is_some() { OF_AGENT } else { OF_TENANT })
            .bind(tenant.as_bytes().as_slice())
            .bind(day.0);
        let query = match agent {
            Some(agent) => query.bind(agent.as_bytes().as_slice()),
            None => query,
        };
        let read: fn(&SqliteRow) -> sqlx::Result<Spent> = match agent {
            Some(_) => |row| Ok(Spent { tokens: count(row, 0)?, cost_micros: count(row, 1)? }),
            None => |row| Ok(Spent { tokens: total(row, 0)?, cost_micros: total(row, 1)? }),
        };
        Ok(self.one("read what was spent", query, read).await?.unwrap_or_default())
    }

    /// What a tenant's agents have spent from one day to another, the latest first: at most `limit` rows, one for each
    /// day and agent.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn spending(
        &self,
        tenant: TenantId,
        (from, to): (Day, Day),
        limit: u32,
    ) -> Result<Vec<DaySpending>, StoreError> {
        let query = sqlx::query(LIST)
            .bind(tenant.as_bytes().as_slice())
            .bind(from.0)
            .bind(to.0)
            .bind(limit);
        let read = |row: &SqliteRow| {
            Ok(DaySpending {
                day: Day(row.try_get(0)?),
                agent: rows::agent_id(row, 1)?,
                turns: count(row, 2)?,
                spent: Spent { tokens: count(row, 3)?, cost_micros: count(row, 4)? },
                estimated_turns: count(row, 5)?,
                unpriced_turns: count(row, 6)?,
                classes: [
                    count(row, 7)?,
                    count(row, 8)?,
                    count(row, 9)?,
                    count(row, 10)?,
                    count(row, 11)?,
                ],
            })
        };
        self.many("list what was spent", query, read).await
    }
}

fn count(row: &SqliteRow, column: usize) -> sqlx::Result<u64> {
    let count: i64 = row.try_get(column)?;
    Ok(u64::try_from(count).unwrap_or_default())
}

/// A sum, which SQLite computes as a floating-point number so that it cannot overflow.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is neither negative nor larger than 1e18"
)]
fn total(row: &SqliteRow, column: usize) -> sqlx::Result<u64> {
    let total: f64 = row.try_get(column)?;
    Ok(total as u64)
}

struct AddSpending {
    tenant: TenantId,
    agent: AgentId,
    day: Day,
    spending: Spending,
    classes: [u64; 5],
}

impl Write for AddSpending {
    type Answer = ();
    const OPERATION: &'static str = "record what a turn has spent";

    fn flow(&self) -> Flow {
        Flow::Runs(self.tenant)
    }

    /// Lost with the machine's power at most, like the turn itself.
    fn is_synced(&self) -> bool {
        false
    }
}

impl SingleWrite for AddSpending {
    async fn apply(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let bounded = |count: u64| i64::try_from(count.min(COUNT_MAX)).unwrap_or_default();
        let Spending { tokens, cost_micros, is_estimated } = self.spending;
        let mut add = sqlx::query(ADD)
            .bind(self.tenant.as_bytes().to_vec())
            .bind(self.day.0)
            .bind(self.agent.as_bytes().to_vec())
            .bind(bounded(tokens))
            .bind(is_estimated)
            .bind(bounded(cost_micros.unwrap_or_default()))
            .bind(cost_micros.is_none());
        for class in self.classes {
            add = add.bind(bounded(class));
        }
        execute(add, session.db).await?;
        Ok(())
    }
}
