//! Opens the embedded database and holds what all statements share: the settings that make a commit durable, and
//! `INSERT`s and look-ups of many rows at once.

pub(super) mod checkpoints;
pub(super) mod migrations;

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use futures::TryStreamExt as _;
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteAutoVacuum, SqliteConnectOptions, SqliteConnection, SqliteJournalMode,
    SqlitePool, SqlitePoolOptions, SqliteQueryResult, SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _, Either, Executor as _, Sqlite};

/// How long a statement waits for a lock of another process: a command, a backup or an interactive `sqlite3`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Restores [`BUSY_TIMEOUT`] for the writer after it has temporarily used another one.
pub(super) const BUSY_TIMEOUT_OF_WRITER: &str = "PRAGMA busy_timeout = 5000";

/// The number of connections for reads. A read takes tens of microseconds from the cache, so a few suffice; each
/// connection has a thread and a page cache of its own.
const READERS_MAX: u32 = 4;

/// The number of connections for lists. With two of them, a long list of one tenant blocks no other tenant.
const LISTERS_MAX: u32 = 2;

/// How long a read waits for one of them.
pub(super) const READER_WAIT_MAX: Duration = Duration::from_secs(5);

/// Prepared statements that the writer caches: fourteen of [`BatchStatement`] in 64 lengths each, and the others.
const STATEMENTS_MAX: usize = 960;

/// Opens the single connection for writes. Creates the file if it does not exist, readable by its owner only, and
/// migrates the schema.
pub(super) async fn open_writer(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    create_privately(path)?;
    let options = settings(path)
        // Without this, the space of deleted rows can be released only by rewriting the whole file.
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        // NORMAL syncs only at checkpoints: a power cut could lose an acknowledged task.
        .synchronous(SqliteSynchronous::Full)
        // SQLite's statement journals hold payloads: keep them out of files in /tmp.
        .pragma("temp_store", "MEMORY")
        // Checkpoints do not run within a commit: see `checkpoints`.
        .pragma("wal_autocheckpoint", "0")
        .statement_cache_capacity(STATEMENTS_MAX);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    migrations::migrator().run(&mut connection).await?;
    vacuum_once(&mut connection).await?;
    Ok(connection)
}

/// Rewrites a file that was created before free pages could be released.
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

/// Opens the connection for checkpoints. It never waits for a lock: all other connections take precedence.
pub(super) async fn open_for_checkpoints(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = settings(path)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::ZERO)
        .pragma("wal_autocheckpoint", "0");
    SqliteConnection::connect_with(&options).await
}

/// The connections for reads. They are opened on demand, after [`open_writer`].
pub(super) fn readers(path: &Path) -> SqlitePool {
    pool(path, READERS_MAX)
}

/// The connections for lists.
pub(super) fn listers(path: &Path) -> SqlitePool {
    pool(path, LISTERS_MAX)
}

fn pool(path: &Path, connections: u32) -> SqlitePool {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(READER_WAIT_MAX)
        // A local file does not drop connections: they are neither tested before a read nor renewed.
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
        // At debug level, statements would log thousands of lines per second. Slow ones are still logged as warnings,
        // without their bound values.
        .log_statements(tracing::log::LevelFilter::Off)
}

/// Creates the file for its owner only. SQLite gives the write-ahead log the permissions of the database file, so
/// these cover both.
fn create_privately(path: &Path) -> io::Result<()> {
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => {
            // The directory entry must survive a power cut too, not only the content of the file.
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// The maximum number of rows in one statement. Up to this number, each further row makes a statement cheaper per
/// row.
const ROWS_MAX: usize = 64;

/// The texts of a statement by its number of rows, each formatted once, on first use.
struct TextsByLength([OnceLock<String>; ROWS_MAX]);

impl TextsByLength {
    const fn new() -> Self {
        Self([const { OnceLock::new() }; ROWS_MAX])
    }

    /// Splits the rows into parts, each with the text of exactly its length. `text` formats one.
    fn parts<'r, T: Sync>(
        &'static self,
        rows: &'r [T],
        text: impl Fn(usize) -> String + Send,
    ) -> impl Iterator<Item = (&'static str, &'r [T])> + Send {
        rows.chunks(ROWS_MAX).filter_map(move |part| {
            let slot = self.0.get(part.len().checked_sub(1)?)?;
            Some((slot.get_or_init(|| text(part.len())).as_str(), part))
        })
    }
}

/// One statement in every length up to [`ROWS_MAX`], so that any number of rows takes as few statements as possible.
/// Each statement is a switch between threads, which costs more than the row itself. Each length is formatted and
/// prepared once, on first use.
pub(super) struct BatchStatement {
    before: &'static str,
    row: &'static str,
    after: &'static str,
    texts: TextsByLength,
}

impl BatchStatement {
    /// A statement that consists of `before`, then `row` once per row, separated by commas, then `after`.
    pub(super) const fn new(before: &'static str, row: &'static str, after: &'static str) -> Self {
        Self { before, row, after, texts: TextsByLength::new() }
    }

    /// Splits the rows into parts, each with the statement of exactly its length.
    pub(super) fn parts<'r, T: Sync>(
        &'static self,
        rows: &'r [T],
    ) -> impl Iterator<Item = (&'static str, &'r [T])> + Send {
        self.texts.parts(rows, |rows| self.text(rows))
    }

    fn text(&self, rows: usize) -> String {
        format!("{} {} {}", self.before, vec![self.row; rows].join(", "), self.after)
    }
}

/// Several statements about the same rows, executed one after the other without a thread switch between them. Values
/// are bound in the order of the statements.
pub(super) struct BatchScript<const N: usize> {
    statements: [BatchStatement; N],
    texts: TextsByLength,
}

impl<const N: usize> BatchScript<N> {
    pub(super) const fn new(statements: [BatchStatement; N]) -> Self {
        Self { statements, texts: TextsByLength::new() }
    }

    /// Like [`BatchStatement::parts`].
    pub(super) fn parts<'r, T: Sync>(
        &'static self,
        rows: &'r [T],
    ) -> impl Iterator<Item = (&'static str, &'r [T])> + Send {
        self.texts.parts(rows, |rows| self.text(rows))
    }

    /// The individual statements.
    #[cfg(test)]
    pub(super) fn statements(&'static self) -> impl Iterator<Item = &'static BatchStatement> {
        self.statements.iter()
    }

    fn text(&self, rows: usize) -> String {
        let texts: Vec<_> = self.statements.iter().map(|statement| statement.text(rows)).collect();
        texts.join("; ")
    }

    /// Executes the statements of a part, and returns their rows.
    pub(super) async fn fetch_rows(
        &self,
        query: Query<'_, Sqlite, SqliteArguments>,
        db: &mut SqliteConnection,
    ) -> sqlx::Result<Vec<SqliteRow>> {
        execute_statements(query, N, db).await.map(|(rows, _)| rows)
    }
}

/// Executes one statement of the writer.
pub(super) async fn execute(
    query: Query<'_, Sqlite, SqliteArguments>,
    db: &mut SqliteConnection,
) -> sqlx::Result<SqliteQueryResult> {
    execute_statements(query, 1, db).await.map(|(_, done)| done)
}

/// Executes one statement of the writer that returns rows.
pub(super) async fn fetch(
    query: Query<'_, Sqlite, SqliteArguments>,
    db: &mut SqliteConnection,
) -> sqlx::Result<Vec<SqliteRow>> {
    execute_statements(query, 1, db).await.map(|(rows, _)| rows)
}

/// The functions of sqlx wait for the result and then again for the end of the results. Each wait is a thread switch,
/// and with few callers these switches are most of the cost of a commit.
async fn execute_statements(
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

/// SQLite's primary result code, if the error comes from SQLite.
pub(super) fn sqlite_code(error: &sqlx::Error) -> Option<u32> {
    let extended: u32 = error.as_database_error()?.code()?.parse().ok()?;
    Some(extended & 0xff)
}
