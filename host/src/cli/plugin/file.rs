//! Reads components and the signatures beside them.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::plugins::SIGNATURE_BYTES_MAX;

/// The path of the signature file beside a component, named as minisign names it, if it exists.
pub(super) fn signature_beside(component: &Path) -> Option<PathBuf> {
    let mut name = component.as_os_str().to_owned();
    name.push(".minisig");
    Some(PathBuf::from(name)).filter(|path| path.exists())
}

/// Reads a signature file.
pub(super) fn signature(path: &Path) -> anyhow::Result<String> {
    let bytes = read_file(path, SIGNATURE_BYTES_MAX as u64)?;
    String::from_utf8(bytes)
        .with_context(|| format!("{} is not a minisign signature", path.display()))
}

/// Reads a file of at most `bytes_max` bytes.
pub(super) fn read_file(path: &Path, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
    crate::disk::read_at_most(path, bytes_max)
        .with_context(|| format!("cannot read {}", path.display()))
}
