//! Writing into a file of a folder, piece by piece, each of which has to fit.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

use super::FolderQuota;

/// The largest piece, in bytes: as much as waits in the host's memory for each stream.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// A stream into a file.
pub(super) struct FileStream {
    file: Arc<File>,
    /// Where the next piece goes. None: at the end of the file, wherever that is then.
    place: Option<u64>,
    quota: FolderQuota,
    state: State,
}

enum State {
    Ready,
    Writing(AbortOnDropJoinHandle<io::Result<u64>>),
    Failed(io::Error),
    Closed,
}

impl FileStream {
    pub(super) fn new(file: Arc<File>, place: Option<u64>, quota: FolderQuota) -> Self {
        Self { file, place, quota, state: State::Ready }
    }

    /// What went wrong is told once.
    fn checked(&mut self) -> StreamResult<()> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Failed(error) => Err(StreamError::LastOperationFailed(error.into())),
            State::Closed => Err(StreamError::Closed),
            state @ (State::Ready | State::Writing(_)) => {
                self.state = state;
                Ok(())
            }
        }
    }
}

/// Writes a piece, and gives how long it was.
async fn write(
    file: Arc<File>,
    place: Option<u64>,
    quota: FolderQuota,
    piece: Bytes,
) -> io::Result<u64> {
    let length = piece.len() as u64;
    let mut folder = quota.lock().await;
    folder.reserve_in(&file, place, length).await?;
    let place = match place {
        Some(place) => place,
        None => super::size(&file).await?,
    };
    // The folder stays locked until it is done: whoever comes next finds the file as it is then.
    let written = tokio::task::spawn_blocking(move || file.write_all_at(&piece, place)).await;
    written.map_err(io::Error::other)?.map(|()| length)
}

#[async_trait]
impl Pollable for FileStream {
    async fn ready(&mut self) {
        // The task stays where it is until it has ended: whoever waits may give up and come back.
        if let State::Writing(task) = &mut self.state {
            self.state = match task.await {
                Ok(length) => {
                    self.place = self.place.map(|place| place.saturating_add(length));
                    State::Ready
                }
                Err(error) => State::Failed(error),
            };
        }
    }
}

#[async_trait]
impl OutputStream for FileStream {
    fn write(&mut self, piece: Bytes) -> StreamResult<()> {
        self.checked()?;
        if matches!(self.state, State::Writing(_)) || piece.len() > PIECE_BYTES_MAX {
            return Err(StreamError::trap("it wrote more than it was let"));
        }
        let (file, quota) = (Arc::clone(&self.file), self.quota.clone());
        self.state = State::Writing(spawn(write(file, self.place, quota, piece)));
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        self.checked()
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.checked()?;
        Ok(if matches!(self.state, State::Ready) { PIECE_BYTES_MAX } else { 0 })
    }

    async fn cancel(&mut self) {
        // What was handed over before the stream was closed is written.
        self.ready().await;
        self.state = State::Closed;
    }
}
