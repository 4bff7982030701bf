//! Walks a folder to sum up its size and depth. Each folder is opened relative to its parent, so that neither links
//! nor the length of a path matter.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;
use rustix::path::Arg;

/// What each file or folder counts for in addition to its bytes: about what an entry takes on disk, so that empty
/// ones are bounded too.
pub(in crate::sandbox) const ENTRY_BYTES: u64 = 4 << 10;

/// How deep a plugin may nest folders.
pub(in crate::sandbox) const DEPTH_MAX: usize = 64;

/// The deepest nesting of folders that a walk counts, including folders that the plugin did not make: each level takes
/// an open file and its buffer.
const WALKED_DEPTH_MAX: usize = 512;

/// Entries per turn of a walk.
const ENTRIES_PER_TURN: usize = 1_024;

/// Opens a folder for reading.
fn open_folder(at: impl AsFd, name: impl Arg, more: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK | more;
    Ok(openat(at, name, flags, Mode::empty())?)
}

/// A reader of a folder's entries, at the first one.
pub(in crate::sandbox) fn entries_of(folder: impl AsFd) -> io::Result<Dir> {
    Ok(Dir::new(open_folder(folder, c".", OFlags::NOFOLLOW)?)?)
}

/// A walk in progress.
pub(in crate::sandbox) struct Walk {
    /// The folders from the root to the current one, each within the one before.
    stack: Vec<Dir>,
    /// The size of all entries so far, in bytes.
    pub(in crate::sandbox) bytes: u64,
    /// The depth of the deepest folder so far: 1 for a folder directly in the root.
    pub(in crate::sandbox) deepest: usize,
}

impl Walk {
    /// Starts a walk through a folder of the host. Of the open files, those whose names have been deleted count too.
    pub(in crate::sandbox) fn through(folder: &Path, open: &[Arc<File>]) -> io::Result<Self> {
        let mut walk = Self::below(open_folder(CWD, folder, OFlags::empty())?)?;
        for file in open {
            let about = file.metadata()?;
            if about.nlink() == 0 {
                walk.add(unnamed_bytes(&about));
            }
        }
        Ok(walk)
    }

    /// Starts a walk through an open folder.
    pub(in crate::sandbox) fn below(folder: impl AsFd) -> io::Result<Self> {
        Ok(Self { stack: vec![entries_of(folder)?], bytes: 0, deepest: 0 })
    }

    /// Walks for one turn. Returns whether the walk is complete.
    ///
    /// # Errors
    /// If a folder cannot be read, or is nested too deep.
    pub(in crate::sandbox) fn step(&mut self) -> io::Result<bool> {
        for _ in 0..ENTRIES_PER_TURN {
            let depth = self.stack.len();
            let Some(folder) = self.stack.last_mut() else { return Ok(true) };
            let Some(entry) = folder.read() else {
                self.stack.pop();
                continue;
            };
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let Some(about) = unless_gone(statat(folder.fd()?, name, AtFlags::SYMLINK_NOFOLLOW))?
            else {
                continue;
            };
            let kind = FileType::from_raw_mode(about.st_mode);
            let below = if kind.is_dir() { enter(folder.fd()?, name)? } else { None };
            let length = if kind.is_file() { u64::try_from(about.st_size).unwrap_or(0) } else { 0 };
            self.add(length);
            if kind.is_dir() {
                self.deepest = self.deepest.max(depth);
            }
            if let Some(below) = below {
                if depth >= WALKED_DEPTH_MAX {
                    return Err(io::Error::other("folders lie too deep within each other"));
                }
                self.stack.push(Dir::new(below)?);
            }
        }
        Ok(self.stack.is_empty())
    }

    fn add(&mut self, length: u64) {
        self.bytes = self.bytes.saturating_add(ENTRY_BYTES).saturating_add(length);
    }
}

fn unnamed_bytes(about: &Metadata) -> u64 {
    if about.is_file() { about.len() } else { 0 }
}

/// Opens a folder in another. `None` if it is gone, or if the gateway may not read it, in which case no plugin can
/// write into it either.
fn enter(folder: impl AsFd, name: impl Arg) -> io::Result<Option<OwnedFd>> {
    match open_folder(folder, name, OFlags::NOFOLLOW) {
        Ok(below) => Ok(Some(below)),
        Err(error) => match Errno::from_io_error(&error) {
            // Other programs use the folder during a walk: what was a folder may have been replaced.
            Some(Errno::NOENT | Errno::ACCESS | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            _ => Err(error),
        },
    }
}

/// `None` if the entry is gone: other programs use the folder during a walk.
fn unless_gone<T>(found: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(Errno::NOENT) => Ok(None),
        found => Ok(Some(found?)),
    }
}

/// The depth of an open folder within `outer`, a folder of the host; 0 for `outer` itself. `None` if it is deeper
/// than a plugin may nest folders, or not within `outer`.
fn depth_within(outer: &Path, folder: impl AsFd) -> io::Result<Option<usize>> {
    let outer = std::fs::metadata(outer)?;
    let mut at = open_folder(folder, c".", OFlags::NOFOLLOW)?;
    for depth in 0..=DEPTH_MAX {
        let about = fstat(&at)?;
        if (about.st_dev, about.st_ino) == (outer.dev(), outer.ino()) {
            return Ok(Some(depth));
        }
        at = open_folder(&at, c"..", OFlags::NOFOLLOW)?;
    }
    Ok(None)
}

/// Whether a plugin may create a folder in this one.
pub(in crate::sandbox) fn may_create_folder_in(
    outer: &Path,
    folder: impl AsFd,
) -> io::Result<bool> {
    Ok(depth_within(outer, folder)?.is_some_and(|depth| depth < DEPTH_MAX))
}

/// How deep the folders in a folder may be nested for a plugin to move it.
pub(in crate::sandbox) enum MayMove {
    /// Any depth: the move does not make the folder deeper.
    AnyDepth,
    /// At most this depth.
    MaxDepth(usize),
    /// The folder may not be moved.
    No,
}

/// Whether a plugin may move a folder from `from` into `to`; see [`MayMove`].
pub(in crate::sandbox) fn may_move(
    outer: &Path,
    from: impl AsFd,
    to: impl AsFd,
) -> io::Result<MayMove> {
    let (from, to) = (depth_within(outer, from)?, depth_within(outer, to)?);
    Ok(match (from, to) {
        (Some(from), Some(to)) if to <= from => MayMove::AnyDepth,
        (None, Some(_)) => MayMove::AnyDepth,
        (_, Some(to)) if to < DEPTH_MAX => MayMove::MaxDepth(DEPTH_MAX - to - 1),
        _ => MayMove::No,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(folder: &Path) -> io::Result<Walk> {
        let mut walk = Walk::through(folder, &[])?;
        while !walk.step()? {}
        Ok(walk)
    }

    #[test]
    fn a_walk_counts_everything_once_and_follows_no_link() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path();
        assert_eq!((walked(path).unwrap().bytes, walked(path).unwrap().deepest), (0, 0));
        std::fs::create_dir_all(path.join("a/b/c")).unwrap();
        for number in 0..3_000 {
            std::fs::write(path.join(format!("a/b/{number}")), "ten bytes.").unwrap();
        }
        std::os::unix::fs::symlink("..", path.join("a/b/loop")).unwrap();
        let walk = walked(path).unwrap();
        assert_eq!(walk.bytes, 3_000 * (ENTRY_BYTES + 10) + 4 * ENTRY_BYTES);
        assert_eq!(walk.deepest, 3);
        assert!(walked(&path.join("missing")).is_err());
    }

    #[test]
    fn the_depth_of_a_folder_is_found_from_within() {
        let home = tempfile::tempdir().unwrap();
        let deepest = home.path().join(vec!["d"; 70].join("/"));
        std::fs::create_dir_all(&deepest).unwrap();
        let folder =
            |depth: usize| File::open(home.path().join(vec!["d"; depth].join("/"))).unwrap();
        for depth in [0, 1, DEPTH_MAX] {
            assert_eq!(depth_within(home.path(), folder(depth)).unwrap(), Some(depth));
        }
        assert_eq!(depth_within(home.path(), folder(DEPTH_MAX + 1)).unwrap(), None);
        // A folder that is not within the outer one must not get another folder.
        assert!(!may_create_folder_in(&deepest, folder(3)).unwrap());
        assert!(may_create_folder_in(home.path(), folder(63)).unwrap());
        assert!(!may_create_folder_in(home.path(), folder(64)).unwrap());
        let may = |from, to| may_move(home.path(), folder(from), folder(to)).unwrap();
        assert!(matches!(may(5, 5), MayMove::AnyDepth));
        assert!(matches!(may(70, 0), MayMove::AnyDepth));
        assert!(matches!(may(5, 10), MayMove::MaxDepth(53)));
        assert!(matches!(may(5, 64), MayMove::No));
        assert!(matches!(may(5, 65), MayMove::No));
    }
}
