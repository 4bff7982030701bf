//! Runs wasmtime-wasi's file operations, each in its tenant's turn ([`operations`]).
//!
//! [`operations`]: crate::sandbox::folder::operations

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use futures::FutureExt as _;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemCtxView, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    DescriptorFlags, DescriptorType, ErrorCode, HostDescriptor as _, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{FsError, FsResult};

use crate::sandbox::call::state::CallState;
use crate::sandbox::folder::operations::fs_error;

pub(super) type Fd = Resource<Descriptor>;

/// wasmtime-wasi's view of files.
pub(super) type Files<'a> = WasiFilesystemCtxView<'a>;

/// Borrows the same descriptor for another operation.
pub(super) fn reborrow(fd: &Fd) -> Fd {
    Resource::new_borrow(fd.rep())
}

/// Checks that the path, if it exists, is a file, a folder or a link: opening a pipe may block forever.
async fn check_kind(files: &mut Files<'_>, fd: &Fd, flags: PathFlags, path: &str) -> FsResult<()> {
    use DescriptorType::{Directory, RegularFile, SymbolicLink};
    match files.stat_at(reborrow(fd), flags, path.to_owned()).await {
        Ok(there) if !matches!(there.type_, RegularFile | Directory | SymbolicLink) => {
            Err(ErrorCode::NotPermitted.into())
        }
        Ok(_) | Err(_) => Ok(()),
    }
}

impl CallState {
    /// Runs an operation of wasmtime-wasi on these descriptors. wasmtime-wasi performs it synchronously on the thread
    /// that polls it, so it runs on a thread for files, in the tenant's turn. The call's table cannot move to that
    /// thread, so the descriptors get a table of their own.
    pub(super) async fn run_on_file_thread<const N: usize, T: Send + 'static>(
        &mut self,
        fds: [&Fd; N],
        operation: impl AsyncFnOnce(&mut Files<'_>, [Fd; N]) -> FsResult<T> + Send + 'static,
    ) -> FsResult<T> {
        let mut table = ResourceTable::new();
        let mut there = Vec::with_capacity(N);
        for fd in fds {
            there.push(table.push(self.table().get(fd)?.clone())?);
        }
        let there = <[Fd; N]>::try_from(there);
        let there =
            there.map_err(|_| FsError::trap(wasmtime::Error::msg("a descriptor is lost")))?;
        let mut ctx = self.filesystem().ctx.clone();
        let operations = self.operations();
        let done = operations.run_blocking(move || {
            let mut files = Files { ctx: &mut ctx, table: &mut table };
            operation(&mut files, there).now_or_never()
        });
        let waits = || Err(FsError::trap(wasmtime::Error::msg("a file operation waits")));
        done.await.map_err(fs_error)?.unwrap_or_else(waits)
    }

    /// Opens the folder at a path for reading.
    pub(super) async fn folder_at(
        &mut self,
        fd: &Fd,
        flags: PathFlags,
        path: String,
    ) -> FsResult<Arc<File>> {
        self.run_on_file_thread([fd], async move |files, [fd]| {
            check_kind(files, &fd, flags, &path).await?;
            let (how, read) = (OpenFlags::DIRECTORY, DescriptorFlags::READ);
            let opened = files.open_at(fd, flags, path, how, read).await?;
            match files.table.delete(opened)? {
                Descriptor::Dir(folder) => Ok(folder.dir),
                Descriptor::File(_) => Err(ErrorCode::NotDirectory.into()),
            }
        })
        .await
    }

    /// Opens the parent folder of a path, which itself need not exist.
    pub(super) async fn parent_of(&mut self, fd: &Fd, path: &str) -> FsResult<Arc<File>> {
        let parent = Path::new(path).parent().and_then(Path::to_str).unwrap_or_default();
        let parent = if parent.is_empty() { "." } else { parent };
        self.folder_at(fd, PathFlags::SYMLINK_FOLLOW, parent.to_owned()).await
    }

    /// Opens a file or a folder, if the tenant may open one more.
    pub(super) async fn open(
        &mut self,
        fd: &Fd,
        path_flags: PathFlags,
        path: String,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Fd> {
        let slot = self.open_file()?;
        let opened = self.run_on_file_thread([fd], async move |files, [fd]| {
            check_kind(files, &fd, path_flags, &path).await?;
            let opened = files.open_at(fd, path_flags, path, open, flags).await?;
            Ok(files.table.delete(opened)?)
        });
        let opened = opened.await?;
        let opened = self.table().push(opened)?;
        self.open_files.insert(opened.rep(), slot);
        Ok(opened)
    }
}
