//! Everything that outlives the process, as questions and changes in the words of the gateway. This
//! module is the only place that knows SQL, or that there is a database at all.
//!
//! Changes go through one writer, which takes from all tenants in turns, commits many callers' changes with
//! one sync and answers them after it: an answer means that the change survives a power cut. Reads have connections of their
//! own and see every change that was answered before they began.
//!
//! Every question about what a tenant owns takes the tenant. The exceptions are look-ups by something
//! that is itself proof of access: a key's hash, a webhook token's hash, a task's id.

mod changes;
mod directory;
mod error;
mod fair_queue;
mod lists;
mod other_processes;
mod rows;
mod sqlite;
mod tasks;
#[cfg(test)]
mod tests;
mod write;
mod writer;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use sqlx::Sqlite;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqlitePool, SqliteRow};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

pub use self::changes::{BeforeReading, Changes, Stamp, TaskEnd};
pub use self::directory::secrets::{PutSecret, PutSecretOutcome, SealedSecret};
pub use self::directory::values::ValueChange;
pub use self::error::{Cause, StoreError};
use self::lists::Lists;
use self::sqlite::checkpoints::{Checkpoints, LOG_BOUNDS};
pub use self::tasks::deliveries::DueDelivery;
pub use self::tasks::turns::Places;
use self::write::{Memory, Queued, SingleWrite, Write};
use self::writer::{Op, Writer};
use crate::clock::{Clock, Timestamp};
use crate::ids::{OwnerId, TenantId};

/// The store. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Store(Arc<Handles>);

struct Handles {
    clock: Clock,
    changes: Changes,
    /// This start of a process, as the owner of leases.
    owner: OwnerId,
    /// The threads that the store was opened on.
    home: Handle,
    reads: SqlitePool,
    /// Lists walk many rows: on connections of their own they hold up nobody but each other.
    lists: Lists,
    /// Tasks as a whole, which may be as long as bodies.
    tasks: Lists,
    writes: fair_queue::Sender<Op>,
    /// The number of this process's first chunk, and of the next one.
    first_chunk: i64,
    next_chunk: AtomicI64,
    /// Its other end is dropped when the writer has closed the database.
    writer_ended: watch::Receiver<()>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens the store in this file; makes it, for its owner only, if there is none; brings its schema
    /// up to date. One process at a time may accept and run tasks; the caller sees to that. Another one
    /// may change what tenants own meanwhile: commands do.
    ///
    /// # Errors
    /// When the file cannot be opened or made, or is no store.
    pub async fn open(path: &Path, clock: Clock) -> Result<Self, StoreError> {
        const OPERATION: &str = "open the store";
        let mut db = sqlite::open_writer(path)
            .await
            .map_err(|error| StoreError::database(OPERATION, error))?;
        let last_sequence = sqlx::query_scalar("SELECT coalesce(max(sequence), 0) FROM tasks")
            .fetch_one(&mut db)
            .await
            .map_err(|error| StoreError::database(OPERATION, error))?;
        let first_chunk: i64 = sqlx::query_scalar(tasks::chunks::NEXT_NUMBER)
            .fetch_one(&mut db)
            .await
            .map_err(|error| StoreError::database(OPERATION, error))?;
        let changes = Changes::new();
        let next_due = sqlx::query_scalar(tasks::lease::NEXT_DUE)
            .fetch_optional(&mut db)
            .await
            .map_err(|error| StoreError::database(OPERATION, error))?;
        let writer = Writer {
            db,
            clock: clock.clone(),
            changes: changes.clone(),
            memory: Memory { last_sequence, last_turn: None, alive_until: None, next_due },
        };
        let (writes, waiting) = fair_queue::queue();
        let (ended, writer_ended) = watch::channel(());
        let checkpoints = Checkpoints::start(path, LOG_BOUNDS);
        tokio::spawn(async move {
            writer.serve(waiting, checkpoints).await;
            drop(ended);
        });
        let reads = sqlite::readers(path);
        let (lists, tasks) = (Lists::new(sqlite::listers(path)), Lists::new(sqlite::listers(path)));
        let next_chunk = AtomicI64::new(first_chunk);
        let home = Handle::current();
        let handles = Handles {
            clock,
            changes,
            owner: OwnerId::random(),
            home,
            reads,
            lists,
            tasks,
            writes,
            first_chunk,
            next_chunk,
            writer_ended,
        };
        Ok(Self(Arc::new(handles)))
    }

    /// Finishes what is in the writer's queue and closes the database. Whatever is asked of any handle
    /// afterwards is [`StoreError::Unavailable`].
    pub async fn close(&self) {
        // Readers first: while one is open, the write-ahead log cannot be moved as a whole.
        self.0.reads.close().await;
        self.0.lists.close().await;
        self.0.tasks.close().await;
        self.0.writes.close();
        let mut ended = self.0.writer_ended.clone();
        // Nothing is ever sent: this ends when the writer drops its end.
        while ended.changed().await.is_ok() {}
    }

    /// Whether the store can be read.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where it cannot.
    pub async fn answers(&self) -> Result<(), StoreError> {
        self.one("answer", sqlx::query("SELECT 1"), |_| Ok(())).await.map(drop)
    }

    fn reads(&self) -> &SqlitePool {
        &self.0.reads
    }

    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    async fn write<W: SingleWrite>(&self, write: W) -> Result<W::Answer, StoreError> {
        self.queue(write, |waiting| Op::Other(Box::new(waiting))).await
    }

    async fn queue<W: Write>(
        &self,
        write: W,
        op: fn(Queued<W>) -> Op,
    ) -> Result<W::Answer, StoreError> {
        let (line, bytes) = (write.flow(), write.bytes());
        let (waiting, answer) = Queued::new(write);
        // An answer that never comes means that the writer is gone, as a closed queue does.
        let queued = self.0.writes.send(op(waiting), line, bytes).await;
        let answer = match queued {
            Ok(()) => answer.await.ok(),
            Err(fair_queue::Closed) => None,
        };
        answer.unwrap_or_else(|| Err(StoreError::database(W::OPERATION, sqlx::Error::PoolClosed)))
    }

    /// Reads on the threads that the store was opened on. Somewhere else its caller may be polled seldom, in turns of
    /// tenants: with a connection in his hands everybody would wait for his next turn.
    async fn read<T: Send + 'static>(
        &self,
        read: impl Future<Output = sqlx::Result<T>> + Send + 'static,
    ) -> sqlx::Result<T> {
        if Handle::current().id() == self.0.home.id() {
            return read.await;
        }
        match AbortOnDropHandle::new(self.0.home.spawn(read))
            .await
            .map_err(JoinError::try_into_panic)
        {
            Ok(read) => read,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            Err(Err(_)) => Err(sqlx::Error::PoolClosed),
        }
    }

    async fn one<T>(
        &self,
        operation: &'static str,
        query: Query<'static, Sqlite, SqliteArguments>,
        read: fn(&SqliteRow) -> sqlx::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let reads = self.0.reads.clone();
        let found = self.read(async move { query.fetch_optional(&reads).await }).await;
        found
            .and_then(|row| row.as_ref().map(read).transpose())
            .map_err(|error| StoreError::database(operation, error))
    }

    /// As [`Self::one`], when it is the tenant's turn for a task: one may be as long as a body, and a
    /// tenant who asks for many waits for himself.
    async fn one_task<T>(
        &self,
        tenant: TenantId,
        operation: &'static str,
        query: Query<'static, Sqlite, SqliteArguments>,
        read: fn(&SqliteRow) -> sqlx::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let tasks = self.0.tasks.clone();
        let found = self.read(async move {
            let mut turn = tasks.turn(tenant).await?;
            query.fetch_optional(&mut *turn.connection).await
        });
        found
            .await
            .and_then(|row| row.as_ref().map(read).transpose())
            .map_err(|error| busy(operation, error))
    }

    /// As [`Self::many`], when it is the tenant's turn for a list.
    async fn list<T>(
        &self,
        tenant: TenantId,
        operation: &'static str,
        query: Query<'static, Sqlite, SqliteArguments>,
        read: impl Fn(&SqliteRow) -> sqlx::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let lists = self.0.lists.clone();
        let found = self.read(async move {
            let mut turn = lists.turn(tenant).await?;
            query.fetch_all(&mut *turn.connection).await
        });
        found
            .await
            .and_then(|rows| rows.iter().map(read).collect())
            .map_err(|error| busy(operation, error))
    }

    async fn many<T>(
        &self,
        operation: &'static str,
        query: Query<'static, Sqlite, SqliteArguments>,
        read: fn(&SqliteRow) -> sqlx::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let reads = self.0.reads.clone();
        let found = self.read(async move { query.fetch_all(&reads).await }).await;
        found
            .and_then(|rows| rows.iter().map(read).collect())
            .map_err(|error| StoreError::database(operation, error))
    }
}

/// A turn that did not come in time is no failure of the store.
fn busy(operation: &'static str, error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::PoolTimedOut => StoreError::Busy { operation },
        error => StoreError::database(operation, error),
    }
}
