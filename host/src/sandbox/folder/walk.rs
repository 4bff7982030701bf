//! Walks through a folder: what all in it comes to, and how deep it goes. Each folder is opened from the one
//! that it is in, so that neither links nor the length of a path matter.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;
use rustix::path::Arg;

/// What a file or folder counts for besides its bytes: about what it takes of a disk, so that empty ones are
/// bounded too.
pub(in crate::sandbox) const ENTRY_BYTES: u64 = 4 << 10;

/// How deep folders that plugins make may lie within each other.
pub(in crate::sandbox) const DEPTH_MAX: usize = 64;

/// How deep folders may lie within each other to be counted, whoever made them: each level of a walk is an open
/// file and its buffer.
const WALKED_DEPTH_MAX: usize = 512;

/// Entries that are looked at in one turn.
const ENTRIES_PER_TURN: usize = 1_024;

/// A folder, opened to be read.
fn open_folder(at: impl AsFd, name: impl Arg, more: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NONBLOCK | more;
    Ok(openat(at, name, flags, Mode::empty())?)
}

/// Reads a folder's entries from the beginning.
pub(in crate::sandbox) fn entries_of(folder: impl AsFd) -> io::Result<Dir> {
    Ok(Dir::new(open_folder(folder, c".", OFlags::NOFOLLOW)?)?)
}

/// A walk, as far as it has come.
pub(in crate::sandbox) struct Walk {
    /// The folders on the way, each within the one before.
    way: Vec<Dir>,
    /// What was seen comes to, in bytes.
    pub(in crate::sandbox) bytes: u64,
    /// How deep it has been: 1 for a folder right below the one that is walked.
    pub(in crate::sandbox) deepest: usize,
}

impl Walk {
    /// Placement one through a folder of the machine; these open files count where their names are gone.
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

    /// Placement one through an open folder.
    pub(in crate::sandbox) fn below(folder: impl AsFd) -> io::Result<Self> {
        Ok(Self { way: vec![entries_of(folder)?], bytes: 0, deepest: 0 })
    }

    /// Goes on for one turn, and tells whether that was all.
    ///
    /// # Errors
    /// Where a folder cannot be read, or lies too deep.
    pub(in crate::sandbox) fn go_on(&mut self) -> io::Result<bool> {
        for _ in 0..ENTRIES_PER_TURN {
            let depth = self.way.len();
            let Some(folder) = self.way.last_mut() else { return Ok(true) };
            let Some(entry) = folder.read() else {
                self.way.pop();
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
                self.way.push(Dir::new(below)?);
            }
        }
        Ok(self.way.is_empty())
    }

    fn add(&mut self, length: u64) {
        self.bytes = self.bytes.saturating_add(ENTRY_BYTES).saturating_add(length);
    }
}

fn unnamed_bytes(about: &Metadata) -> u64 {
    if about.is_file() { about.len() } else { 0 }
}

/// A folder below another. None: it is gone, or the gateway may not look into it, and then no plugin can write
/// into it either.
fn enter(folder: impl AsFd, name: impl Arg) -> io::Result<Option<OwnedFd>> {
    match open_folder(folder, name, OFlags::NOFOLLOW) {
        Ok(below) => Ok(Some(below)),
        Err(error) => match Errno::from_io_error(&error) {
            // Others use the folder while it is walked: what was a folder may be something else.
            Some(Errno::NOENT | Errno::ACCESS | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Others use the folder while it is walked.
fn unless_gone<T>(found: rustix::io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(Errno::NOENT) => Ok(None),
        found => Ok(Some(found?)),
    }
}

/// How deep an open folder lies within this one of the machine; 0 is that one itself. None: deeper than a plugin
/// may make any, or not in it.
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

/// Whether a plugin may make a folder in this one.
pub(in crate::sandbox) fn may_have_one_more(outer: &Path, folder: impl AsFd) -> io::Result<bool> {
    Ok(depth_within(outer, folder)?.is_some_and(|depth| depth < DEPTH_MAX))
}

/// How deep what is below a folder may go so that a plugin may move it from one folder into another.
pub(in crate::sandbox) enum MayMove {
    /// As deep as it likes: it comes to lie no deeper than before.
    Anyhow,
    /// So deep.
    UpTo(usize),
    /// Not at all.
    No,
}

/// See [`MayMove`].
pub(in crate::sandbox) fn may_move(
    outer: &Path,
    from: impl AsFd,
    to: impl AsFd,
) -> io::Result<MayMove> {
    let (from, to) = (depth_within(outer, from)?, depth_within(outer, to)?);
    Ok(match (from, to) {
        (Some(from), Some(to)) if to <= from => MayMove::Anyhow,
        (None, Some(_)) => MayMove::Anyhow,
        (_, Some(to)) if to < DEPTH_MAX => MayMove::UpTo(DEPTH_MAX - to - 1),
        _ => MayMove::No,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(folder: &Path) -> io::Result<Walk> {
        let mut walk = Walk::through(folder, &[])?;
        while !walk.go_on()? {}
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
        // A folder that is not in it is in none that may have more.
        assert!(!may_have_one_more(&deepest, folder(3)).unwrap());
        assert!(may_have_one_more(home.path(), folder(63)).unwrap());
        assert!(!may_have_one_more(home.path(), folder(64)).unwrap());
        let may = |from, to| may_move(home.path(), folder(from), folder(to)).unwrap();
        assert!(matches!(may(5, 5), MayMove::Anyhow));
        assert!(matches!(may(70, 0), MayMove::Anyhow));
        assert!(matches!(may(5, 10), MayMove::UpTo(53)));
        assert!(matches!(may(5, 64), MayMove::No));
        assert!(matches!(may(5, 65), MayMove::No));
    }
}
