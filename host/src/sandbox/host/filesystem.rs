//! `wasi:filesystem/types`, on top of wasmtime-wasi's files. Each operation takes its tenant's turn ([`operations`]),
//! streams and listings are the host's own, and operations that would create a link, a hole, too deep a folder or too
//! many bytes are rejected.
//!
//! [`operations`]: crate::sandbox::folder::operations

mod wasi_files;

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream,
    ErrorCode, Filesize, Host, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue,
    NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use self::wasi_files::{Fd, Files, reborrow};
use crate::low_priority::thread_time;
use crate::sandbox::call::state::CallState;
use crate::sandbox::folder::listing::Listing;
use crate::sandbox::folder::operations::fs_error;
use crate::sandbox::folder::reader::FileReader;
use crate::sandbox::folder::stream::FileWriter;
use crate::sandbox::folder::{ENTRY_BYTES, FileOperations, FolderQuota, StreamResources};
use crate::sandbox::quota::MemoryReservation;
use crate::shares::slots::Slot;

impl CallState {
    /// CPU time of the call's file operations, which run on other threads.
    pub(in crate::sandbox) fn cpu_on_files(&self) -> Duration {
        self.operations.as_ref().map_or(Duration::ZERO, FileOperations::spent)
    }

    /// Closes what the guest left open, if it used files. Returns the CPU time of closing: the last close of a
    /// deleted file frees its disk space, which may take long.
    pub(in crate::sandbox) fn close_files(&mut self) -> Duration {
        if self.operations.is_none() {
            return Duration::ZERO;
        }
        let started_at = thread_time();
        *self.table() = ResourceTable::new();
        self.open_files.clear();
        thread_time().saturating_sub(started_at)
    }

    /// The file operations of this call.
    fn operations(&mut self) -> FileOperations {
        let fresh = || self.binding.shared.files.of_call(self.binding.tenant, self.cpu_max);
        self.operations.get_or_insert_with(fresh).clone()
    }

    /// Reserves one more open file, until it is closed.
    fn open_file(&mut self) -> FsResult<Slot> {
        Ok(self.operations().open_file().ok_or(ErrorCode::InsufficientMemory)?)
    }

    /// Reserves room for a stream or a listing, until it is dropped.
    fn reserve_stream_resources(&mut self) -> FsResult<StreamResources> {
        let file = self.open_file()?;
        let memory = MemoryReservation::new(&self.binding.quota);
        Ok(StreamResources::new(file, memory).ok_or(ErrorCode::InsufficientMemory)?)
    }

    /// The plugin's quota in its folder. `None` if it may not write there.
    fn folder_quota(&mut self) -> Option<FolderQuota> {
        if self.folder_quota.is_none() {
            let folder = Arc::clone(self.binding.folder.as_ref()?);
            let bytes_max = self.binding.granted.folder()?.bytes;
            let operations = self.operations();
            self.folder_quota = Some(FolderQuota::new(folder, bytes_max, operations));
        }
        self.folder_quota.clone()
    }
}

impl CallState {
    fn file(&mut self, fd: &Fd) -> FsResult<Arc<File>> {
        match self.table().get(fd)? {
            Descriptor::File(file) => Ok(Arc::clone(&file.file)),
            Descriptor::Dir(_) => Err(ErrorCode::BadDescriptor.into()),
        }
    }

    /// The plugin's quota in its folder, for an operation that writes.
    ///
    /// # Errors
    /// If the plugin may not write there.
    fn require_write_quota(&mut self) -> FsResult<FolderQuota> {
        self.folder_quota().ok_or_else(|| ErrorCode::NotPermitted.into())
    }

    /// Opens an output stream into a file.
    fn stream_into(
        &mut self,
        fd: &Fd,
        offset: Option<Filesize>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let quota = self.require_write_quota()?;
        let (file, resources) = (self.file(fd)?, self.reserve_stream_resources()?);
        let stream: DynOutputStream = Box::new(FileWriter::new(file, offset, quota, resources));
        Ok(self.table().push(stream)?)
    }
}

impl Host for CallState {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<ErrorCode> {
        self.filesystem().convert_error_code(error)
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        self.filesystem().filesystem_error_code(error)
    }
}

impl HostDescriptor for CallState {
    async fn write(&mut self, fd: Fd, bytes: Vec<u8>, offset: Filesize) -> FsResult<Filesize> {
        let quota = self.require_write_quota()?;
        let file = self.file(&fd)?;
        let mut folder = quota.lock().await.map_err(fs_error)?;
        folder.reserve_in(&file, Some(offset), bytes.len() as u64).await.map_err(fs_error)?;
        self.run_on_file_thread([&fd], async move |files, [fd]| {
            files.write(fd, bytes, offset).await
        })
        .await
    }

    fn write_via_stream(
        &mut self,
        fd: Fd,
        offset: Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        self.stream_into(&fd, Some(offset))
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        self.stream_into(&fd, None)
    }

    async fn set_size(&mut self, fd: Fd, size: Filesize) -> FsResult<()> {
        let quota = self.require_write_quota()?;
        let file = self.file(&fd)?;
        let _locked = quota.lock().await.map_err(fs_error)?;
        if size > quota.size(&file).await.map_err(fs_error)? {
            // Growing the file would create a hole.
            return Err(ErrorCode::NotPermitted.into());
        }
        self.run_on_file_thread([&fd], async move |files, [fd]| files.set_size(fd, size).await)
            .await
    }

    async fn open_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        open: OpenFlags,
        flags: DescriptorFlags,
    ) -> FsResult<Fd> {
        let changes = open.intersects(OpenFlags::CREATE | OpenFlags::TRUNCATE)
            || flags.contains(DescriptorFlags::WRITE);
        let Some(quota) = self.folder_quota() else {
            return self.open(&fd, path_flags, path, open, flags).await;
        };
        if !changes {
            // A file that is open for reading also occupies the disk after its name is deleted.
            let opened = self.open(&fd, path_flags, path, open, flags).await?;
            if let Ok(file) = self.file(&opened) {
                quota.lock().await.map_err(fs_error)?.track_open_file(&file);
            }
            return Ok(opened);
        }
        let mut folder = quota.lock().await.map_err(fs_error)?;
        if open.contains(OpenFlags::CREATE) {
            let there = self.stat_at(reborrow(&fd), path_flags, path.clone()).await;
            if there.is_err() {
                folder.reserve(ENTRY_BYTES).await.map_err(fs_error)?;
            }
        }
        let opened = self.open(&fd, path_flags, path, open, flags).await?;
        if let Ok(file) = self.file(&opened) {
            folder.track_open_file(&file);
        }
        Ok(opened)
    }

    async fn create_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let quota = self.require_write_quota()?;
        let mut folder = quota.lock().await.map_err(fs_error)?;
        let parent = self.parent_of(&fd, &path).await?;
        folder.check_depth(parent).await.map_err(fs_error)?;
        folder.reserve(ENTRY_BYTES).await.map_err(fs_error)?;
        self.run_on_file_thread([&fd], async move |files, [fd]| {
            files.create_directory_at(fd, path).await
        })
        .await
    }

    async fn link_at(&mut self, _: Fd, _: PathFlags, _: String, _: Fd, _: String) -> FsResult<()> {
        Err(ErrorCode::NotPermitted.into())
    }

    async fn symlink_at(&mut self, _: Fd, _: String, _: String) -> FsResult<()> {
        Err(ErrorCode::NotPermitted.into())
    }

    async fn rename_at(&mut self, fd: Fd, from: String, new_fd: Fd, to: String) -> FsResult<()> {
        let quota = self.require_write_quota()?;
        let folder = quota.lock().await.map_err(fs_error)?;
        let found = self.stat_at(reborrow(&fd), PathFlags::empty(), from.clone()).await?;
        if found.type_ == DescriptorType::SymbolicLink {
            // From another folder the link could point elsewhere.
            return Err(ErrorCode::NotPermitted.into());
        }
        if found.type_ == DescriptorType::Directory {
            let moved = self.folder_at(&fd, PathFlags::empty(), from.clone()).await?;
            let before = self.parent_of(&fd, &from).await?;
            let after = self.parent_of(&new_fd, &to).await?;
            folder.check_move(moved, before, after).await.map_err(fs_error)?;
        }
        let operation = async move |files: &mut Files<'_>, [fd, new_fd]: [Fd; 2]| {
            files.rename_at(fd, from, new_fd, to).await
        };
        self.run_on_file_thread([&fd, &new_fd], operation).await
    }

    async fn unlink_file_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let quota = self.require_write_quota()?;
        let _locked = quota.lock().await.map_err(fs_error)?;
        self.run_on_file_thread([&fd], async move |files, [fd]| {
            files.unlink_file_at(fd, path).await
        })
        .await
    }

    async fn remove_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.run_on_file_thread([&fd], async move |files, [fd]| {
            files.remove_directory_at(fd, path).await
        })
        .await
    }

    async fn advise(
        &mut self,
        fd: Fd,
        offset: Filesize,
        length: Filesize,
        advice: Advice,
    ) -> FsResult<()> {
        self.run_on_file_thread([&fd], async move |files, [fd]| {
            files.advise(fd, offset, length, advice).await
        })
        .await
    }

    async fn sync_data(&mut self, fd: Fd) -> FsResult<()> {
        self.run_on_file_thread([&fd], async move |files, [fd]| files.sync_data(fd).await).await
    }

    async fn sync(&mut self, fd: Fd) -> FsResult<()> {
        self.run_on_file_thread([&fd], async move |files, [fd]| files.sync(fd).await).await
    }

    async fn get_flags(&mut self, fd: Fd) -> FsResult<DescriptorFlags> {
        self.run_on_file_thread([&fd], async move |files, [fd]| files.get_flags(fd).await).await
    }

    async fn get_type(&mut self, fd: Fd) -> FsResult<DescriptorType> {
        self.run_on_file_thread([&fd], async move |files, [fd]| files.get_type(fd).await).await
    }

    async fn set_times(
        &mut self,
        fd: Fd,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.run_on_file_thread([&fd], async move |files, [fd]| {
            files.set_times(fd, accessed, modified).await
        })
        .await
    }

    async fn set_times_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.run_on_file_thread([&fd], async move |files, [fd]| {
            files.set_times_at(fd, path_flags, path, accessed, modified).await
        })
        .await
    }

    async fn read(
        &mut self,
        fd: Fd,
        length: Filesize,
        offset: Filesize,
    ) -> FsResult<(Vec<u8>, bool)> {
        self.run_on_file_thread([&fd], async move |files, [fd]| {
            files.read(fd, length, offset).await
        })
        .await
    }

    fn read_via_stream(&mut self, fd: Fd, offset: Filesize) -> FsResult<Resource<DynInputStream>> {
        let file = match self.table().get(&fd)? {
            Descriptor::File(file) => Arc::clone(&file.file),
            Descriptor::Dir(_) => return Err(ErrorCode::IsDirectory.into()),
        };
        let resources = self.reserve_stream_resources()?;
        let reader: DynInputStream =
            Box::new(FileReader::new(file, offset, self.operations(), resources));
        Ok(self.table().push(reader)?)
    }

    async fn read_directory(&mut self, fd: Fd) -> FsResult<Resource<DirectoryEntryStream>> {
        let folder = match self.table().get(&fd)? {
            Descriptor::Dir(folder) => Arc::clone(&folder.dir),
            Descriptor::File(_) => return Err(ErrorCode::NotDirectory.into()),
        };
        let resources = self.reserve_stream_resources()?;
        let listing =
            Listing::from_folder(folder, self.operations(), resources).await.map_err(fs_error)?;
        // The interface requires wasmtime-wasi's type, which holds all entries at once and cannot be constructed
        // here. The table holds a `Listing` instead, and only the two functions of `HostDirectoryEntryStream` below
        // access it.
        let listing = self.table().push(listing)?;
        Ok(Resource::new_own(listing.rep()))
    }

    async fn stat(&mut self, fd: Fd) -> FsResult<DescriptorStat> {
        self.run_on_file_thread([&fd], async move |files, [fd]| files.stat(fd).await).await
    }

    async fn stat_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        self.run_on_file_thread([&fd], async move |files, [fd]| {
            files.stat_at(fd, path_flags, path).await
        })
        .await
    }

    async fn readlink_at(&mut self, fd: Fd, path: String) -> FsResult<String> {
        self.run_on_file_thread([&fd], async move |files, [fd]| files.readlink_at(fd, path).await)
            .await
    }

    async fn is_same_object(&mut self, fd: Fd, other: Fd) -> wasmtime::Result<bool> {
        let operation = async move |files: &mut Files<'_>, [fd, other]: [Fd; 2]| {
            files.is_same_object(fd, other).await.map_err(FsError::trap)
        };
        let same = self.run_on_file_thread([&fd, &other], operation).await;
        same.map_err(|error| match error.downcast() {
            Ok(code) => code.into(),
            Err(trap) => trap,
        })
    }

    async fn metadata_hash(&mut self, fd: Fd) -> FsResult<MetadataHashValue> {
        self.run_on_file_thread([&fd], async move |files, [fd]| files.metadata_hash(fd).await).await
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        self.run_on_file_thread([&fd], async move |files, [fd]| {
            files.metadata_hash_at(fd, path_flags, path).await
        })
        .await
    }

    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        self.open_files.remove(&fd.rep());
        HostDescriptor::drop(&mut self.filesystem(), fd)
    }
}

impl HostDirectoryEntryStream for CallState {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        let listing = Resource::<Listing>::new_borrow(stream.rep());
        self.table().get_mut(&listing)?.next().await
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        self.table().delete(Resource::<Listing>::new_own(stream.rep()))?;
        Ok(())
    }
}
