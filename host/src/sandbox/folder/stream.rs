//! An output stream that writes a file of a folder in chunks, each of which must fit the folder's quota.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

use super::operations::trap_in;
use super::{FolderQuota, STREAM_BYTES, StreamResources};

/// An output stream into a file.
pub(in crate::sandbox) struct FileWriter {
    file: Arc<File>,
    /// Offset of the next chunk. `None`: the end of the file at the time of the write.
    offset: Option<u64>,
    quota: FolderQuota,
    state: State,
    _resources: StreamResources,
}

enum State {
    Ready,
    Writing(AbortOnDropJoinHandle<io::Result<u64>>),
    Failed(io::Error),
    Closed,
}

impl FileWriter {
    pub(in crate::sandbox) fn new(
        file: Arc<File>,
        offset: Option<u64>,
        quota: FolderQuota,
        resources: StreamResources,
    ) -> Self {
        Self { file, offset, quota, state: State::Ready, _resources: resources }
    }

    /// Returns an error once; after it the stream is closed.
    fn checked(&mut self) -> StreamResult<()> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Failed(error) => Err(stream_error(error)),
            State::Closed => Err(StreamError::Closed),
            state @ (State::Ready | State::Writing(_)) => {
                self.state = state;
                Ok(())
            }
        }
    }
}

/// The error that the plugin receives for a failed chunk. If the call's CPU time is used up, it is a trap, which ends
/// the call.
pub(in crate::sandbox) fn stream_error(error: io::Error) -> StreamError {
    match trap_in(&error) {
        Some(trap) => StreamError::Trap(trap.into()),
        None => StreamError::LastOperationFailed(error.into()),
    }
}

/// Writes a chunk and returns its length.
async fn write(
    file: Arc<File>,
    offset: Option<u64>,
    quota: FolderQuota,
    chunk: Bytes,
) -> io::Result<u64> {
    let length = chunk.len() as u64;
    let mut folder = quota.lock().await?;
    folder.reserve_in(&file, offset, length).await?;
    let offset = match offset {
        Some(offset) => offset,
        None => quota.size(&file).await?,
    };
    // The folder stays locked until the write is done, so that the next operation sees the file's new size.
    let written = quota.operations.run_blocking(move || file.write_all_at(&chunk, offset)).await;
    written.flatten().map(|()| length)
}

#[async_trait]
impl Pollable for FileWriter {
    async fn ready(&mut self) {
        // The task stays in the state until it ends: the waiting future may be dropped and created again.
        if let State::Writing(task) = &mut self.state {
            self.state = match task.await {
                Ok(length) => {
                    self.offset = self.offset.map(|offset| offset.saturating_add(length));
                    State::Ready
                }
                Err(error) => State::Failed(error),
            };
        }
    }
}

#[async_trait]
impl OutputStream for FileWriter {
    fn write(&mut self, chunk: Bytes) -> StreamResult<()> {
        self.checked()?;
        if matches!(self.state, State::Writing(_)) || chunk.len() > STREAM_BYTES {
            return Err(StreamError::trap("it wrote more than it was let"));
        }
        let (file, quota) = (Arc::clone(&self.file), self.quota.clone());
        self.state = State::Writing(spawn(write(file, self.offset, quota, chunk)));
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.checked()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.checked()?;
        Ok(if matches!(self.state, State::Ready) { STREAM_BYTES } else { 0 })
    }

    async fn cancel(&mut self) {
        // A chunk that was accepted before the stream is closed is still written.
        self.ready().await;
        self.state = State::Closed;
    }
}
