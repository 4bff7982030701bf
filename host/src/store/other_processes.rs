//! Polls for changes that other processes make in the store (commands that work on the data folder), and publishes
//! them like changes of this process.

use std::time::Duration;

use sqlx::Row as _;
use tokio_util::sync::CancellationToken;

use super::changes::{Change, Changes};
use super::fair_queue::Flow;
use super::sqlite::BatchStatement;
use super::write::{Refusal, Session, SingleWrite, Write};
use super::{Store, StoreError, rows};
use crate::ids::TenantId;

/// The polling interval: how long a change of another process may go unnoticed.
const POLL_EVERY: Duration = Duration::from_secs(1);

const SINCE: &str =
    "SELECT tenant_id, version FROM directory_changes WHERE version > ? ORDER BY version";

static ENDED: BatchStatement =
    BatchStatement::new("SELECT id FROM tasks WHERE ended IS NOT NULL AND id IN (", "?", ")");

impl Store {
    /// The publisher of this store's changes.
    #[must_use]
    pub fn changes(&self) -> &Changes {
        &self.0.changes
    }

    /// Publishes a change to a tenant that the store itself does not hold: the grants of its plugins.
    ///
    /// # Errors
    /// If the store is unavailable ([`StoreError::Unavailable`]).
    pub async fn note_change(&self, tenant: TenantId) -> Result<(), StoreError> {
        self.write(NoteChange(tenant)).await
    }

    /// Polls for changes of other processes until it is stopped.
    pub async fn watch_other_processes(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(POLL_EVERY) => {}
            }
            if let Err(error) = self.poll_changes().await {
                tracing::warn!(%error, "what other processes have changed is not known");
            }
        }
    }

    /// Polls once for changes of other processes.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn poll_changes(&self) -> Result<(), StoreError> {
        const OPERATION: &str = "look for changes";
        let seen = self.0.changes.polled();
        let query = sqlx::query(SINCE).bind(i64::try_from(seen).unwrap_or(i64::MAX));
        let changes = self
            .many(OPERATION, query, |row| {
                let version: i64 = row.try_get(1)?;
                Ok((rows::tenant_id(row, 0)?, version.unsigned_abs()))
            })
            .await?;
        for (tenant, version) in changes {
            let tenant = (tenant != TenantId::GATEWAY).then_some(tenant);
            self.0.changes.publish(Change::Directory(tenant));
            self.0.changes.set_polled(version);
        }
        let waited = self.0.changes.awaited_tasks();
        for (sql, part) in ENDED.parts(&waited) {
            let query = part
                .iter()
                .fold(sqlx::query(sql), |query, task| query.bind(task.as_bytes().to_vec()));
            for task in self.many(OPERATION, query, |row| rows::task_id(row, 0)).await? {
                self.0.changes.publish(Change::TaskEnded(task));
            }
        }
        Ok(())
    }
}

/// A change to a tenant's directory that is in no table.
struct NoteChange(TenantId);

impl Write for NoteChange {
    type Answer = ();
    const OPERATION: &'static str = "note a change";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.0)
    }
}

impl SingleWrite for NoteChange {
    async fn apply(&self, _: &mut Session<'_>) -> Result<(), Refusal> {
        Ok(())
    }
}
