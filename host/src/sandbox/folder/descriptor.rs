//! `wasi:filesystem/types`: the files of wasmtime-wasi, with what would make a link, a hole or too many bytes
//! looked at first. What only reads goes on as it is.

use std::fs::File;
use std::sync::Arc;

use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::{Descriptor, WasiFilesystemView as _};
use wasmtime_wasi::p2::bindings::filesystem::types::{
    Advice, DescriptorFlags, DescriptorStat, DescriptorType, DirectoryEntry, DirectoryEntryStream,
    ErrorCode, Filesize, Host, HostDescriptor, HostDirectoryEntryStream, MetadataHashValue,
    NewTimestamp, OpenFlags, PathFlags,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, FsError, FsResult};

use super::stream::FileStream;
use super::{CallState, ENTRY_BYTES};

type Fd = Resource<Descriptor>;

/// The same descriptor for another question.
fn again(fd: &Fd) -> Fd {
    Resource::new_borrow(fd.rep())
}

impl CallState {
    fn file(&mut self, fd: &Fd) -> FsResult<Arc<File>> {
        match self.table().get(fd)? {
            Descriptor::File(file) => Ok(Arc::clone(&file.file)),
            Descriptor::Dir(_) => Err(ErrorCode::BadDescriptor.into()),
        }
    }

    /// A stream into a file. None: the plugin may change nothing in its folder.
    fn stream_into(
        &mut self,
        fd: &Fd,
        place: Option<Filesize>,
    ) -> FsResult<Option<Resource<DynOutputStream>>> {
        let Some(quota) = self.folder_quota() else { return Ok(None) };
        let stream: DynOutputStream = Box::new(FileStream::new(self.file(fd)?, place, quota));
        Ok(Some(self.table().push(stream)?))
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
        let Some(quota) = self.folder_quota() else {
            return self.filesystem().write(fd, bytes, offset).await;
        };
        let file = self.file(&fd)?;
        let mut folder = quota.lock().await;
        folder.reserve_in(&file, Some(offset), bytes.len() as u64).await?;
        self.filesystem().write(fd, bytes, offset).await
    }

    fn write_via_stream(
        &mut self,
        fd: Fd,
        offset: Filesize,
    ) -> FsResult<Resource<DynOutputStream>> {
        match self.stream_into(&fd, Some(offset))? {
            Some(stream) => Ok(stream),
            None => self.filesystem().write_via_stream(fd, offset),
        }
    }

    fn append_via_stream(&mut self, fd: Fd) -> FsResult<Resource<DynOutputStream>> {
        match self.stream_into(&fd, None)? {
            Some(stream) => Ok(stream),
            None => self.filesystem().append_via_stream(fd),
        }
    }

    async fn set_size(&mut self, fd: Fd, size: Filesize) -> FsResult<()> {
        let Some(quota) = self.folder_quota() else {
            return self.filesystem().set_size(fd, size).await;
        };
        let file = self.file(&fd)?;
        let _locked = quota.lock().await;
        if size > super::size(&file).await? {
            // What it would grow by would be a hole.
            return Err(ErrorCode::NotPermitted.into());
        }
        self.filesystem().set_size(fd, size).await
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
            return self.filesystem().open_at(fd, path_flags, path, open, flags).await;
        };
        if !changes {
            // A file that is open to be read takes room as well once its name is gone.
            let opened = self.filesystem().open_at(fd, path_flags, path, open, flags).await?;
            if let Ok(file) = self.file(&opened) {
                quota.lock().await.remember(&file);
            }
            return Ok(opened);
        }
        let mut folder = quota.lock().await;
        if open.contains(OpenFlags::CREATE) {
            let there = self.filesystem().stat_at(again(&fd), path_flags, path.clone()).await;
            if there.is_err() {
                folder.reserve(ENTRY_BYTES).await?;
            }
        }
        let opened = self.filesystem().open_at(fd, path_flags, path, open, flags).await?;
        if let Ok(file) = self.file(&opened) {
            folder.remember(&file);
        }
        Ok(opened)
    }

    async fn create_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let Some(quota) = self.folder_quota() else {
            return self.filesystem().create_directory_at(fd, path).await;
        };
        let mut folder = quota.lock().await;
        folder.reserve(ENTRY_BYTES).await?;
        self.filesystem().create_directory_at(fd, path).await
    }

    async fn link_at(&mut self, _: Fd, _: PathFlags, _: String, _: Fd, _: String) -> FsResult<()> {
        Err(ErrorCode::NotPermitted.into())
    }

    async fn symlink_at(&mut self, _: Fd, _: String, _: String) -> FsResult<()> {
        Err(ErrorCode::NotPermitted.into())
    }

    async fn rename_at(&mut self, fd: Fd, from: String, new_fd: Fd, to: String) -> FsResult<()> {
        let Some(quota) = self.folder_quota() else {
            return self.filesystem().rename_at(fd, from, new_fd, to).await;
        };
        let _locked = quota.lock().await;
        let found = self.filesystem().stat_at(again(&fd), PathFlags::empty(), from.clone()).await?;
        if found.type_ == DescriptorType::SymbolicLink {
            // From another place it would lead somewhere else.
            return Err(ErrorCode::NotPermitted.into());
        }
        self.filesystem().rename_at(fd, from, new_fd, to).await
    }

    async fn unlink_file_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        let quota = self.folder_quota();
        let _locked = match &quota {
            Some(quota) => Some(quota.lock().await),
            None => None,
        };
        self.filesystem().unlink_file_at(fd, path).await
    }

    async fn remove_directory_at(&mut self, fd: Fd, path: String) -> FsResult<()> {
        self.filesystem().remove_directory_at(fd, path).await
    }

    async fn advise(
        &mut self,
        fd: Fd,
        offset: Filesize,
        length: Filesize,
        advice: Advice,
    ) -> FsResult<()> {
        self.filesystem().advise(fd, offset, length, advice).await
    }

    async fn sync_data(&mut self, fd: Fd) -> FsResult<()> {
        self.filesystem().sync_data(fd).await
    }

    async fn sync(&mut self, fd: Fd) -> FsResult<()> {
        self.filesystem().sync(fd).await
    }

    async fn get_flags(&mut self, fd: Fd) -> FsResult<DescriptorFlags> {
        self.filesystem().get_flags(fd).await
    }

    async fn get_type(&mut self, fd: Fd) -> FsResult<DescriptorType> {
        self.filesystem().get_type(fd).await
    }

    async fn set_times(
        &mut self,
        fd: Fd,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.filesystem().set_times(fd, accessed, modified).await
    }

    async fn set_times_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
        accessed: NewTimestamp,
        modified: NewTimestamp,
    ) -> FsResult<()> {
        self.filesystem().set_times_at(fd, path_flags, path, accessed, modified).await
    }

    async fn read(
        &mut self,
        fd: Fd,
        length: Filesize,
        offset: Filesize,
    ) -> FsResult<(Vec<u8>, bool)> {
        self.filesystem().read(fd, length, offset).await
    }

    fn read_via_stream(&mut self, fd: Fd, offset: Filesize) -> FsResult<Resource<DynInputStream>> {
        self.filesystem().read_via_stream(fd, offset)
    }

    async fn read_directory(&mut self, fd: Fd) -> FsResult<Resource<DirectoryEntryStream>> {
        self.filesystem().read_directory(fd).await
    }

    async fn stat(&mut self, fd: Fd) -> FsResult<DescriptorStat> {
        self.filesystem().stat(fd).await
    }

    async fn stat_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<DescriptorStat> {
        self.filesystem().stat_at(fd, path_flags, path).await
    }

    async fn readlink_at(&mut self, fd: Fd, path: String) -> FsResult<String> {
        self.filesystem().readlink_at(fd, path).await
    }

    async fn is_same_object(&mut self, fd: Fd, other: Fd) -> wasmtime::Result<bool> {
        self.filesystem().is_same_object(fd, other).await
    }

    async fn metadata_hash(&mut self, fd: Fd) -> FsResult<MetadataHashValue> {
        self.filesystem().metadata_hash(fd).await
    }

    async fn metadata_hash_at(
        &mut self,
        fd: Fd,
        path_flags: PathFlags,
        path: String,
    ) -> FsResult<MetadataHashValue> {
        self.filesystem().metadata_hash_at(fd, path_flags, path).await
    }

    fn drop(&mut self, fd: Fd) -> wasmtime::Result<()> {
        HostDescriptor::drop(&mut self.filesystem(), fd)
    }
}

impl HostDirectoryEntryStream for CallState {
    async fn read_directory_entry(
        &mut self,
        stream: Resource<DirectoryEntryStream>,
    ) -> FsResult<Option<DirectoryEntry>> {
        self.filesystem().read_directory_entry(stream).await
    }

    fn drop(&mut self, stream: Resource<DirectoryEntryStream>) -> wasmtime::Result<()> {
        HostDirectoryEntryStream::drop(&mut self.filesystem(), stream)
    }
}
