//! Writes long texts in chunks (`chunks`) ahead of the operation that they belong to, and deletes the chunks of
//! operations that did not happen.

use std::marker::PhantomData;
use std::sync::atomic::Ordering;

use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::chunks::{
    ChunkRange, Chunker, DELETED_AT_ONCE, DeleteChunks, LongWrite, WRITES_WAITING_MAX, WriteChunks,
    in_writes, range,
};
use crate::store::fair_queue::{Flow, SMALL_BYTES_MAX};
use crate::store::write::Queued;
use crate::store::writer::Op;
use crate::store::{Store, StoreError};

impl Store {
    /// Like [`Self::queue`], for operations with texts that may be long, which are then written ahead. Continues if
    /// the caller goes away.
    pub(in crate::store) async fn queue_long<W: LongWrite>(
        &self,
        write: W,
        op: fn(Queued<W>) -> Op,
    ) -> Result<W::Answer, StoreError> {
        if write.bytes() <= SMALL_BYTES_MAX {
            return self.queue(write, op).await;
        }
        let store = self.clone();
        let written = tokio::spawn(async move { store.write_ahead(write, op).await });
        let gone = |_| StoreError::database(W::OPERATION, sqlx::Error::WorkerCrashed);
        written.await.map_err(gone)?
    }

    async fn write_ahead<W: LongWrite>(
        &self,
        mut write: W,
        op: fn(Queued<W>) -> Op,
    ) -> Result<W::Answer, StoreError> {
        let mut chunker = Chunker::default();
        write.cut(&mut chunker);
        let count = i64::try_from(chunker.chunks()).unwrap_or(i64::MAX);
        let first = self.0.next_chunk.fetch_add(count, Ordering::Relaxed);
        let Some((chunked, chunks)) = chunker.cut(first) else {
            return self.queue(write, op).await;
        };
        let (flow, range) = (write.flow(), chunked.range);
        *write.chunked() = Some(chunked);
        let of = PhantomData::<fn() -> W>;
        let writes = in_writes(chunks)
            .into_iter()
            .map(|chunks| self.write(WriteChunks { flow, range, chunks, of }));
        let written = stream::iter(writes).buffered(WRITES_WAITING_MAX).try_collect::<()>().await;
        let answer = match written {
            Ok(()) => self.queue(write, op).await,
            Err(error) => Err(error),
        };
        if !answer.as_ref().is_ok_and(W::is_applied) {
            // Writes of this operation that are already in the flow run before the deletion.
            self.delete_chunks(flow, range).await;
        }
        answer
    }

    /// Deletes chunks unless they have been claimed. If this fails, the next start deletes them.
    async fn delete_chunks(&self, flow: Flow, range: ChunkRange) {
        let mut first = range.first;
        while first <= range.last {
            let last = range.last.min(first.saturating_add(DELETED_AT_ONCE - 1));
            let delete = DeleteChunks { flow, range, part: ChunkRange { first, last } };
            if let Err(error) = self.write(delete).await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "unclaimed chunks of texts are left to the next start");
                return;
            }
            first = last.saturating_add(1);
        }
    }

    /// Like [`Self::delete_chunks`], for chunks that deleted tasks have given back. Continues if the caller goes
    /// away.
    pub(in crate::store) async fn delete_given_back(&self, flow: Flow, ranges: Vec<ChunkRange>) {
        if ranges.is_empty() {
            return;
        }
        let store = self.clone();
        let deleted = tokio::spawn(async move {
            for range in ranges {
                store.delete_chunks(flow, range).await;
            }
        });
        let _ended = deleted.await;
    }

    /// Deletes what an earlier process has written ahead and never claimed. For the start of a process that holds the
    /// data folder alone.
    ///
    /// # Errors
    /// If the unclaimed chunks cannot be read ([`StoreError::Unavailable`]).
    pub async fn delete_unclaimed_chunks(&self) -> Result<(), StoreError> {
        let query = sqlx::query(
            "SELECT first_chunk, last_chunk FROM unclaimed_chunks WHERE first_chunk < ?",
        )
        .bind(self.0.first_chunk);
        for range in self.many("look for unclaimed chunks", query, range).await? {
            self.delete_chunks(Flow::Gateway, range).await;
        }
        Ok(())
    }
}
