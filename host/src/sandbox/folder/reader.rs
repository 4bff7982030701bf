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
use super::stream::told;
use super::{HELD_BYTES, Held};

/// Size of the chunk that is read before the plugin has said how much it wants, in bytes.
const FIRST_PIECE_BYTES: usize = 4 << 10;

/// An input stream from a file.
pub(in crate::sandbox) struct FileReader {
    file: Arc<File>,
    /// Offset of the next chunk.
    place: u64,
    operations: FileOperations,
    state: State,
    _held: Held,
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
        place: u64,
        operations: FileOperations,
        held: Held,
    ) -> Self {
        Self { file, place, operations, state: State::Idle, _held: held }
    }

    fn begin(&mut self, bytes: usize) {
        let (file, place) = (Arc::clone(&self.file), self.place);
        let operations = self.operations.clone();
        self.state = State::Reading(spawn(async move {
            operations.run(move || piece_of(&file, place, bytes)).await.flatten()
        }));
    }

    async fn end(&mut self) {
        // The task stays in the state until it ends: the waiting future may be dropped and created again.
        if let State::Reading(task) = &mut self.state {
            self.state = match task.await {
                Ok(piece) if piece.is_empty() => State::Closed,
                Ok(piece) => {
                    self.place = self.place.saturating_add(piece.len() as u64);
                    State::Read(piece)
                }
                Err(error) => State::Failed(error),
            };
        }
    }
}

/// Reads up to `bytes` bytes, at most [`HELD_BYTES`]. The result is empty at the end of the file.
fn piece_of(file: &File, place: u64, bytes: usize) -> io::Result<Bytes> {
    let mut piece = vec![0; bytes.min(HELD_BYTES)];
    loop {
        match file.read_at(&mut piece, place) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => {
                piece.truncate(read?);
                return Ok(piece.into());
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
            State::Read(mut piece) => {
                let first = piece.split_to(bytes.min(piece.len()));
                self.state = if piece.is_empty() { State::Idle } else { State::Read(piece) };
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
            State::Failed(error) => Err(told(error)),
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
