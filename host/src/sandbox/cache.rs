//! Compiled plugins on disk, sealed.
//!
//! Loading compiled code is as good as running it: whoever can write these files owns the gateway. So
//! each is sealed with a key of the host's own, and one whose seal is missing or wrong is compiled
//! anew. The folder belongs to the gateway's user alone; the seal is for what comes into it by copying,
//! restoring and sharing.

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
use crate::disk::write_whole;
use crate::ids::PluginDigest;
use crate::secrets::{DerivedKey, HostKey};

/// How old compiled code that nobody needs has to be before a start takes it away.
const SWEPT_AFTER: Duration = Duration::from_secs(60 * 60);

/// The folder of compiled plugins.
#[derive(Debug)]
pub(super) struct CodeCache {
    folder: PathBuf,
    seal: DerivedKey,
    compatibility: u64,
}

impl CodeCache {
    /// Opens the folder, making it for its owner only.
    pub(super) fn open(folder: &Path, key: &HostKey, engine: &Engine) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            seal: key.derive("wardgate 2026 seal of compiled plugins"),
            compatibility: engine::compatibility(engine),
        })
    }

    /// The compiled component from disk, where it is there and its seal holds. Reads it whole: not for an
    /// async thread.
    pub(super) fn load(&self, engine: &Engine, digest: PluginDigest) -> Option<Component> {
        let path = self.path(digest);
        if !self.seal_holds(&path, digest) {
            return None;
        }
        deserialize(engine, &path)
            .inspect_err(|error| {
                tracing::warn!(%digest, %error, "compiled plugin does not load; compiling");
            })
            .ok()
    }

    /// Keeps what a compiler made of a component, and loads it. Writes it whole: not for an async thread.
    pub(super) fn keep(
        &self,
        engine: &Engine,
        digest: PluginDigest,
        code: &[u8],
    ) -> Result<Component, LoadError> {
        let path = self.path(digest);
        let kept = self.write(&path, digest, code);
        let kept = kept.map_err(wasmtime::Error::from).and_then(|()| deserialize(engine, &path));
        kept.or_else(|error| {
            // A full disk, or somebody who took it away at once: it works without, but dearly. Or it asks for
            // more than the pool has in one slot, which comes to light here.
            tracing::warn!(%digest, %error, "the compiled plugin cannot be used from the cache");
            let component = deserialize_bytes(engine, code);
            component.map_err(|error| LoadError::NotAComponent(format!("{error:#}")))
        })
    }

    /// Takes away files of components that are none of these, of another configuration, or half written.
    /// Losing one costs a compilation; so that others may be writing meanwhile, what is younger than an
    /// hour stays.
    pub(super) fn sweep(&self, needed: &HashSet<PluginDigest>) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_needed = name.to_str().is_some_and(|name| self.is_of(name, needed));
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            if !is_needed && age > SWEPT_AFTER {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Whether a file of this name is the code or the seal of one of these.
    fn is_of(&self, name: &str, needed: &HashSet<PluginDigest>) -> bool {
        let Some((stem, "cwasm" | "seal")) = name.split_once('.') else { return false };
        let Some((hex, compatibility)) = stem.split_once('-') else { return false };
        let digest = format!("sha256:{hex}").parse::<PluginDigest>();
        compatibility == format!("{:016x}", self.compatibility)
            && digest.is_ok_and(|digest| needed.contains(&digest))
    }

    /// Forgets what was kept of a component that turned out to be no plugin, or is installed nowhere.
    pub(super) fn forget(&self, digest: PluginDigest) {
        let path = self.path(digest);
        // The seal first: code without one is not loaded.
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

    fn seal_holds(&self, path: &Path, digest: PluginDigest) -> bool {
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

    /// Code first, seal last, each renamed into place: a crash leaves no seal over half a file. Another
    /// process that keeps the same plugin at the same moment writes the same bytes. Code is mapped into this
    /// process while it runs, so nobody may write into the file, as a restore by `cp` would: what comes in its
    /// place is another file, which those who have this one never see.
    fn write(&self, path: &Path, digest: PluginDigest, code: &[u8]) -> io::Result<()> {
        write_whole(path, code)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o400))?;
        write_whole(&path.with_extension("seal"), self.seal_of(digest, code)?.as_bytes())
    }
}

#[expect(
    unsafe_code,
    reason = "loading compiled code has no safe form; the seal is what makes it sound"
)]
fn deserialize(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file was written by this gateway (its seal has just been checked, or it has just been
    // written), for an engine of the same configuration (part of its name), into a folder that only
    // this user can write to.
    unsafe { Component::deserialize_file(engine, path) }
}

#[expect(
    unsafe_code,
    reason = "loading compiled code has no safe form; a compiler of this gateway's has just made it"
)]
fn deserialize_bytes(engine: &Engine, code: &[u8]) -> wasmtime::Result<Component> {
    // SAFETY: it came over a pipe from a process of this program, which compiled it for an engine of the same
    // configuration.
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
        cache.keep(&engine, digest, &code).unwrap();
        let path = cache.path(digest);
        let compiled = fs::read(&path).unwrap();
        assert!(cache.seal_holds(&path, digest));

        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o400);

        // A byte of the code changed, a seal of somebody else's, another plugin's code under the name.
        let mut changed = compiled.clone();
        changed[compiled.len() / 2] ^= 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, &changed).unwrap();
        assert!(cache.load(&engine, digest).is_none());
        cache.keep(&engine, digest, &code).unwrap();
        assert!(cache.seal_holds(&path, digest));

        fs::write(path.with_extension("seal"), blake3::hash(&compiled).as_bytes()).unwrap();
        assert!(cache.load(&engine, digest).is_none());
        cache.keep(&engine, digest, &code).unwrap();
        let other = PluginDigest::of(b"another plugin");
        fs::copy(&path, cache.path(other)).unwrap();
        fs::copy(path.with_extension("seal"), cache.path(other).with_extension("seal")).unwrap();
        assert!(!cache.seal_holds(&cache.path(other), other));
    }
}
