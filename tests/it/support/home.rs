//! Data folders. Each test has its own, but all have the key and the code cache of one that outlives
//! the test run: compiling the bundled plugins takes seconds, and for each gateway anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;
use wardgate::secrets::HostKey;

/// A data folder, gone with the test.
#[derive(Debug)]
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::copy(shared().join("host.key"), folder.path().join("host.key")).unwrap();
        std::os::unix::fs::symlink(shared().join("cache"), folder.path().join("cache")).unwrap();
        Self(folder)
    }

    /// Gives it a code cache of its own, with nothing in it.
    pub(crate) fn forget_compiled_code(&self) {
        let cache = self.path().join("cache");
        let _ = fs::remove_file(&cache);
        let _ = fs::remove_dir_all(&cache);
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file beside the data and says where it is.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Every byte of the database, the part that is still in the log included.
    pub(crate) fn database(&self) -> Vec<u8> {
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
