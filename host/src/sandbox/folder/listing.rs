//! Lists a folder's entries page by page as a plugin asks for them: however large the folder is, the host holds at
//! most one page.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, statat};
use wasmtime_wasi::p2::FsResult;
use wasmtime_wasi::p2::bindings::filesystem::types::{DescriptorType, DirectoryEntry, ErrorCode};

use super::StreamResources;
use super::operations::FileOperations;
use super::operations::fs_error;
use super::walk::entries_of;

/// Entries per page. With names of 255 bytes, a page and the buffer of the directory read stay below
/// [`STREAM_BYTES`](super::STREAM_BYTES).
const PAGE_ENTRIES: usize = 128;

/// A listing of a folder in progress.
pub(in crate::sandbox) struct Listing {
    operations: FileOperations,
    /// `None` once the folder has been read to its end.
    folder: Option<Dir>,
    page: VecDeque<Result<DirectoryEntry, ErrorCode>>,
    _resources: StreamResources,
}

impl Listing {
    /// Starts a listing of an open folder.
    pub(in crate::sandbox) async fn from_folder(
        folder: Arc<File>,
        operations: FileOperations,
        resources: StreamResources,
    ) -> io::Result<Self> {
        let folder = operations.run_blocking(move || entries_of(folder)).await??;
        Ok(Self { operations, folder: Some(folder), page: VecDeque::new(), _resources: resources })
    }

    /// Returns the next entry, or `None` after the last.
    pub(in crate::sandbox) async fn next(&mut self) -> FsResult<Option<DirectoryEntry>> {
        while self.page.is_empty()
            && let Some(folder) = self.folder.take()
        {
            let read = self.operations.run_blocking(move || page_of(folder)).await;
            (self.page, self.folder) = read.map_err(fs_error)?;
        }
        Ok(self.page.pop_front().transpose()?)
    }
}

type Page = VecDeque<Result<DirectoryEntry, ErrorCode>>;

/// The next page, and the folder if it may have more entries.
fn page_of(mut folder: Dir) -> (Page, Option<Dir>) {
    let mut page = VecDeque::with_capacity(PAGE_ENTRIES);
    while page.len() < PAGE_ENTRIES {
        match folder.read() {
            None => return (page, None),
            Some(Err(error)) => {
                page.push_back(Err(io::Error::from(error).into()));
                return (page, None);
            }
            Some(Ok(entry)) => {
                let name = entry.file_name();
                if name != c"." && name != c".." {
                    let type_ = type_of(&folder, &entry);
                    let name = name.to_str().map(str::to_owned);
                    let entry = name.map(|name| DirectoryEntry { type_, name });
                    page.push_back(entry.map_err(|_| ErrorCode::IllegalByteSequence));
                }
            }
        }
    }
    (page, Some(folder))
}

fn type_of(folder: &Dir, entry: &rustix::fs::DirEntry) -> DescriptorType {
    let kind = match entry.file_type() {
        // Not every file system reports the type in its listings.
        FileType::Unknown => folder
            .fd()
            .and_then(|fd| statat(fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW))
            .map_or(FileType::Unknown, |about| FileType::from_raw_mode(about.st_mode)),
        kind => kind,
    };
    match kind {
        FileType::RegularFile => DescriptorType::RegularFile,
        FileType::Directory => DescriptorType::Directory,
        FileType::Symlink => DescriptorType::SymbolicLink,
        FileType::Fifo => DescriptorType::Fifo,
        FileType::Socket => DescriptorType::Socket,
        FileType::CharacterDevice => DescriptorType::CharacterDevice,
        FileType::BlockDevice => DescriptorType::BlockDevice,
        FileType::Unknown => DescriptorType::Unknown,
    }
}
