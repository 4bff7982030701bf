//! Writes: a change that waits in the queue, the transaction that it runs in, and the caller that waits for its
//! answer.

use std::sync::Arc;

use futures::future::BoxFuture;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::oneshot;

use super::StoreError;
use super::changes::{Change, Changes, RECORD_CHANGE};
use super::fair_queue::Flow;
use super::sqlite::execute;
use crate::clock::Timestamp;
use crate::ids::TenantId;

/// A change of the store.
pub(super) trait Write: Send + Sync + 'static {
    /// What the caller receives once the write is synced.
    type Answer: Send + 'static;

    /// What it does, in the words that follow "could not" in an error message.
    const OPERATION: &'static str;

    /// Whether it changes the directory, which is what tenants and operators have set up.
    const CHANGES_DIRECTORY: bool = false;

    /// The flow that it waits in.
    fn flow(&self) -> Flow;

    /// The change to publish, to waiting requests and caches, if this is its answer.
    fn change(&self, _answer: &Self::Answer) -> Option<Change> {
        Self::CHANGES_DIRECTORY.then(|| Change::Directory(self.flow().tenant()))
    }

    /// Whether it has to survive the loss of power. A batch without such a write is committed without a sync, which
    /// survives the death of the process.
    fn is_synced(&self) -> bool {
        true
    }

    /// Approximate bytes of the texts that it writes. Something as small as a row of ids counts as nothing.
    fn bytes(&self) -> usize {
        0
    }
}

/// A [`Write`] with statements of its own.
pub(super) trait SingleWrite: Write {
    /// Runs in the open transaction. Runs a second time if another write made the first transaction fail.
    fn apply(
        &self,
        session: &mut Session<'_>,
    ) -> impl Future<Output = Result<Self::Answer, Refusal>> + Send;
}

/// Why a write failed.
pub(super) enum Refusal {
    /// Rejected by the store's own rules. It has changed nothing, and the other writes of its batch are committed.
    Rules(StoreError),
    /// Failed in the database: the whole transaction is rolled back.
    Database(sqlx::Error),
}

impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// What a write works with: the open transaction, one timestamp for all of it, and the writer's memory from one
/// transaction to the next.
pub(super) struct Session<'w> {
    pub(super) db: &'w mut SqliteConnection,
    pub(super) now: Timestamp,
    pub(super) state: &'w mut WriterState,
}

/// What the writer need not query, since no other process accepts or claims tasks.
#[derive(Debug)]
pub(super) struct WriterState {
    /// The sequence of the task accepted last.
    pub(super) last_sequence: i64,
    /// The tenant whose task was claimed last.
    pub(super) last_turn: Option<TenantId>,
    /// Until when this process counts as alive.
    pub(super) alive_until: Option<Timestamp>,
    /// When the first postponed task becomes ready, in microseconds.
    pub(super) next_due: Option<i64>,
}

/// A write and the caller that waits for its answer.
pub(super) struct Queued<W: Write> {
    pub(super) write: W,
    answer: Option<Result<W::Answer, StoreError>>,
    caller: oneshot::Sender<Result<W::Answer, StoreError>>,
}

impl<W: Write> Queued<W> {
    /// The write, and the receiver of its answer.
    pub(super) fn new(write: W) -> (Self, oneshot::Receiver<Result<W::Answer, StoreError>>) {
        let (caller, answer) = oneshot::channel();
        (Self { write, answer: None, caller }, answer)
    }

    /// Stores the answer until the transaction is synced.
    pub(super) fn set_answer(&mut self, answer: W::Answer) {
        self.answer = Some(Ok(answer));
    }

    /// Publishes the change, then sends the stored answer. A caller that is gone is ignored.
    pub(super) fn reply(self, changes: &Changes) {
        if let Some(Ok(answer)) = &self.answer
            && let Some(change) = self.write.change(answer)
        {
            changes.publish(change);
        }
        if let Some(answer) = self.answer {
            let _gone = self.caller.send(answer);
        }
    }

    pub(super) fn fail(self, error: &Arc<sqlx::Error>) {
        let _gone = self.caller.send(Err(StoreError::database(W::OPERATION, Arc::clone(error))));
    }
}

/// A [`Queued`] write of any type.
pub(super) trait AnyQueued: Send {
    fn apply<'a>(
        &'a mut self,
        session: &'a mut Session<'_>,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>>;
    fn is_synced(&self) -> bool;
    fn reply(self: Box<Self>, changes: &Changes);
    fn fail(self: Box<Self>, error: &Arc<sqlx::Error>);
}

impl<W: SingleWrite> AnyQueued for Queued<W> {
    fn apply<'a>(
        &'a mut self,
        session: &'a mut Session<'_>,
    ) -> BoxFuture<'a, Result<(), sqlx::Error>> {
        Box::pin(async move {
            self.answer = match self.write.apply(session).await {
                Ok(answer) => {
                    if W::CHANGES_DIRECTORY {
                        let tenant = self.write.flow().tenant().unwrap_or(TenantId::GATEWAY);
                        let note = sqlx::query(RECORD_CHANGE).bind(tenant.as_bytes().to_vec());
                        execute(note, session.db).await?;
                    }
                    Some(Ok(answer))
                }
                Err(Refusal::Rules(error)) => Some(Err(error)),
                Err(Refusal::Database(error)) => return Err(error),
            };
            Ok(())
        })
    }

    fn is_synced(&self) -> bool {
        self.write.is_synced()
    }

    fn reply(self: Box<Self>, changes: &Changes) {
        Queued::reply(*self, changes);
    }

    fn fail(self: Box<Self>, error: &Arc<sqlx::Error>) {
        Queued::fail(*self, error);
    }
}
