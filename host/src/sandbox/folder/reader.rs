//! An input stream that reads a file of a folder in chunks.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

use super::operations::FileOperations;
use super::stream::stream_error;
use super::{STREAM_BYTES, StreamResources};

/// Size of the chunk that is read before the plugin has said how much it wants, in bytes.
const FIRST_PIECE_BYTES: usize = 4 << 10;

/// An input stream from a file.
pub(in crate::sandbox) struct FileReader {
    file: Arc<File>,
    /// Offset of the next chunk.
    offset: u64,
    operations: FileOperations,
    state: State,
    _resources: StreamResources,
}

enum State {
    Idle,
    Reading(AbortOnDropJoinHandle<io::Result<Bytes>>),
    Read(Bytes),
    Failed(io::Error),
    Closed,
}

impl FileReader {
    pub(in crate::sandbox) fn new(
        file: Arc<File>,
        offset: u64,
        operations: FileOperations,
        resources: StreamResources,
    ) -> Self {
        Self { file, offset, operations, state: State::Idle, _resources: resources }
    }

    fn begin(&mut self, bytes: usize) {
        let (file, offset) = (Arc::clone(&self.file), self.offset);
        let operations = self.operations.clone();
        self.state = State::Reading(spawn(async move {
            operations.run_blocking(move || read_chunk(&file, offset, bytes)).await.flatten()
        }));
    }

    async fn end(&mut self) {
        // The task stays in the state until it ends: the waiting future may be dropped and created again.
        if let State::Reading(task) = &mut self.state {
            self.state = match task.await {
                Ok(chunk) if chunk.is_empty() => State::Closed,
                Ok(chunk) => {
                    self.offset = self.offset.saturating_add(chunk.len() as u64);
                    State::Read(chunk)
                }
                Err(error) => State::Failed(error),
            };
        }
    }
}

/// Reads up to `bytes` bytes, at most [`STREAM_BYTES`]. The result is empty at the end of the file.
fn read_chunk(file: &File, offset: u64, bytes: usize) -> io::Result<Bytes> {
    let mut chunk = vec![0; bytes.min(STREAM_BYTES)];
    loop {
        match file.read_at(&mut chunk, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => {
                chunk.truncate(read?);
                return Ok(chunk.into());
            }
        }
    }
}

#[async_trait]
impl Pollable for FileReader {
    async fn ready(&mut self) {
        if matches!(self.state, State::Idle) {
            self.begin(FIRST_PIECE_BYTES);
        }
        self.end().await;
    }
}

#[async_trait]
impl InputStream for FileReader {
    fn read(&mut self, bytes: usize) -> StreamResult<Bytes> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Read(mut chunk) => {
                let first = chunk.split_to(bytes.min(chunk.len()));
                self.state = if chunk.is_empty() { State::Idle } else { State::Read(chunk) };
                Ok(first)
            }
            State::Idle if bytes > 0 => {
                self.begin(bytes);
                Ok(Bytes::new())
            }
            state @ (State::Idle | State::Reading(_)) => {
                self.state = state;
                Ok(Bytes::new())
            }
            // An error is returned once; after it the stream is closed.
            State::Failed(error) => Err(stream_error(error)),
            State::Closed => Err(StreamError::Closed),
        }
    }

    async fn blocking_read(&mut self, bytes: usize) -> StreamResult<Bytes> {
        if matches!(self.state, State::Idle) && bytes > 0 {
            self.begin(bytes);
        }
        self.end().await;
        self.read(bytes)
    }

    async fn cancel(&mut self) {
        self.end().await;
        self.state = State::Closed;
    }
}
