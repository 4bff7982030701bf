//! Whose signatures on components are good: minisign signatures by keys that the operator has pinned.
//!
//! Only prehashed signatures count, which is what minisign has made by default since version 0.10
//! (<https://jedisct1.github.io/minisign/#signature-format>).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minisign_verify::{Error, PublicKey, Signature};

use crate::settings::PluginSettings;
use crate::tenants::VerifiedSignature;

/// Longest signature file: four lines, two of which are comments.
pub const SIGNATURE_BYTES_MAX: usize = 4 << 10;

/// What is wrong with a signature, or with its absence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is none, and there has to be one.
    #[error(
        "it is not signed by a key that this gateway trusts, and only signed plugins are taken; \
         trusted are: {0}"
    )]
    Missing(String),
    /// It is none.
    #[error("its signature is not a minisign signature")]
    BadRequest,
    /// It is of the older kind, which signs the bytes themselves.
    #[error("its signature is of minisign's legacy kind; sign it again without -l")]
    Legacy,
    /// Nobody has pinned the key.
    #[error(
        "its signature is by key {key}, which this gateway does not trust; trusted are: {trusted}"
    )]
    UnknownKey {
        /// The id of the key, as minisign prints it.
        key: String,
        /// Those that are pinned.
        trusted: String,
    },
    /// The key is pinned, and did not sign this.
    #[error("its signature by {0} is not for this component")]
    Mismatch(String),
    /// A key of the settings is none.
    #[error("plugins.signers.{0} is not a minisign public key")]
    Key(String),
}

/// A key that the operator has pinned.
#[derive(Debug)]
struct Pinned {
    name: String,
    text: String,
    key: PublicKey,
}

/// The keys that the operator has pinned.
#[derive(Debug)]
pub(super) struct Signers {
    pinned: Vec<Pinned>,
    required: bool,
}

impl Signers {
    /// Those of the settings.
    pub(super) fn from_settings(settings: &PluginSettings) -> Result<Self, SignatureError> {
        let pinned = settings.signers.iter().map(|(name, text)| {
            let key =
                PublicKey::from_base64(text).map_err(|_| SignatureError::Key(name.clone()))?;
            Ok(Pinned { name: name.clone(), text: text.clone(), key })
        });
        Ok(Self { pinned: pinned.collect::<Result<_, _>>()?, required: settings.require_signed })
    }

    /// Who signed this component. A signature that is there has to be good, whether one is required or
    /// not: whoever sends one relies on it.
    pub(super) fn check(
        &self,
        component: &[u8],
        signature: Option<&str>,
    ) -> Result<Option<VerifiedSignature>, SignatureError> {
        let Some(text) = signature else {
            self.admit(None)?;
            return Ok(None);
        };
        if text.len() > SIGNATURE_BYTES_MAX {
            return Err(SignatureError::BadRequest);
        }
        let signature = Signature::decode(text).map_err(|_| SignatureError::BadRequest)?;
        for pinned in &self.pinned {
            return match pinned.key.verify(component, &signature, false) {
                Ok(()) => Ok(Some(VerifiedSignature {
                    signer: pinned.name.clone(),
                    key: pinned.text.clone(),
                    trusted_comment: signature.trusted_comment().to_owned(),
                })),
                Err(Error::UnexpectedKeyId) => continue,
                Err(Error::UnexpectedAlgorithm) => Err(SignatureError::Legacy),
                Err(_) => Err(SignatureError::Mismatch(pinned.name.clone())),
            };
        }
        let key = text.lines().nth(1).and_then(key_id).unwrap_or_default();
        Err(SignatureError::UnknownKey { key, trusted: self.to_string() })
    }

    /// Whether the settings have a signer of this name.
    pub(super) fn knows(&self, signer: &str) -> bool {
        self.pinned.iter().any(|own| own.name == signer)
    }

    /// Whether a signature that was found good once is by the key that the settings of now call this.
    pub(super) fn has_signed(&self, signer: &str, signed: Option<&VerifiedSignature>) -> bool {
        let is_by = |key: &str| self.pinned.iter().any(|own| own.name == signer && own.text == key);
        signed.is_some_and(|signed| is_by(&signed.key))
    }

    /// Whether something with this signature, found good once, may be used by the settings of now.
    pub(super) fn admit(&self, signed: Option<&VerifiedSignature>) -> Result<(), SignatureError> {
        let is_pinned = signed.is_some_and(|by| self.pinned.iter().any(|own| own.text == by.key));
        if is_pinned || !self.required {
            return Ok(());
        }
        Err(SignatureError::Missing(self.to_string()))
    }
}

impl fmt::Display for Signers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pinned.is_empty() {
            return f.write_str("no keys at all");
        }
        for (place, pinned) in self.pinned.iter().enumerate() {
            let between = if place == 0 { "" } else { ", " };
            let id = key_id(&pinned.text).unwrap_or_default();
            write!(f, "{between}{} ({id})", pinned.name)?;
        }
        Ok(())
    }
}

/// The id of a key as minisign prints it, from a public key or the second line of a signature: both begin
/// with two bytes for the algorithm and eight for the id, a little-endian number.
#[must_use]
pub fn key_id(text: &str) -> Option<String> {
    let bytes = STANDARD.decode(text.trim()).ok()?;
    let id: [u8; 8] = bytes.get(2..10)?.try_into().ok()?;
    Some(format!("{:016X}", u64::from_le_bytes(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of minisign-verify's own documentation: a public key, and its signature of `test`.
    const KEY: &str = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
    const OF_TEST: &str = "untrusted comment: signature from minisign secret key\n\
        RUQf6LRCGA9i559r3g7V1qNyJDApGip8MfqcadIgT9CuhV3EMhHoN1mGTkUidF/z7SrlQgXdy8ofjb7bNJJylDOocrCo8KLzZwo=\n\
        trusted comment: timestamp:1633700835\tfile:test\tprehashed\n\
        wLMDjy9FLAuxZ3q4NlEvkgtyhrr0gtTu6KC4KBJdITbbOeAi1zBIYo0v4iTgt8jJpIidRJnp94ABQkJAgAooBQ==\n";

    fn signers(required: bool) -> Signers {
        let signers = [("us".to_owned(), KEY.to_owned())].into();
        Signers::from_settings(&PluginSettings {
            versions_max: 1,
            preload_max: 0,
            install_wait_seconds_max: 0,
            require_signed: required,
            signers,
        })
        .unwrap()
    }

    #[test]
    fn a_good_signature_names_signer_and_trusted_comment() {
        let signed = signers(true).check(b"test", Some(OF_TEST)).unwrap().unwrap();
        assert_eq!((signed.signer.as_str(), signed.key.as_str()), ("us", KEY));
        assert_eq!(signed.trusted_comment, "timestamp:1633700835\tfile:test\tprehashed");
        assert_eq!(key_id(KEY).unwrap(), "E7620F1842B4E81F");
    }

    #[test]
    fn every_byte_of_component_and_signature_counts() {
        let signers = signers(true);
        assert_eq!(
            signers.check(b"tesT", Some(OF_TEST)),
            Err(SignatureError::Mismatch("us".to_owned()))
        );
        for place in 0..OF_TEST.len() {
            let mut changed = OF_TEST.to_owned().into_bytes();
            // The comment of the first line is not signed, and says so; line ends are no part of it.
            if place < OF_TEST.find('\n').unwrap() || changed[place] == b'\n' {
                continue;
            }
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(signers.check(b"test", Some(&changed)).is_err(), "{place}: {changed}");
        }
    }

    #[test]
    fn without_a_signature_only_what_is_not_required_passes() {
        assert_eq!(signers(false).check(b"test", None), Ok(None));
        assert!(matches!(signers(true).check(b"test", None), Err(SignatureError::Missing(_))));
    }
}
