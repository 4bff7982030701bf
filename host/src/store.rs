//! The store: everything that outlives the process. No other module contains SQL or knows that there is a database.
//!
//! All writes go through one writer. It takes them from all tenants in turn, commits the writes of many callers with
//! a single sync, and only then replies: a reply means that the write survives a power cut. Reads use connections of
//! their own and see every write that was acknowledged before they started.
//!
//! Every query about a tenant's data takes the tenant. The exceptions are look-ups by something that is itself proof
//! of access (the hash of a key, the hash of a webhook token, the id of a task), the look-up of a channel by the id
//! in its URL, and queries of the gateway itself and of operators.

mod changes;
mod directory;
mod error;
mod fair_pool;
mod fair_queue;
mod other_processes;
mod rows;
mod sqlite;
mod tasks;
mod tenant_cache;
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
use self::fair_pool::FairPool;
use self::sqlite::checkpoints::{Checkpoints, LOG_BOUNDS};
pub use self::tasks::approvals::DecideOutcome;
pub use self::tasks::deliveries::DueDelivery;
pub use self::tasks::journal::Durability;
pub use self::tasks::spending::{DaySpending, Spent};
pub use self::tasks::turns::Capacity;
pub use self::tenant_cache::TenantCache;
use self::write::{Queued, SingleWrite, Write, WriterState};
use self::writer::{Op, Writer};
use crate::clock::{Clock, Timestamp};
use crate::ids::{OwnerId, TenantId};

/// The store. Clones are handles to the same store.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    clock: Clock,
    changes: Changes,
    /// Identifies this process, from its start to its end, as the owner of leases.
    owner: OwnerId,
    /// The runtime on which the store was opened.
    home: Handle,
    reads: SqlitePool,
    /// Lists walk many rows, so they have connections of their own and delay only each other.
    lists: FairPool,
    /// Connections for reading whole tasks, which can be as long as request bodies.
    tasks: FairPool,
    writes: fair_queue::Sender<Op>,
    /// The number of the first chunk of this process; `next_chunk` is the next free number.
    first_chunk: i64,
    next_chunk: AtomicI64,
    /// Closes when the writer has closed the database.
    writer_ended: watch::Receiver<()>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens the store in this file. Creates the file, readable by its owner only, if it does not exist, and migrates
    /// the schema. Only one process at a time may accept and run tasks; the caller ensures that. Other processes,
    /// such as commands, may change what tenants own at the same time.
    ///
    /// # Errors
    /// If the file cannot be opened or created, or is not a store.
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
            state: WriterState { last_sequence, last_turn: None, alive_until: None, next_due },
            syncs: true,
        };
        let (writes, waiting) = fair_queue::queue();
        let (ended, writer_ended) = watch::channel(());
        let checkpoints = Checkpoints::start(path, LOG_BOUNDS);
        tokio::spawn(async move {
            writer.serve(waiting, checkpoints).await;
            drop(ended);
        });
        let reads = sqlite::readers(path);
        let (lists, tasks) =
            (FairPool::new(sqlite::listers(path)), FairPool::new(sqlite::listers(path)));
        let next_chunk = AtomicI64::new(first_chunk);
        let home = Handle::current();
        let handles = Shared {
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

    /// Completes the writes in the queue and closes the database. Every later operation, on any handle, returns
    /// [`StoreError::Unavailable`].
    pub async fn close(&self) {
        // Readers first: while one of them is open, the write-ahead log cannot be moved into the file completely.
        self.0.reads.close().await;
        self.0.lists.close().await;
        self.0.tasks.close().await;
        self.0.writes.close();
        let mut ended = self.0.writer_ended.clone();
        // Nothing is ever sent: the loop ends when the writer drops the sender.
        while ended.changed().await.is_ok() {}
    }

    /// Checks that the store can be read.
    ///
    /// # Errors
    /// If it cannot be read ([`StoreError::Unavailable`]).
    pub async fn ping(&self) -> Result<(), StoreError> {
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
        // If the reply never comes, the writer is gone; that is treated like a closed queue.
        let queued = self.0.writes.send(op(waiting), line, bytes).await;
        let answer = match queued {
            Ok(()) => answer.await.ok(),
            Err(fair_queue::Closed) => None,
        };
        answer.unwrap_or_else(|| Err(StoreError::database(W::OPERATION, sqlx::Error::PoolClosed)))
    }

    /// Runs a read on the runtime that the store was opened on. Other runtimes may poll their tasks rarely, tenants
    /// in turn: a read that holds a connection there would make all others wait for its next turn.
    async fn read_on_home_runtime<T: Send + 'static>(
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
        let found =
            self.read_on_home_runtime(async move { query.fetch_optional(&reads).await }).await;
        found
            .and_then(|row| row.as_ref().map(read).transpose())
            .map_err(|error| StoreError::database(operation, error))
    }

    /// Like [`Self::one`], once it is the tenant's turn to read a task. A task can be as long as a body, so a tenant
    /// that reads many delays only itself.
    async fn one_task<T>(
        &self,
        tenant: TenantId,
        operation: &'static str,
        query: Query<'static, Sqlite, SqliteArguments>,
        read: fn(&SqliteRow) -> sqlx::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        let tasks = self.0.tasks.clone();
        let found = self.read_on_home_runtime(async move {
            let mut turn = tasks.acquire(tenant).await?;
            query.fetch_optional(&mut *turn.connection).await
        });
        found
            .await
            .and_then(|row| row.as_ref().map(read).transpose())
            .map_err(|error| busy(operation, error))
    }

    /// Like [`Self::many`], once it is the tenant's turn to read a list.
    async fn list<T>(
        &self,
        tenant: TenantId,
        operation: &'static str,
        query: Query<'static, Sqlite, SqliteArguments>,
        read: impl Fn(&SqliteRow) -> sqlx::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        let lists = self.0.lists.clone();
        let found = self.read_on_home_runtime(async move {
            let mut turn = lists.acquire(tenant).await?;
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
        let found = self.read_on_home_runtime(async move { query.fetch_all(&reads).await }).await;
        found
            .and_then(|rows| rows.iter().map(read).collect())
            .map_err(|error| StoreError::database(operation, error))
    }
}

/// A turn that is not granted in time is [`StoreError::Busy`], not a failure of the store.
fn busy(operation: &'static str, error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::PoolTimedOut => StoreError::Busy { operation },
        error => StoreError::database(operation, error),
    }
}
