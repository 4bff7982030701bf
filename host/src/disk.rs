//! Files: atomic writes, bounded reads, private folders.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// Writes a temporary file next to the target, syncs it and renames it into place, and creates the folder if it is
/// missing. A reader never sees a partial file, whenever the machine stops.
///
/// # Errors
/// If the folder or the file cannot be written.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let temporary = path.with_extension(format!("new-{}", uuid::Uuid::new_v4()));
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    // A partial file must not stay behind, above all on a full disk.
    written.inspect_err(|_| drop(fs::remove_file(&temporary)))
}

/// Runs work that waits for a disk, or computes for long, on a thread where no other work waits behind it.
///
/// # Errors
/// If the work fails or panics.
pub async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Reads a regular file of at most this many bytes. A pipe could block the reader, and a device has no end.
///
/// # Errors
/// If it cannot be read, is not a regular file, or is larger.
pub fn read_at_most(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let largest = match bytes_max >> 20 {
            0 => format!("{} KiB", bytes_max >> 10),
            mib => format!("{mib} MiB"),
        };
        let what = format!("it is larger than {largest}");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(bytes)
}

/// Creates a folder, and those above it, for its owner only.
///
/// # Errors
/// If it cannot be created.
pub fn make_private(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read_at_most(&path, 5).unwrap(), b"12345");
        let refused =
            |path: &Path, bytes_max: u64| read_at_most(path, bytes_max).unwrap_err().to_string();
        assert_eq!(refused(&path, 4), "it is larger than 0 KiB");
        assert_eq!(refused(folder.path(), 5), "it is not a regular file");
        // A device has no end.
        assert_eq!(refused(Path::new("/dev/zero"), 5), "it is not a regular file");
    }
}
