//! Checkpoints: moving the write-ahead log into the database file. SQLite by default does that within a commit, which
//! delays every caller that waits for the writer; here it happens on a connection of its own.
//!
//! While the writer is busy, such a checkpoint never reaches the end of the growing log, so the log is never
//! restarted. Once it is too long, the writer itself moves the little that is left.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Row as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::fetch;
use crate::store::sqlite;

/// Approximate bytes that a commit adds to the log besides its texts: the pages of rows and indexes.
const COMMIT_BYTES: usize = 32 << 10;

/// The bytes of a page in the log.
const PAGE_BYTES: u64 = 4096;

/// The maximum number of consecutive checkpoints that try to catch up with the writer, and how many bytes behind it
/// is close enough.
const PASSES_MAX: usize = 4;
const NEAR_BYTES: u64 = 1 << 20;

/// Bounds on the length of the log.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct LogBounds {
    /// Approximate bytes between two checkpoints.
    pub(in crate::store) step: usize,
    /// From this many bytes on, the writer restarts the log. Only a long read, usually of another process, makes the
    /// log grow further.
    pub(in crate::store) bytes_max: u64,
    /// How long the store must be idle before a log longer than `step` releases its disk space. A shorter log keeps
    /// its space: overwriting a file is faster than extending it.
    pub(in crate::store) idle: Duration,
}

/// A longer log does not reduce the bytes moved, since large texts are written once, and it makes commits slower:
/// with four times these bounds, commits of a single caller took a quarter longer, and commits next to large ones
/// waited twice as long.
pub(in crate::store) const LOG_BOUNDS: LogBounds =
    LogBounds { step: 4 << 20, bytes_max: 16 << 20, idle: Duration::from_secs(30) };

/// The writer's end.
pub(in crate::store) struct Checkpoints {
    bounds: LogBounds,
    /// Bytes written since the last checkpoint was requested.
    written: usize,
    /// Bytes written since the writer last restarted the log.
    written_since_restart: u64,
    shared: Arc<Shared>,
    due: mpsc::Sender<()>,
    task: JoinHandle<()>,
}

/// State shared by the two connections.
#[derive(Default)]
struct Shared {
    commits: AtomicU64,
    is_too_long: AtomicBool,
}

/// The bytes of the log at a checkpoint, and how many of them are in the database now.
#[derive(Debug, Clone, Copy)]
struct Progress {
    log: u64,
    moved: u64,
}

impl Progress {
    fn left(self) -> u64 {
        self.log.saturating_sub(self.moved)
    }
}

impl Checkpoints {
    /// Starts checkpoints for the writer of this database file.
    pub(in crate::store) fn start(path: &Path, bounds: LogBounds) -> Self {
        let shared = Arc::new(Shared::default());
        let (due, requests) = mpsc::channel(1);
        let checkpointer =
            Checkpointer { path: path.to_owned(), bounds, shared: Arc::clone(&shared), db: None };
        let task = tokio::spawn(checkpointer.serve(requests));
        Self { bounds, written: 0, written_since_restart: 0, shared, due, task }
    }

    /// Counts a commit of the writer with texts of this many bytes, and requests a checkpoint if one is due.
    pub(in crate::store) async fn after_commit(
        &mut self,
        bytes: usize,
        writer: &mut SqliteConnection,
    ) {
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        let bytes = bytes.saturating_add(COMMIT_BYTES);
        self.written = self.written.saturating_add(bytes);
        self.written_since_restart =
            self.written_since_restart.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.written >= self.bounds.step && self.due.try_send(()).is_ok() {
            self.written = 0;
        }
        let is_too_long = self.shared.is_too_long.swap(false, Ordering::Relaxed)
            // A fallback, however slow the other connection is.
            || self.written_since_restart >= self.bounds.bytes_max.saturating_mul(4);
        if is_too_long {
            self.written_since_restart = 0;
            if let Err(error) = restart_log(writer).await {
                warn(&error);
            }
        }
    }

    /// Closes the connection, so that the writer is the last one to close the file.
    pub(in crate::store) async fn end(self) {
        drop(self.due);
        if let Err(error) = self.task.await {
            tracing::error!(error = &error as &dyn std::error::Error, "checkpoints have ended");
        }
    }
}

/// Moves what is left of the log and waits for its readers, so that the next commit restarts it. The wait is short,
/// since every caller waits meanwhile. If a reader takes longer, the log keeps growing until the next checkpoint
/// tries again.
async fn restart_log(writer: &mut SqliteConnection) -> sqlx::Result<()> {
    fetch(sqlx::query("PRAGMA busy_timeout = 100"), writer).await?;
    let moved = checkpoint("PRAGMA wal_checkpoint(RESTART)", writer).await;
    fetch(sqlx::query(sqlite::BUSY_TIMEOUT_OF_WRITER), writer).await?;
    moved.map(drop)
}

/// The other end: a task with its own connection, which is opened on first use.
struct Checkpointer {
    path: PathBuf,
    bounds: LogBounds,
    shared: Arc<Shared>,
    db: Option<SqliteConnection>,
}

impl Checkpointer {
    async fn serve(mut self, mut requests: mpsc::Receiver<()>) {
        // The number of commits at the last idle check, and when the log was last emptied.
        let (mut seen, mut emptied) = (0, 0);
        loop {
            let done = match tokio::time::timeout(self.bounds.idle, requests.recv()).await {
                Ok(Some(())) => self.catch_up().await,
                Ok(None) => break,
                Err(_) => {
                    let commits = self.shared.commits.load(Ordering::Relaxed);
                    let is_idle = commits == std::mem::replace(&mut seen, commits);
                    if !is_idle || commits == emptied {
                        continue;
                    }
                    emptied = commits;
                    self.empty().await
                }
            };
            if let Err(error) = done {
                warn(&error);
                // The writer's own connection may still succeed.
                self.shared.is_too_long.store(true, Ordering::Relaxed);
            }
        }
        if let Some(db) = self.db
            && let Err(error) = db.close().await
        {
            warn(&error);
        }
    }

    /// Runs checkpoints until little of the log is left.
    async fn catch_up(&mut self) -> sqlx::Result<()> {
        let bytes_max = self.bounds.bytes_max;
        let db = self.connection().await?;
        let mut progress = checkpoint(PASSIVE, db).await?;
        if progress.log < bytes_max {
            return Ok(());
        }
        for _ in 1..PASSES_MAX {
            if progress.left() <= NEAR_BYTES {
                break;
            }
            progress = checkpoint(PASSIVE, db).await?;
        }
        self.shared.is_too_long.store(progress.log >= bytes_max, Ordering::Relaxed);
        Ok(())
    }

    /// Moves all of a long log and truncates it, unless another connection writes or reads.
    async fn empty(&mut self) -> sqlx::Result<()> {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let is_long =
            |log: Metadata| usize::try_from(log.len()).is_ok_and(|len| len > self.bounds.step);
        if !tokio::fs::metadata(log).await.is_ok_and(is_long) {
            return Ok(());
        }
        let db = self.connection().await?;
        // First the long part, during which others can write; afterwards nothing is left to move.
        if checkpoint(PASSIVE, db).await?.left() == 0 {
            checkpoint("PRAGMA wal_checkpoint(TRUNCATE)", db).await?;
        }
        Ok(())
    }

    async fn connection(&mut self) -> sqlx::Result<&mut SqliteConnection> {
        let db = match self.db.take() {
            Some(db) => db,
            None => sqlite::open_for_checkpoints(&self.path).await?,
        };
        Ok(self.db.insert(db))
    }
}

/// Moves as much as possible without waiting for another connection or making one wait.
const PASSIVE: &str = "PRAGMA wal_checkpoint(PASSIVE)";

async fn checkpoint(how: &'static str, db: &mut SqliteConnection) -> sqlx::Result<Progress> {
    let rows = fetch(sqlx::query(how), db).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    // Both values are -1 if another checkpoint is in progress, which then does the work.
    let bytes = |column| -> sqlx::Result<u64> {
        let pages: i64 = row.try_get(column)?;
        Ok(u64::try_from(pages).unwrap_or_default().saturating_mul(PAGE_BYTES))
    };
    Ok(Progress { log: bytes(1)?, moved: bytes(2)? })
}

fn warn(error: &sqlx::Error) {
    // Nothing is lost: the log only grows.
    tracing::warn!(
        error = error as &dyn std::error::Error,
        "the write-ahead log could not be moved into the store"
    );
}
