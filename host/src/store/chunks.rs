//! Long texts. One that would make a commit long is written ahead in chunks, each a write of its own that
//! takes its turn as others do, so that nobody waits for more than a chunk or a few. The operation that the
//! text belongs to comes last, and is small: in its own transaction it claims the chunks, by which they
//! become the text of a task. Each commit is synced, so the chunks are when the claim is.
//!
//! Chunks are numbered through, and the texts of one operation have a range of the numbers. Until it is
//! claimed the range stands in `unclaimed_chunks`, from the commit of its first chunk on. What is refused
//! deletes its chunks at once, what a dead process has left is deleted at the next start, and a task that is
//! deleted gives its chunks back into that table first, since deleting them takes several commits too.
//!
//! Where a text is in chunks, its column is empty, so that whoever reads a text which is not pays nothing.

mod cutting;

use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

#[cfg(test)]
pub(super) use self::cutting::KEPT_BYTES_MAX;
pub(super) use self::cutting::{CHUNK_BYTES, ChunkRange, Chunked, Cutter, Part};
use self::cutting::{Chunk, in_writes};
use super::lines::{Line, SMALL_BYTES_MAX};
use super::rows;
use super::sqlite::{ByRows, execute};
use super::writer::{Op, Refusal, Session, Waiting, Write, WriteAlone};
use super::{Store, StoreError};

/// Writes of one operation that wait in line at a time. More would fill the line of its tenant, in which
/// small operations would wait for room then.
const WRITES_WAITING_MAX: usize = 4;

/// Chunks that are deleted at a time. Their pages are read for it and hardly written.
const DELETED_AT_ONCE: i64 = 8;

/// The first number that no chunk has, nor will have from a process that has ended.
pub(super) const NEXT_NUMBER: &str = "\
    SELECT 1 + max(coalesce((SELECT max(number) FROM chunks), 0), \
                   coalesce((SELECT max(last_chunk) FROM unclaimed_chunks), 0))";

static INSERT_CHUNKS: ByRows =
    ByRows::new("INSERT INTO chunks (number, bytes) VALUES", "(?, ?)", "");

static INSERT_TEXTS: ByRows = ByRows::new(
    "INSERT INTO chunked_texts (task_sequence, part, position, first_chunk, last_chunk, octets) VALUES",
    "(?, ?, ?, ?, ?, ?)",
    "",
);

/// With every write of chunks: the first one may have failed.
const NOTE_UNCLAIMED: &str =
    "INSERT OR IGNORE INTO unclaimed_chunks (first_chunk, last_chunk) VALUES (?, ?)";

pub(super) const CLAIM: &str = "DELETE FROM unclaimed_chunks WHERE first_chunk = ?";

/// The chunks of a task are nobody's again.
pub(super) const GIVE_BACK: &str = "\
    INSERT INTO unclaimed_chunks \
    SELECT first_chunk, last_chunk FROM chunked_texts WHERE task_sequence = ? \
    RETURNING first_chunk, last_chunk";

/// Nothing where somebody has claimed them after all.
pub(super) const DELETE: &str = "\
    DELETE FROM chunks WHERE number BETWEEN ? AND ? \
    AND EXISTS (SELECT 1 FROM unclaimed_chunks WHERE first_chunk = ?)";

/// Reads a text of the task with this sequence from its column, or from its chunks.
macro_rules! whole_text {
    ($column:literal, $part:literal, $sequence:literal) => {
        $crate::store::chunks::whole_text!($column, $part, $sequence, "0")
    };
    ($column:literal, $part:literal, $sequence:literal, $position:literal) => {
        concat!(
            "CASE octet_length(",
            $column,
            ") WHEN 0 THEN coalesce((SELECT group_concat(bytes, '') FROM \
             (SELECT k.bytes FROM chunked_texts c \
              CROSS JOIN chunks k ON k.number BETWEEN c.first_chunk AND c.last_chunk \
              WHERE c.task_sequence = ",
            $sequence,
            " AND c.part = '",
            $part,
            "' AND c.position = ",
            $position,
            " ORDER BY k.number)), '') ELSE ",
            $column,
            " END"
        )
    };
}
pub(super) use whole_text;

/// A write that may have long texts.
pub(super) trait WriteLong: Write {
    /// Gives each of its texts that may be long to the cutter, which leaves an empty one for those that
    /// it takes.
    fn cut(&mut self, cutter: &mut Cutter);

    /// Where it keeps what it is to claim.
    fn chunked(&mut self) -> &mut Option<Chunked>;

    /// Whether the write has happened, its chunks claimed. It has not where, say, a key was taken.
    fn has_happened(answer: &Self::Answer) -> bool;
}

impl Store {
    /// As [`Self::queue`], for what may have long texts: these are written ahead then. It goes on where the
    /// caller goes away.
    pub(super) async fn queue_long<W: WriteLong>(
        &self,
        write: W,
        op: fn(Waiting<W>) -> Op,
    ) -> Result<W::Answer, StoreError> {
        if write.bytes() <= SMALL_BYTES_MAX {
            return self.queue(write, op).await;
        }
        let store = self.clone();
        let written = tokio::spawn(async move { store.write_ahead(write, op).await });
        let gone = |_| StoreError::database(W::OPERATION, sqlx::Error::WorkerCrashed);
        written.await.map_err(gone)?
    }

    async fn write_ahead<W: WriteLong>(
        &self,
        mut write: W,
        op: fn(Waiting<W>) -> Op,
    ) -> Result<W::Answer, StoreError> {
        let mut cutter = Cutter::default();
        write.cut(&mut cutter);
        let count = i64::try_from(cutter.chunks()).unwrap_or(i64::MAX);
        let first = self.0.next_chunk.fetch_add(count, Ordering::Relaxed);
        let Some((chunked, chunks)) = cutter.cut(first) else {
            return self.queue(write, op).await;
        };
        let (line, range) = (write.line(), chunked.range);
        *write.chunked() = Some(chunked);
        let of = PhantomData::<fn() -> W>;
        let writes = in_writes(chunks)
            .into_iter()
            .map(|chunks| self.write(WriteChunks { line, range, chunks, of }));
        let written = stream::iter(writes).buffered(WRITES_WAITING_MAX).try_collect::<()>().await;
        let answer = match written {
            Ok(()) => self.queue(write, op).await,
            Err(error) => Err(error),
        };
        if !answer.as_ref().is_ok_and(W::has_happened) {
            // What is in line of it already is written before they are deleted.
            self.delete_chunks(line, range).await;
        }
        answer
    }

    /// Deletes chunks unless somebody has claimed them. Where it fails the next start does it.
    async fn delete_chunks(&self, line: Line, range: ChunkRange) {
        let mut first = range.first;
        while first <= range.last {
            let last = range.last.min(first.saturating_add(DELETED_AT_ONCE - 1));
            let delete = DeleteChunks { line, range, part: ChunkRange { first, last } };
            if let Err(error) = self.write(delete).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "chunks of texts that nobody has are left to the next start");
                return;
            }
            first = last.saturating_add(1);
        }
    }

    /// As [`Self::delete_chunks`], for what tasks have given back. It goes on where the caller goes away.
    pub(super) async fn delete_given_back(&self, line: Line, ranges: Vec<ChunkRange>) {
        if ranges.is_empty() {
            return;
        }
        let store = self.clone();
        let deleted = tokio::spawn(async move {
            for range in ranges {
                store.delete_chunks(line, range).await;
            }
        });
        let _ended = deleted.await;
    }

    /// Deletes what an earlier process has written ahead and not come to use. For the start: this process
    /// holds the data folder alone.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where it cannot be read what there is.
    pub async fn delete_unclaimed_chunks(&self) -> Result<(), StoreError> {
        let query = sqlx::query(
            "SELECT first_chunk, last_chunk FROM unclaimed_chunks WHERE first_chunk < ?",
        )
        .bind(self.0.first_chunk);
        for range in self.many("look for unclaimed chunks", query, range).await? {
            self.delete_chunks(Line::Gateway, range).await;
        }
        Ok(())
    }
}

/// Columns: first_chunk, last_chunk.
pub(super) fn range(row: &SqliteRow) -> sqlx::Result<ChunkRange> {
    Ok(ChunkRange { first: row.try_get(0)?, last: row.try_get(1)? })
}

/// Makes chunks the texts of tasks, each given by its sequence; the positions of events begin with the
/// number beside it.
pub(super) async fn claim(
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

/// Writes chunks of an operation `W`, whose own range they are in.
struct WriteChunks<W> {
    line: Line,
    range: ChunkRange,
    chunks: Vec<Chunk>,
    of: PhantomData<fn() -> W>,
}

impl<W: Write> Write for WriteChunks<W> {
    type Answer = ();
    const OPERATION: &'static str = W::OPERATION;

    fn line(&self) -> Line {
        self.line
    }

    /// As if it were full: then all writes of one operation, and its deletions, keep their order.
    fn bytes(&self) -> usize {
        CHUNK_BYTES
    }
}

impl<W: Write> WriteAlone for WriteChunks<W> {
    async fn run(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
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

/// Deletes a part of an unclaimed range, and with its last part the range.
struct DeleteChunks {
    line: Line,
    range: ChunkRange,
    part: ChunkRange,
}

impl Write for DeleteChunks {
    type Answer = ();
    const OPERATION: &'static str = "delete unclaimed chunks";

    fn line(&self) -> Line {
        self.line
    }

    /// See [`WriteChunks`].
    fn bytes(&self) -> usize {
        CHUNK_BYTES
    }
}

impl WriteAlone for DeleteChunks {
    async fn run(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let delete =
            sqlx::query(DELETE).bind(self.part.first).bind(self.part.last).bind(self.range.first);
        execute(delete, session.db).await?;
        if self.part.last == self.range.last {
            execute(sqlx::query(CLAIM).bind(self.range.first), session.db).await?;
        }
        Ok(())
    }
}
