//! Long texts. A text that would make a commit long is written ahead in chunks. Each write of chunks takes turns like
//! any other write, so that no caller waits for more than a few chunks. The operation that the text belongs to comes
//! last and is small: its transaction claims the chunks, which makes them the text of a task. Each commit is synced,
//! so the chunks are durable when the claim is.
//!
//! Chunks are numbered consecutively, and the texts of one operation occupy a range of numbers. From the commit of
//! its first chunk until it is claimed, the range is recorded in `unclaimed_chunks`. A rejected operation deletes its
//! chunks at once. Chunks that a dead process has left are deleted at the next start. A deleted task first returns
//! its chunks to that table, since deleting them takes several commits too.
//!
//! The column of a chunked text is empty, so that reading a text that is not chunked costs nothing extra.

mod chunker;

use std::marker::PhantomData;

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

#[cfg(test)]
pub(in crate::store) use self::chunker::INLINE_BYTES_MAX;
pub(in crate::store) use self::chunker::{CHUNK_BYTES, ChunkRange, Chunked, Chunker, Part};
pub(in crate::store) use self::chunker::{Chunk, in_writes};
use crate::store::fair_queue::Flow;
use crate::store::rows;
use crate::store::sqlite::{BatchStatement, execute};
use crate::store::write::{Refusal, Session, SingleWrite, Write};

/// How many writes of one operation wait in a flow at a time. More would fill the flow of the tenant, whose small
/// operations would then wait for room.
pub(in crate::store) const WRITES_WAITING_MAX: usize = 4;

/// How many chunks are deleted at a time. A deletion reads their pages and hardly writes them.
pub(in crate::store) const DELETED_AT_ONCE: i64 = 8;

/// The first number that no chunk has, nor will have from a process that has ended.
pub(in crate::store) const NEXT_NUMBER: &str = "\
    SELECT 1 + max(coalesce((SELECT max(number) FROM chunks), 0), \
                   coalesce((SELECT max(last_chunk) FROM unclaimed_chunks), 0))";

static INSERT_CHUNKS: BatchStatement =
    BatchStatement::new("INSERT INTO chunks (number, bytes) VALUES", "(?, ?)", "");

static INSERT_TEXTS: BatchStatement = BatchStatement::new(
    "INSERT INTO chunked_texts (task_sequence, part, position, first_chunk, last_chunk, octets) VALUES",
    "(?, ?, ?, ?, ?, ?)",
    "",
);

/// Executed with every write of chunks, since the first one may have failed.
const NOTE_UNCLAIMED: &str =
    "INSERT OR IGNORE INTO unclaimed_chunks (first_chunk, last_chunk) VALUES (?, ?)";

pub(in crate::store) const CLAIM: &str = "DELETE FROM unclaimed_chunks WHERE first_chunk = ?";

/// Returns the chunks of a task to `unclaimed_chunks`.
pub(in crate::store) const UNCLAIM: &str = "\
    INSERT INTO unclaimed_chunks \
    SELECT first_chunk, last_chunk FROM chunked_texts WHERE task_sequence = ? \
    RETURNING first_chunk, last_chunk";

/// Deletes nothing if the range has been claimed after all.
pub(in crate::store) const DELETE: &str = "\
    DELETE FROM chunks WHERE number BETWEEN ? AND ? \
    AND EXISTS (SELECT 1 FROM unclaimed_chunks WHERE first_chunk = ?)";

/// A write that may have long texts.
pub(in crate::store) trait LongWrite: Write {
    /// Passes each text that may be long to the chunker, which replaces those that it takes with empty ones.
    fn cut(&mut self, chunker: &mut Chunker);

    /// Where the write stores the chunks that it is to claim.
    fn chunked(&mut self) -> &mut Option<Chunked>;

    /// Whether the write has happened and claimed its chunks. It has not if, for example, an idempotency key was
    /// taken.
    fn is_applied(answer: &Self::Answer) -> bool;
}

/// Columns: first_chunk, last_chunk.
pub(in crate::store) fn range(row: &SqliteRow) -> sqlx::Result<ChunkRange> {
    Ok(ChunkRange { first: row.try_get(0)?, last: row.try_get(1)? })
}

/// Makes chunks the texts of tasks. Each entry holds the task's sequence, the position of its first event, and the
/// chunks.
pub(in crate::store) async fn claim(
    claims: &[(i64, i64, &Chunked)],
    session: &mut Session<'_>,
) -> sqlx::Result<()> {
    let mut texts = Vec::new();
    for (sequence, first_position, chunked) in claims {
        let claimed = execute(sqlx::query(CLAIM).bind(chunked.range.first), session.db).await?;
        if claimed.rows_affected() != 1 {
            return Err(rows::unreadable("the chunks of a text are gone"));
        }
        texts.extend(chunked.texts.iter().map(|text| (sequence, first_position, text)));
    }
    for (sql, part) in INSERT_TEXTS.parts(&texts) {
        let mut query = sqlx::query(sql);
        for (sequence, first_position, text) in part {
            let (stored, position) = match text.part {
                Part::Event(position) => Part::Event(position + **first_position),
                part => part,
            }
            .stored();
            query = query
                .bind(**sequence)
                .bind(stored)
                .bind(position)
                .bind(text.range.first)
                .bind(text.range.last)
                .bind(text.octets);
        }
        execute(query, session.db).await?;
    }
    Ok(())
}

/// Writes chunks of an operation `W`, within the range of that operation.
pub(in crate::store) struct WriteChunks<W> {
    pub(in crate::store) flow: Flow,
    pub(in crate::store) range: ChunkRange,
    pub(in crate::store) chunks: Vec<Chunk>,
    pub(in crate::store) of: PhantomData<fn() -> W>,
}

impl<W: Write> Write for WriteChunks<W> {
    type Answer = ();
    const OPERATION: &'static str = W::OPERATION;

    fn flow(&self) -> Flow {
        self.flow
    }

    /// Counts as a full chunk, so that all writes of one operation, and its deletions, stay in order.
    fn bytes(&self) -> usize {
        CHUNK_BYTES
    }
}

impl<W: Write> SingleWrite for WriteChunks<W> {
    async fn apply(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let note = sqlx::query(NOTE_UNCLAIMED).bind(self.range.first).bind(self.range.last);
        execute(note, session.db).await?;
        for (sql, part) in INSERT_CHUNKS.parts(&self.chunks) {
            let mut query = sqlx::query(sql);
            for chunk in part {
                query = query.bind(chunk.number).bind(chunk.bytes());
            }
            execute(query, session.db).await?;
        }
        Ok(())
    }
}

/// Deletes a part of an unclaimed range, and with the last part the range itself.
pub(in crate::store) struct DeleteChunks {
    pub(in crate::store) flow: Flow,
    pub(in crate::store) range: ChunkRange,
    pub(in crate::store) part: ChunkRange,
}

impl Write for DeleteChunks {
    type Answer = ();
    const OPERATION: &'static str = "delete unclaimed chunks";

    fn flow(&self) -> Flow {
        self.flow
    }

    /// See [`WriteChunks`].
    fn bytes(&self) -> usize {
        CHUNK_BYTES
    }
}

impl SingleWrite for DeleteChunks {
    async fn apply(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let delete =
            sqlx::query(DELETE).bind(self.part.first).bind(self.part.last).bind(self.range.first);
        execute(delete, session.db).await?;
        if self.part.last == self.range.last {
            execute(sqlx::query(CLAIM).bind(self.range.first), session.db).await?;
        }
        Ok(())
    }
}
