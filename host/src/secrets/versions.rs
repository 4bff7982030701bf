//! The values of a tenant's secret: the current one, and the previous one during a rotation.

use std::fmt;
use std::sync::Arc;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use super::DerivedKey;

/// The length of the nonce in front of sealed bytes.
const NONCE_BYTES: usize = 24;

/// The longest secret, in bytes: an RSA key in PEM fits.
pub const SECRET_BYTES_MAX: usize = 16 << 10;

/// The values of a secret that are in force, newest first.
#[derive(Clone, Default)]
pub struct SecretVersions(Vec<Arc<Zeroizing<Vec<u8>>>>);

impl fmt::Debug for SecretVersions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretVersions({})", self.0.len())
    }
}

impl SecretVersions {
    /// Creates the versions from values, newest first.
    #[must_use]
    pub fn new(values: impl IntoIterator<Item = Zeroizing<Vec<u8>>>) -> Self {
        Self(values.into_iter().map(Arc::new).collect())
    }

    /// The value that is used for signing and sending.
    #[must_use]
    pub fn newest(&self) -> Option<&[u8]> {
        self.0.first().map(|value| value.as_slice())
    }

    /// All values that are accepted for verification.
    pub fn all(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|value| value.as_slice())
    }
}

/// Sealed bytes that cannot be opened: sealed with another key or for another place, or modified.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a stored secret cannot be opened with this gateway's key")]
pub struct SealBroken;

impl DerivedKey {
    /// Encrypts a secret for this place (XChaCha20-Poly1305, with a random nonce in front). The result cannot be
    /// opened for another place, so a secret cannot be moved within the store.
    ///
    /// # Errors
    /// If the operating system provides no randomness.
    pub fn seal(&self, place: &[u8], secret: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(std::io::Error::other)?;
        let payload = Payload { msg: secret, aad: place };
        let sealed = self.cipher().encrypt(&XNonce::from(nonce), payload);
        let sealed = sealed.map_err(|_| std::io::Error::other("the secret cannot be sealed"))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Decrypts what [`DerivedKey::seal`] encrypted for this place.
    ///
    /// # Errors
    /// [`SealBroken`].
    pub fn unseal(&self, place: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealBroken> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(SealBroken)?;
        let payload = Payload { msg: sealed, aad: place };
        let opened = self.cipher().decrypt(&XNonce::from(*nonce), payload);
        opened.map(Zeroizing::new).map_err(|_| SealBroken)
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&Key::from(*self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_in_its_place_only() {
        let key = DerivedKey(Zeroizing::new([7; 32]));
        let sealed = key.seal(b"a", b"hush").unwrap();
        assert_eq!(key.unseal(b"a", &sealed).unwrap().as_slice(), b"hush");
        assert!(key.unseal(b"b", &sealed).is_err());
        assert!(DerivedKey(Zeroizing::new([8; 32])).unseal(b"a", &sealed).is_err());
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert!(key.unseal(b"a", &changed).is_err() && key.unseal(b"a", b"short").is_err());
        assert_ne!(key.seal(b"a", b"hush").unwrap(), sealed);
    }

    #[test]
    fn versions_print_nothing() {
        let versions = SecretVersions::new([b"new".to_vec().into(), b"old".to_vec().into()]);
        assert_eq!(format!("{versions:?}"), "SecretVersions(2)");
        assert_eq!(versions.newest(), Some(b"new".as_slice()));
    }
}
