//! Data folders. Each test has its own, but all share the host key and the code cache of a folder that outlives the
//! test run: compiling the bundled plugins for each gateway would take seconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;
use wardgate::secrets::HostKey;

/// A data folder that is deleted when dropped.
#[derive(Debug)]
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(shared().join("host.key"), folder.path().join("host.key")).unwrap();
        std::os::unix::fs::symlink(shared().join("cache"), folder.path().join("cache")).unwrap();
        Self(folder)
    }

    /// Detaches it from the shared code cache, so that it starts with an empty one.
    pub(crate) fn detach_code_cache(&self) {
        let cache = self.path().join("cache");
        let _ = fs::remove_file(&cache);
        let _ = fs::remove_dir_all(&cache);
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file into the folder and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// All bytes of the database, including its write-ahead log.
    pub(crate) fn database_bytes(&self) -> Vec<u8> {
        let parts = ["wardgate.db", "wardgate.db-wal"];
        parts.iter().flat_map(|part| fs::read(self.path().join(part)).unwrap_or_default()).collect()
    }
}

fn shared() -> &'static Path {
    static SHARED: OnceLock<PathBuf> = OnceLock::new();
    SHARED.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gateway");
        fs::create_dir_all(folder.join("cache")).unwrap();
        HostKey::load_or_create(&folder.join("host.key")).unwrap();
        folder
    })
}
