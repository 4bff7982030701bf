//! Housekeeping: deletes what is no longer needed and returns free space.

use sqlx::Row as _;

use crate::store::fair_queue::Flow;
use crate::store::sqlite::{execute, fetch};
use crate::store::write::{Refusal, Session, SingleWrite, Write};

/// Deletes expired idempotency keys.
pub(in crate::store) struct DeleteExpiredKeys;

impl Write for DeleteExpiredKeys {
    type Answer = u64;
    const OPERATION: &'static str = "forget expired idempotency keys";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for DeleteExpiredKeys {
    async fn apply(&self, session: &mut Session<'_>) -> Result<u64, Refusal> {
        // Keys expire in the order of their primary key, so only the oldest thousand need to be checked, without an
        // index over `expires_at`.
        let forgotten = sqlx::query(
            "DELETE FROM idempotency WHERE expires_at <= ? AND task_sequence IN \
             (SELECT task_sequence FROM idempotency ORDER BY task_sequence LIMIT 1000)",
        )
        .bind(session.now.micros())
        .execute(&mut *session.db)
        .await?;
        Ok(forgotten.rows_affected())
    }
}

/// How many pages are returned at a time: 800 KiB, which takes as long as a large commit.
const PAGES_AT_ONCE: i64 = 200;

/// How many free pages are kept, since deleted space is usually written again.
const FREE_PAGES_KEPT: i64 = 4 << 10;

/// Returns free pages to the file system, as far as they exceed both a quarter of the file and [`FREE_PAGES_KEPT`].
pub(in crate::store) struct Shrink;

impl Write for Shrink {
    type Answer = bool;
    const OPERATION: &'static str = "shrink the store";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for Shrink {
    async fn apply(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let free = count(sqlx::query("PRAGMA freelist_count"), session).await?;
        let all = count(sqlx::query("PRAGMA page_count"), session).await?;
        let spare = free.saturating_sub(FREE_PAGES_KEPT.max(all / 4));
        if spare <= 0 {
            return Ok(false);
        }
        let pages = spare.min(PAGES_AT_ONCE);
        let statement = sqlx::AssertSqlSafe(format!("PRAGMA incremental_vacuum({pages})"));
        execute(sqlx::query(statement), session.db).await?;
        Ok(spare > pages)
    }
}

async fn count(
    query: sqlx::query::Query<'_, sqlx::Sqlite, sqlx::sqlite::SqliteArguments>,
    session: &mut Session<'_>,
) -> sqlx::Result<i64> {
    let rows = fetch(query, session.db).await?;
    rows.first().map_or(Ok(0), |row| row.try_get(0))
}
