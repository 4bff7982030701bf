//! Deleting what no question asks for any more.

use crate::store::fair_queue::Flow;
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
