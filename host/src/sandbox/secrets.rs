//! Secrets as plugins have them: opened by name, compared and signed with, never read.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use subtle::ConstantTimeEq as _;
use wasmtime::component::Resource;

use super::bindings::v0_1::wardgate::plugin::{secrets, types};
use super::egress::failure;
use super::host_calls::CallState;
use super::journal::{Answered, Outside, lock};
use crate::secrets::SecretVersions;

/// A granted secret that a guest has opened.
pub struct GrantedSecret(SecretVersions);

impl CallState {
    fn granted_secret(&self, name: &str) -> Result<SecretVersions, types::Failure> {
        let granted = self.secret(name).ok_or_else(|| {
            let shown: String = name.chars().take(64).collect();
            let hint = self.grants_hint();
            let message = format!(
                "no secret {shown:?} is granted to the plugin: a channel's [secrets] or {hint} can name one"
            );
            failure("forbidden", &message)
        })?;
        let (secret, versions) = granted;
        versions.clone().ok_or_else(|| {
            failure(
                "forbidden",
                &format!("the tenant has no secret {secret}, which the plugin was granted"),
            )
        })
    }

    fn keep(
        &mut self,
        versions: Result<SecretVersions, types::Failure>,
    ) -> wasmtime::Result<Result<Resource<GrantedSecret>, types::Failure>> {
        match versions {
            Ok(versions) => Ok(Ok(self.table().push(GrantedSecret(versions))?)),
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// A verdict about a secret: from the recording that is replayed, or found out and written down.
    fn verdict(&mut self, operation: &'static str, find: impl FnOnce() -> bool) -> bool {
        let outside = self.outside();
        if let Outside::Scripted(script) = &outside
            && let Some(verdicts) = &mut lock(script).verdicts
        {
            return verdicts.pop_front().unwrap_or(false);
        }
        let holds = find();
        outside.record(|| Answered::Secret { operation: operation.to_owned(), holds });
        holds
    }
}

impl secrets::Host for CallState {
    fn open(
        &mut self,
        name: String,
    ) -> wasmtime::Result<Result<Resource<GrantedSecret>, types::Failure>> {
        let versions = self.granted_secret(&name);
        self.keep(versions)
    }

    fn open_encoded(
        &mut self,
        name: String,
        prefix: String,
        encoding: String,
    ) -> wasmtime::Result<Result<Resource<GrantedSecret>, types::Failure>> {
        let decoded = self.granted_secret(&name).and_then(|versions| {
            versions.try_map(|value| {
                let text = value.strip_prefix(prefix.as_bytes()).unwrap_or(value).trim_ascii();
                decode(&encoding, text).ok_or_else(|| {
                    failure("invalid-input", &format!("the secret {name:?} is not {encoding}"))
                })
            })
        });
        self.keep(decoded)
    }

    fn hmac_verify(
        &mut self,
        key: Resource<GrantedSecret>,
        algorithm: String,
        message: Vec<u8>,
        signature: Vec<u8>,
    ) -> wasmtime::Result<Result<bool, types::Failure>> {
        self.charge(message.len())?;
        let versions = self.table().get(&key)?.0.clone();
        let Some(algorithm) = Algorithm::named(&algorithm) else {
            return Ok(Err(unknown_algorithm(&algorithm)));
        };
        let verdict = self.verdict("hmac-verify", || {
            // Every version is tried, so that the time tells nothing of which one it was.
            versions.all().fold(false, |holds, key| {
                let mac = algorithm.mac(key, &message);
                holds | (bool::from(mac.ct_eq(&signature)) && !signature.is_empty())
            })
        });
        Ok(Ok(verdict))
    }

    fn hmac_sign(
        &mut self,
        key: Resource<GrantedSecret>,
        algorithm: String,
        message: Vec<u8>,
    ) -> wasmtime::Result<Result<Vec<u8>, types::Failure>> {
        self.charge(message.len())?;
        let versions = self.table().get(&key)?.0.clone();
        let Some(algorithm) = Algorithm::named(&algorithm) else {
            return Ok(Err(unknown_algorithm(&algorithm)));
        };
        // A signature is as good as a secret to whoever reads it later, so only that there was one is
        // written down.
        self.outside().record(|| Answered::Signed);
        let key = versions.newest().unwrap_or_default();
        Ok(Ok(algorithm.mac(key, &message)))
    }

    fn matches(
        &mut self,
        key: Resource<GrantedSecret>,
        presented: Vec<u8>,
    ) -> wasmtime::Result<bool> {
        self.charge(presented.len())?;
        let versions = self.table().get(&key)?.0.clone();
        Ok(self.verdict("matches", || {
            versions.all().fold(false, |holds, value| {
                // Hashes are compared, so that not even the length shows.
                let same =
                    blake3::hash(value).as_bytes().ct_eq(blake3::hash(&presented).as_bytes());
                holds | (bool::from(same) && !value.is_empty())
            })
        }))
    }
}

impl secrets::HostSecret for CallState {
    fn drop(&mut self, key: Resource<GrantedSecret>) -> wasmtime::Result<()> {
        self.table().delete(key)?;
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        match name {
            "sha1" => Some(Self::Sha1),
            "sha256" => Some(Self::Sha256),
            "sha512" => Some(Self::Sha512),
            _ => None,
        }
    }

    fn mac(self, key: &[u8], message: &[u8]) -> Vec<u8> {
        /// An HMAC takes keys of any length, so this never fails; an empty answer verifies nothing.
        fn mac<M: Mac + hmac::KeyInit>(key: &[u8], message: &[u8]) -> Vec<u8> {
            <M as hmac::KeyInit>::new_from_slice(key).map_or_else(
                |_| Vec::new(),
                |mac| mac.chain_update(message).finalize().into_bytes().to_vec(),
            )
        }
        match self {
            Self::Sha1 => mac::<Hmac<sha1::Sha1>>(key, message),
            Self::Sha256 => mac::<Hmac<sha2::Sha256>>(key, message),
            Self::Sha512 => mac::<Hmac<sha2::Sha512>>(key, message),
        }
    }
}

fn unknown_algorithm(name: &str) -> types::Failure {
    let shown: String = name.chars().take(40).collect();
    failure("invalid-input", &format!("the algorithm {shown:?} is none of sha1, sha256, sha512"))
}

fn decode(encoding: &str, text: &[u8]) -> Option<Vec<u8>> {
    match encoding {
        "base64" => STANDARD.decode(text).ok(),
        "base64url" => {
            let text = text.strip_suffix(b"==").or(text.strip_suffix(b"=")).unwrap_or(text);
            URL_SAFE_NO_PAD.decode(text).ok()
        }
        "hex" => hex::decode(text).ok(),
        _ => None,
    }
}
