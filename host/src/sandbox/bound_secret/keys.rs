//! Keys of secrets, decoded and hashed before a plugin uses them. Operations neither copy, decode nor hash a key, so
//! their time does not depend on its length.

use hmac::{Hmac, KeyInit, Mac};
use subtle::{Choice, ConstantTimeEq as _};

use crate::secrets::{KeyForm, SecretVersions};

/// How many values a secret has while it is rotated. A comparison always takes the time for at least this many.
const VERSIONS: usize = 2;

/// The keys of a secret's values, the newest first.
pub(in crate::sandbox) struct Keys(Vec<Key>);

struct Key {
    /// An empty key never matches.
    is_empty: bool,
    digest: blake3::Hash,
    sha1: Hmac<sha1::Sha1>,
    sha256: Hmac<sha2::Sha256>,
    sha512: Hmac<sha2::Sha512>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

impl Keys {
    /// The keys of these values. `None` if one of them does not decode in this form.
    pub(in crate::sandbox) fn from_versions(
        values: &SecretVersions,
        form: KeyForm,
    ) -> Option<Self> {
        values.all().map(|text| Key::new(&form.key(text)?)).collect::<Option<_>>().map(Self)
    }

    /// Whether one of the keys equals what was presented. Digests of fixed length are compared, always for at least
    /// [`VERSIONS`] keys: the time reveals neither how much of a guess is right, nor how long a key is, nor how many
    /// of up to [`VERSIONS`] keys there are.
    pub(in crate::sandbox) fn match_any(&self, presented: &[u8]) -> bool {
        let presented = blake3::hash(presented);
        let keys = self.0.iter().map(|key| (key.digest, !key.is_empty));
        let padded = keys.chain(std::iter::repeat((blake3::Hash::from_bytes([0; 32]), false)));
        let holds = padded.take(VERSIONS.max(self.0.len())).fold(
            Choice::from(0),
            |holds, (digest, counts)| {
                let same = digest.as_bytes().ct_eq(presented.as_bytes());
                holds | (same & Choice::from(u8::from(counts)))
            },
        );
        holds.into()
    }

    /// The HMAC of a message under the newest key.
    pub(in crate::sandbox) fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        self.0.first().map(|key| key.mac(algorithm, &[message])).unwrap_or_default()
    }

    /// Whether one of the signatures is the HMAC of the concatenated parts under one of the keys. Every pair is
    /// tried, so that the time does not reveal which one matched.
    pub(in crate::sandbox) fn verify(
        &self,
        algorithm: Algorithm,
        message: &[&[u8]],
        signatures: &[Vec<u8>],
    ) -> bool {
        self.0.iter().filter(|key| !key.is_empty).fold(false, |holds, key| {
            let mac = key.mac(algorithm, message);
            signatures
                .iter()
                .filter(|signature| !signature.is_empty())
                .fold(holds, |holds, signature| holds | bool::from(mac.ct_eq(signature)))
        })
    }
}

impl Key {
    fn new(key: &[u8]) -> Option<Self> {
        /// An HMAC accepts keys of any length, so this never fails.
        fn under<M: KeyInit>(key: &[u8]) -> Option<M> {
            M::new_from_slice(key).ok()
        }
        Some(Self {
            is_empty: key.is_empty(),
            digest: blake3::hash(key),
            sha1: under(key)?,
            sha256: under(key)?,
            sha512: under(key)?,
        })
    }

    fn mac(&self, algorithm: Algorithm, message: &[&[u8]]) -> Vec<u8> {
        fn mac<M: Mac + Clone>(under: &M, message: &[&[u8]]) -> Vec<u8> {
            let mut mac = under.clone();
            message.iter().for_each(|part| mac.update(part));
            mac.finalize().into_bytes().to_vec()
        }
        match algorithm {
            Algorithm::Sha1 => mac(&self.sha1, message),
            Algorithm::Sha256 => mac(&self.sha256, message),
            Algorithm::Sha512 => mac(&self.sha512, message),
        }
    }
}

/// The hash function of an HMAC.
#[derive(Clone, Copy)]
pub(in crate::sandbox) enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
}

impl Algorithm {
    pub(in crate::sandbox) fn named(name: &str) -> Option<Self> {
        match name {
            "sha1" => Some(Self::Sha1),
            "sha256" => Some(Self::Sha256),
            "sha512" => Some(Self::Sha512),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::SecretBinding;

    fn keys(values: &[&str]) -> Keys {
        let binding: SecretBinding = serde_json::from_str("\"partner\"").unwrap();
        let form = binding.form("a", None, |_| None).unwrap();
        let values = values.iter().map(|value| value.as_bytes().to_vec().into());
        Keys::from_versions(&SecretVersions::new(values), form).unwrap()
    }

    #[test]
    fn every_value_counts_and_an_empty_one_never() {
        for (values, presented, holds) in [
            (&["new"][..], "new", true),
            (&["new"], "old", false),
            (&["new", "old"], "old", true),
            (&["a", "b", "c"], "c", true),
            (&["new", "old"], "", false),
            (&[""], "", false),
            (&[], "", false),
        ] {
            assert_eq!(keys(values).match_any(presented.as_bytes()), holds, "{values:?}");
        }
    }

    #[test]
    fn a_message_is_signed_with_the_newest_value_and_verified_with_each() {
        let (new, old, both) = (keys(&["new"]), keys(&["old"]), keys(&["new", "old"]));
        for algorithm in [Algorithm::Sha1, Algorithm::Sha256, Algorithm::Sha512] {
            let by = |keys: &Keys| keys.sign(algorithm, b"message");
            assert_eq!(by(&both), by(&new));
            assert!(both.verify(algorithm, &[b"mes", b"sage"], &[Vec::new(), by(&old)]));
            assert!(!new.verify(algorithm, &[b"message"], &[by(&old)]));
            assert!(!keys(&[""]).verify(algorithm, &[b"message"], &[by(&keys(&[""]))]));
        }
        // RFC 4231, test case 2.
        let mac = keys(&["Jefe"]).sign(Algorithm::Sha256, b"what do ya want for nothing?");
        assert!(hex::encode(mac).starts_with("5bdcc146bf60754e6a042426089575c7"));
    }
}
