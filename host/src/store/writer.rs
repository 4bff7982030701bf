//! The single task that writes. Callers put operations into its queue (`fair_queue`). The writer takes a batch of
//! them, runs it in one transaction, syncs once, and only then replies to each caller (group commit).
//!
//! None of the callers of a batch has received a reply yet, so no order among the operations has been promised.
//! Frequent operations (accepted and finished tasks) therefore run first, many rows per statement.

use std::sync::Arc;

use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;

use super::changes::Changes;
use super::fair_queue::Receiver;
use super::sqlite::checkpoints::Checkpoints;
use super::sqlite::{execute, sqlite_code};
use super::tasks::accept;
use super::tasks::accept::Accept;
use super::tasks::finish;
use super::tasks::finish::Finish;
use super::write::{AnyQueued, Queued, Session, WriterState};
use crate::clock::Clock;

/// An operation in the queue.
pub(super) enum Op {
    Accept(Queued<Accept>),
    Finish(Queued<Finish>),
    Other(Box<dyn AnyQueued>),
}

/// The operations of one transaction.
#[derive(Default)]
pub(super) struct Batch {
    accepts: Vec<Queued<Accept>>,
    finishes: Vec<Queued<Finish>>,
    others: Vec<Box<dyn AnyQueued>>,
}

impl Batch {
    pub(super) fn add(&mut self, op: Op) {
        match op {
            Op::Accept(accept) => self.accepts.push(accept),
            Op::Finish(finish) => self.finishes.push(finish),
            Op::Other(other) => self.others.push(other),
        }
    }

    fn len(&self) -> usize {
        self.accepts.len() + self.finishes.len() + self.others.len()
    }

    /// Whether one of its operations has to survive the loss of power.
    fn is_synced(&self) -> bool {
        let is_any_but_other = !self.accepts.is_empty() || !self.finishes.is_empty();
        is_any_but_other || self.others.iter().any(|other| other.is_synced())
    }

    async fn apply(&mut self, session: &mut Session<'_>) -> Result<(), sqlx::Error> {
        accept::apply_accepts(&mut self.accepts, session).await?;
        finish::apply_finishes(&mut self.finishes, session).await?;
        for other in &mut self.others {
            other.apply(session).await?;
        }
        Ok(())
    }

    fn reply(self, changes: &Changes) {
        self.accepts.into_iter().for_each(|one| one.reply(changes));
        self.finishes.into_iter().for_each(|one| one.reply(changes));
        self.others.into_iter().for_each(|one| one.reply(changes));
    }

    fn fail(self, error: sqlx::Error) {
        let error = Arc::new(error);
        self.accepts.into_iter().for_each(|one| one.fail(&error));
        self.finishes.into_iter().for_each(|one| one.fail(&error));
        self.others.into_iter().for_each(|one| one.fail(&error));
    }

    /// The same operations, each in a batch of its own.
    fn one_by_one(self) -> impl Iterator<Item = Self> {
        let accepts = self.accepts.into_iter().map(Op::Accept);
        let finishes = self.finishes.into_iter().map(Op::Finish);
        let others = self.others.into_iter().map(Op::Other);
        accepts.chain(finishes).chain(others).map(|op| {
            let mut alone = Self::default();
            alone.add(op);
            alone
        })
    }
}

/// The connection for writes and the writer's state.
pub(super) struct Writer {
    pub(super) db: SqliteConnection,
    pub(super) clock: Clock,
    pub(super) state: WriterState,
    pub(super) changes: Changes,
    /// Whether commits of the connection are synced.
    pub(super) syncs: bool,
}

impl Writer {
    /// Serves the queue until it is closed or all senders are gone, then closes the file.
    pub(super) async fn serve(mut self, mut queue: Receiver<Op>, mut checkpoints: Checkpoints) {
        while let Some(ops) = queue.next().await {
            let mut batch = Batch::default();
            ops.into_iter().for_each(|op| batch.add(op));
            self.commit(batch).await;
            checkpoints.after_commit(queue.bytes_taken(), &mut self.db).await;
        }
        checkpoints.end().await;
        // SQLite itself moves the log into the file when the last connection closes.
        if let Err(error) = self.db.close().await {
            // Nothing is lost: the next start finds the log next to the file and replays it.
            tracing::warn!(error = &error as &dyn std::error::Error, "the store closed uncleanly");
        }
    }

    /// Runs a batch and replies to each of its callers. If the batch fails as a whole and a single operation may be
    /// the reason, the operations run one by one, so that the failing one does not affect the others.
    pub(super) async fn commit(&mut self, mut batch: Batch) {
        match self.attempt(&mut batch).await {
            Ok(()) => batch.reply(&self.changes),
            Err(error) if batch.len() > 1 && may_be_caused_by_one(&error) => {
                for mut alone in batch.one_by_one() {
                    match self.attempt(&mut alone).await {
                        Ok(()) => alone.reply(&self.changes),
                        Err(error) => alone.fail(error),
                    }
                }
            }
            Err(error) => batch.fail(error),
        }
    }

    async fn attempt(&mut self, batch: &mut Batch) -> sqlx::Result<()> {
        let tried = self.transaction(batch).await;
        if tried.is_err() {
            // After some errors, such as a full disk, SQLite has already rolled back and rejects this statement,
            // which is harmless. The transactions of sqlx lose count in that case and can never start another one,
            // hence plain statements.
            let _rolled_back = execute(sqlx::query("ROLLBACK"), &mut self.db).await;
        }
        tried
    }

    async fn transaction(&mut self, batch: &mut Batch) -> sqlx::Result<()> {
        let is_synced = batch.is_synced();
        if self.syncs != is_synced {
            // Takes effect outside of transactions only.
            let level =
                if is_synced { "PRAGMA synchronous = FULL" } else { "PRAGMA synchronous = NORMAL" };
            execute(sqlx::query(level), &mut self.db).await?;
            self.syncs = is_synced;
        }
        // IMMEDIATE takes the write lock at once: a transaction that fails to get it later would have done its work
        // for nothing.
        execute(sqlx::query("BEGIN IMMEDIATE"), &mut self.db).await?;
        let mut session =
            Session { db: &mut self.db, now: self.clock.now(), state: &mut self.state };
        batch.apply(&mut session).await?;
        execute(sqlx::query("COMMIT"), &mut self.db).await?;
        Ok(())
    }
}

/// Whether a batch that failed with this error may succeed without one of its operations. An unreadable disk or an
/// unavailable lock fails all of them, and trying each one would only make every caller wait.
fn may_be_caused_by_one(error: &sqlx::Error) -> bool {
    match sqlite_code(error) {
        // ERROR, NOMEM, FULL, TOOBIG, CONSTRAINT, MISMATCH: a smaller or a valid operation may pass.
        Some(code) => matches!(code, 1 | 7 | 13 | 18 | 19 | 20),
        None => matches!(error, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. }),
    }
}
