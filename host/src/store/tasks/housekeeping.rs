//! Deleting what no question asks for any more.

use sqlx::Row as _;

use crate::store::fair_queue::Flow;
use crate::store::sqlite::{execute, fetch};
use crate::store::write::{Refusal, Session, SingleWrite, Write};

/// Deletes idempotency keys that are free again.
pub(in crate::store) struct ForgetExpiredKeys;

impl Write for ForgetExpiredKeys {
    type Answer = u64;
    const OPERATION: &'static str = "forget expired idempotency keys";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for ForgetExpiredKeys {
    async fn run(&self, session: &mut Session<'_>) -> Result<u64, Refusal> {
        // Keys expire in the order of their primary key, so the oldest thousand are the first ones to
        // look at, and no index over `expires_at` is needed.
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

/// Pages that are given back at a time: 800 KiB, which is as long as a large commit.
const PAGES_AT_ONCE: i64 = 200;

/// Free pages that are kept: what is deleted is written again as a rule.
const FREE_PAGES_KEPT: i64 = 4 << 10;

/// Gives free pages back to the file system, where more than a quarter of the file is free.
pub(in crate::store) struct Shrink;

impl Write for Shrink {
    type Answer = bool;
    const OPERATION: &'static str = "shrink the store";

    fn flow(&self) -> Flow {
        Flow::Gateway
    }
}

impl SingleWrite for Shrink {
    async fn run(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
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
