//! Writing into a file of a folder, piece by piece, each of which has to fit.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};
use wasmtime_wasi::runtime::{AbortOnDropJoinHandle, spawn};

use super::operations::trap_in;
use super::{FolderQuota, HELD_BYTES, Held};

/// A stream into a file.
pub(in crate::sandbox) struct FileStream {
    file: Arc<File>,
    /// Where the next piece goes. None: at the end of the file, wherever that is then.
    place: Option<u64>,
    quota: FolderQuota,
    state: State,
    _held: Held,
}

enum State {
    Ready,
    Writing(AbortOnDropJoinHandle<io::Result<u64>>),
    Failed(io::Error),
    Closed,
}

impl FileStream {
    pub(in crate::sandbox) fn new(
        file: Arc<File>,
        place: Option<u64>,
        quota: FolderQuota,
        held: Held,
    ) -> Self {
        Self { file, place, quota, state: State::Ready, _held: held }
    }

    /// What went wrong is told once.
    fn checked(&mut self) -> StreamResult<()> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Failed(error) => Err(told(error)),
            State::Closed => Err(StreamError::Closed),
            state @ (State::Ready | State::Writing(_)) => {
                self.state = state;
                Ok(())
            }
        }
    }
}

/// What a plugin is told of a piece that failed; a call whose time is up is told nothing more.
pub(in crate::sandbox) fn told(error: io::Error) -> StreamError {
    match trap_in(&error) {
        Some(trap) => StreamError::Trap(trap.into()),
        None => StreamError::LastOperationFailed(error.into()),
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
    let mut folder = quota.lock().await?;
    folder.reserve_in(&file, place, length).await?;
    let place = match place {
        Some(place) => place,
        None => quota.size(&file).await?,
    };
    // The folder stays locked until it is done: whoever comes next finds the file as it is then.
    let written = quota.operations.run(move || file.write_all_at(&piece, place)).await;
    written.flatten().map(|()| length)
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
        if matches!(self.state, State::Writing(_)) || piece.len() > HELD_BYTES {
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
        Ok(if matches!(self.state, State::Ready) { HELD_BYTES } else { 0 })
    }

    async fn cancel(&mut self) {
        // What was handed over before the stream was closed is written.
        self.ready().await;
        self.state = State::Closed;
    }
}
