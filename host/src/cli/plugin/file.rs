//! Files that are read whole: components and the signatures beside them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::plugins::SIGNATURE_BYTES_MAX;

/// The signature that lies beside a component, as minisign names it.
pub(super) fn beside(component: &Path) -> Option<PathBuf> {
    let mut name = component.as_os_str().to_owned();
    name.push(".minisig");
    Some(PathBuf::from(name)).filter(|path| path.exists())
}

/// The text of a signature file.
pub(super) fn signature(path: &Path) -> anyhow::Result<String> {
    let bytes = read(path, SIGNATURE_BYTES_MAX as u64)?;
    String::from_utf8(bytes)
        .with_context(|| format!("{} is not a minisign signature", path.display()))
}

/// A file of at most so many bytes.
pub(super) fn read(path: &Path, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
    crate::disk::read_at_most(path, bytes_max)
        .with_context(|| format!("cannot read {}", path.display()))
}
