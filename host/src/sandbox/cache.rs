//! The on-disk cache of compiled plugins, in which every file is sealed.
//!
//! Loading compiled code amounts to running it: anyone who can write these files controls the gateway. Each file is
//! therefore sealed with a key derived from the gateway's own, and a plugin whose seal is missing or wrong is
//! compiled again. Only the gateway's user can access the folder; the seal protects against files that get into it
//! by copying, restoring or sharing.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use subtle::ConstantTimeEq as _;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::LoadError;
use super::engine;
use crate::disk::write_atomic;
use crate::ids::PluginDigest;
use crate::secrets::{DerivedKey, HostKey};

/// Minimum age of unneeded compiled code before the sweep at start deletes it.
const SWEEP_AGE_MIN: Duration = Duration::from_secs(60 * 60);

/// The folder of compiled plugins.
#[derive(Debug)]
pub(super) struct CodeCache {
    folder: PathBuf,
    seal: DerivedKey,
    compatibility: u64,
}

impl CodeCache {
    /// Opens the folder, and creates it for its owner only if it does not exist.
    pub(super) fn open(folder: &Path, key: &HostKey, engine: &Engine) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            seal: key.derive("wardgate 2026 seal of compiled plugins"),
            compatibility: engine::compatibility(engine),
        })
    }

    /// The compiled component from disk, if it exists and its seal is valid. Reads the whole file: do not call this
    /// on an async thread.
    pub(super) fn load(&self, engine: &Engine, digest: PluginDigest) -> Option<Component> {
        let path = self.path(digest);
        if !self.verify_seal(&path, digest) {
            return None;
        }
        deserialize(engine, &path)
            .inspect_err(|error| {
                tracing::warn!(%digest, %error, "compiled plugin does not load; compiling");
            })
            .ok()
    }

    /// Stores the compiled code of a component and loads it. Writes the whole file: do not call this on an async
    /// thread.
    pub(super) fn store(
        &self,
        engine: &Engine,
        digest: PluginDigest,
        code: &[u8],
    ) -> Result<Component, LoadError> {
        let path = self.path(digest);
        let stored = self.write(&path, digest, code);
        let stored =
            stored.map_err(wasmtime::Error::from).and_then(|()| deserialize(engine, &path));
        stored.or_else(|error| {
            // The disk is full, or the file was deleted right after it was written: the plugin works without the
            // cache, at a higher cost. Or the component needs more than one pool slot has, which is only discovered
            // here.
            tracing::warn!(%digest, %error, "the compiled plugin cannot be used from the cache");
            let component = deserialize_bytes(engine, code);
            component.map_err(|error| LoadError::NotAComponent(format!("{error:#}")))
        })
    }

    /// Deletes files of other components, files of another configuration, and half-written files. Deleting a needed
    /// file costs one compilation. Files younger than an hour stay, since another process may be writing them.
    pub(super) fn sweep(&self, needed: &HashSet<PluginDigest>) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_needed = name.to_str().is_some_and(|name| self.is_needed_file(name, needed));
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            if !is_needed && age > SWEEP_AGE_MIN {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Whether this is the name of the code or the seal of one of these components, under this configuration.
    fn is_needed_file(&self, name: &str, needed: &HashSet<PluginDigest>) -> bool {
        let Some((stem, "cwasm" | "seal")) = name.split_once('.') else { return false };
        let Some((hex, compatibility)) = stem.split_once('-') else { return false };
        let digest = format!("sha256:{hex}").parse::<PluginDigest>();
        compatibility == format!("{:016x}", self.compatibility)
            && digest.is_ok_and(|digest| needed.contains(&digest))
    }

    /// Deletes the compiled code of a component that turned out not to be a plugin, or is no longer installed
    /// anywhere.
    pub(super) fn delete(&self, digest: PluginDigest) {
        let path = self.path(digest);
        // The seal first: code without a seal is not loaded.
        for file in [path.with_extension("seal"), path] {
            if let Err(error) = fs::remove_file(&file)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%digest, %error, "a refused component stays in the code cache");
            }
        }
    }

    fn path(&self, digest: PluginDigest) -> PathBuf {
        self.folder.join(format!("{}-{:016x}.cwasm", digest.hex(), self.compatibility))
    }

    fn seal_of(&self, digest: PluginDigest, code: impl io::Read) -> io::Result<blake3::Hash> {
        let mut hasher = self.seal.hasher();
        hasher.update(digest.hex().as_bytes());
        hasher.update(&self.compatibility.to_le_bytes());
        Ok(hasher.update_reader(code)?.finalize())
    }

    fn verify_seal(&self, path: &Path, digest: PluginDigest) -> bool {
        let sealed = File::open(path).and_then(|code| self.seal_of(digest, code));
        let (Ok(sealed), Ok(seal)) = (sealed, fs::read(path.with_extension("seal"))) else {
            return false;
        };
        let holds = bool::from(sealed.as_bytes().ct_eq(seal.as_slice()));
        if !holds {
            tracing::warn!(%digest, "the seal of a compiled plugin does not hold; compiling anew");
        }
        holds
    }

    /// Writes the code first and the seal last, each renamed into place, so that a crash cannot leave a seal on
    /// half a file. Another process that stores the same plugin at the same moment writes the same bytes. Running
    /// code is mapped from this file, so nothing may write into it, as a restore with `cp` would; the file is
    /// read-only, and a replacement is a new file that existing mappings never see.
    fn write(&self, path: &Path, digest: PluginDigest, code: &[u8]) -> io::Result<()> {
        write_atomic(path, code)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o400))?;
        write_atomic(&path.with_extension("seal"), self.seal_of(digest, code)?.as_bytes())
    }
}

#[expect(
    unsafe_code,
    reason = "loading compiled code has no safe form; the seal is what makes it sound"
)]
fn deserialize(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: this gateway wrote the file (its seal has just been checked, or it has just been written), for an
    // engine of the same configuration (which is part of the file's name), in a folder that only this user can
    // write to.
    unsafe { Component::deserialize_file(engine, path) }
}

#[expect(
    unsafe_code,
    reason = "loading compiled code has no safe form; a compiler of this gateway's has just made it"
)]
fn deserialize_bytes(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: the code came over a pipe from a process of this same program, which compiled it for an engine of the
    // same configuration.
    unsafe { Component::deserialize(engine, code) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::{BUNDLED, PoolSize};

    #[test]
    fn code_whose_seal_does_not_hold_is_not_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let key = HostKey::load_or_create(&folder.path().join("host.key")).unwrap();
        let engine = engine::build(PoolSize { calls: 1, memory_bytes_max: 1 << 20 }).unwrap();
        let cache = CodeCache::open(&folder.path().join("cache"), &key, &engine).unwrap();
        let (_, source) = BUNDLED[0];
        let digest = PluginDigest::of(source);
        let code = engine.precompile_component(source).unwrap();
        cache.store(&engine, digest, &code).unwrap();
        let path = cache.path(digest);
        let compiled = fs::read(&path).unwrap();
        assert!(cache.verify_seal(&path, digest));

        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);

        // A changed byte in the code, a seal made without the key, and another plugin's code under this name.
        let mut changed = compiled.clone();
        changed[compiled.len() / 2] ^= 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, &changed).unwrap();
        assert!(cache.load(&engine, digest).is_none());
        cache.store(&engine, digest, &code).unwrap();
        assert!(cache.verify_seal(&path, digest));

        fs::write(path.with_extension("seal"), blake3::hash(&compiled).as_bytes()).unwrap();
        assert!(cache.load(&engine, digest).is_none());
        cache.store(&engine, digest, &code).unwrap();
        let other = PluginDigest::of(b"another plugin");
        fs::copy(&path, cache.path(other)).unwrap();
        fs::copy(path.with_extension("seal"), cache.path(other).with_extension("seal")).unwrap();
        assert!(!cache.verify_seal(&cache.path(other), other));
    }
}
