//! How the embedded database is opened, and what all statements share: the settings that make a
//! commit durable, and `INSERT`s and look-ups of many rows at once.

pub(super) mod checkpoints;

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use futures::TryStreamExt as _;
use sqlx::migrate::Migrator;
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode,
    SqlitePool, SqlitePoolOptions, SqliteQueryResult, SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _, Either, Executor as _, Sqlite};

/// Every change of the schema so far, compiled in.
pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");

/// How long a statement waits for another process's lock: a command's, a backup's, or that of a
/// curious `sqlite3`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// [`BUSY_TIMEOUT`], for a writer that had another one for a moment.
pub(super) const BUSY_TIMEOUT_OF_WRITER: &str = "PRAGMA busy_timeout = 5000";

/// Connections for reading. A read takes tens of microseconds from the cache, so a few suffice; each
/// one is a thread with a page cache of its own.
const READERS_MAX: u32 = 4;

/// Connections for lists: with two of them the long list of one tenant is in nobody's way.
const LISTERS_MAX: u32 = 2;

/// How long a read waits for one of them.
pub(super) const READER_WAIT_MAX: Duration = Duration::from_secs(5);

/// Prepared statements that the writer keeps: fourteen of [`BatchStatement`] in 64 lengths each, and the others.
const STATEMENTS_MAX: usize = 960;

/// Opens the one connection that writes: makes the file if there is none, readable by its owner only,
/// and brings the schema up to date.
pub(super) async fn open_writer(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    create_privately(path)?;
    let options = settings(path)
        // Only then what is deleted can be given back without writing the whole file anew.
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        // NORMAL would sync at checkpoints only: an acknowledged task could be lost with the power.
        .synchronous(SqliteSynchronous::Full)
        // What SQLite sets aside to undo a statement holds payloads: not into a file in /tmp.
        .pragma("temp_store", "MEMORY")
        // Not within a commit: see `checkpoints`.
        .pragma("wal_autocheckpoint", "0")
        .statement_cache_capacity(STATEMENTS_MAX);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    MIGRATIONS.run(&mut connection).await?;
    vacuum_once(&mut connection).await?;
    Ok(connection)
}

/// Writes a file anew that was made before pages could be given back.
async fn vacuum_once(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    const NONE: i64 = 0;
    let mode: i64 = sqlx::query_scalar("PRAGMA auto_vacuum").fetch_one(&mut *connection).await?;
    if mode == NONE {
        tracing::info!("the store's file is written anew, once; that takes as long as to copy it");
        execute(sqlx::query("PRAGMA auto_vacuum = INCREMENTAL"), connection).await?;
        execute(sqlx::query("VACUUM"), connection).await?;
    }
    Ok(())
}

/// Opens the connection that moves the log into the file. It never waits: whoever is in its way goes first.
pub(super) async fn open_for_checkpoints(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = settings(path)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::ZERO)
        .pragma("wal_autocheckpoint", "0");
    SqliteConnection::connect_with(&options).await
}

/// The connections that read. They are opened as they are needed, after [`open_writer`].
pub(super) fn readers(path: &Path) -> SqlitePool {
    pool(path, READERS_MAX)
}

/// The connections that walk lists.
pub(super) fn listers(path: &Path) -> SqlitePool {
    pool(path, LISTERS_MAX)
}

fn pool(path: &Path, connections: u32) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(READER_WAIT_MAX)
        // A local file does not hang up: neither is it asked before each read, nor are connections
        // renewed.
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
        .connect_lazy_with(settings(path).read_only(true))
}

fn settings(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        // Each statement at debug level would be thousands of lines a second. Slow ones are still
        // warned of, without what is bound to them.
        .log_statements(tracing::log::LevelFilter::Off)
}

/// SQLite gives the write-ahead log the permissions of the database file, so these cover both.
fn create_privately(path: &Path) -> io::Result<()> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {
            // The file's name has to survive a power cut as well, not only what is in it.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Rows of one statement at most. Up to here each further row makes a statement cheaper per row.
const ROWS_MAX: usize = 64;

/// One statement in as many lengths as there can be rows, so that any number of rows takes as few
/// statements as can be: each is a change of threads, which costs more than the row it is for. Every
/// length is written out and prepared once, when it is first needed.
pub(super) struct BatchStatement {
    before: &'static str,
    row: &'static str,
    after: &'static str,
    texts: [OnceLock<String>; ROWS_MAX],
}

impl BatchStatement {
    /// A statement that consists of `before`, then `row` as often as there are rows, separated by
    /// commas, then `after`.
    pub(super) const fn new(before: &'static str, row: &'static str, after: &'static str) -> Self {
        Self { before, row, after, texts: [const { OnceLock::new() }; ROWS_MAX] }
    }

    /// The rows in parts, each with the statement of just its length.
    pub(super) fn parts<'r, T: Sync>(
        &'static self,
        rows: &'r [T],
    ) -> impl Iterator<Item = (&'static str, &'r [T])> + Send {
        rows.chunks(ROWS_MAX).filter_map(|part| {
            let text = self.texts.get(part.len().checked_sub(1)?)?;
            Some((text.get_or_init(|| self.text(part.len())).as_str(), part))
        })
    }

    fn text(&self, rows: usize) -> String {
        format!("{} {} {}", self.before, vec![self.row; rows].join(", "), self.after)
    }
}

/// Several statements about the same rows, run one after the other without a change of threads between them. What
/// is bound goes to them in their order.
pub(super) struct BatchScript<const N: usize> {
    statements: [BatchStatement; N],
    texts: [OnceLock<String>; ROWS_MAX],
}

impl<const N: usize> BatchScript<N> {
    pub(super) const fn new(statements: [BatchStatement; N]) -> Self {
        Self { statements, texts: [const { OnceLock::new() }; ROWS_MAX] }
    }

    /// As [`BatchStatement::parts`].
    pub(super) fn parts<'r, T: Sync>(
        &'static self,
        rows: &'r [T],
    ) -> impl Iterator<Item = (&'static str, &'r [T])> + Send {
        rows.chunks(ROWS_MAX).filter_map(|part| {
            let text = self.texts.get(part.len().checked_sub(1)?)?;
            Some((text.get_or_init(|| self.text(part.len())).as_str(), part))
        })
    }

    /// Each of the statements by itself.
    #[cfg(test)]
    pub(super) fn statements(&'static self) -> impl Iterator<Item = &'static BatchStatement> {
        self.statements.iter()
    }

    fn text(&self, rows: usize) -> String {
        let texts: Vec<_> = self.statements.iter().map(|statement| statement.text(rows)).collect();
        texts.join("; ")
    }

    /// Runs the statements of a part, and gives the rows that they return.
    pub(super) async fn run(
        &self,
        query: Query<'_, Sqlite, SqliteArguments>,
        db: &mut SqliteConnection,
    ) -> sqlx::Result<Vec<SqliteRow>> {
        run(query, N, db).await.map(|(rows, _)| rows)
    }
}

/// Runs one statement of the writer.
pub(super) async fn execute(
    query: Query<'_, Sqlite, SqliteArguments>,
    db: &mut SqliteConnection,
) -> sqlx::Result<SqliteQueryResult> {
    run(query, 1, db).await.map(|(_, done)| done)
}

/// Runs one statement of the writer that returns rows.
pub(super) async fn fetch(
    query: Query<'_, Sqlite, SqliteArguments>,
    db: &mut SqliteConnection,
) -> sqlx::Result<Vec<SqliteRow>> {
    run(query, 1, db).await.map(|(rows, _)| rows)
}

/// The library's own functions wait for the result and then once more, for the end of results. Each
/// wait is a change of threads; with few callers those are most of what a commit costs.
async fn run(
    query: Query<'_, Sqlite, SqliteArguments>,
    statements: usize,
    db: &mut SqliteConnection,
) -> sqlx::Result<(Vec<SqliteRow>, SqliteQueryResult)> {
    let mut results = db.fetch_many(query);
    let (mut rows, mut left) = (Vec::new(), statements);
    while let Some(result) = results.try_next().await? {
        match result {
            Either::Right(row) => rows.push(row),
            Either::Left(done) => {
                left -= 1;
                if left == 0 {
                    return Ok((rows, done));
                }
            }
        }
    }
    Err(sqlx::Error::WorkerCrashed)
}

/// SQLite's primary result code, where the error is one of SQLite's.
pub(super) fn sqlite_code(error: &sqlx::Error) -> Option<u32> {
    let extended: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}
