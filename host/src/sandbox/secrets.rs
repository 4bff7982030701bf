//! Secrets as plugins have them: opened by name, compared and signed with, never read. In which form a key is
//! had from the secret's text, and what may be done with it, is the binding's to say
//! ([`SecretBinding`]): whatever a plugin asks for, what comes of it tells nothing of the secret's bytes.

use hmac::{Hmac, Mac};
use subtle::ConstantTimeEq as _;
use wasmtime::component::Resource;

use super::bindings::v0_1::wardgate::plugin::{secrets, types};
use super::egress::failure;
use super::host_calls::CallState;
use super::journal::{Answered, Outside, lock};
use crate::ids::SecretName;
use crate::secrets::{KeyForm, KeyUse, SecretBinding, SecretVersions};

/// A secret bound to a name: how, and its values where the tenant has it.
#[derive(Debug, Clone)]
pub struct BoundSecret {
    /// Which secret it is, and in which form it holds the key.
    pub binding: SecretBinding,
    /// None where the tenant has no such secret, or it cannot be opened.
    pub versions: Option<SecretVersions>,
}

impl BoundSecret {
    /// A secret by its name alone.
    #[must_use]
    pub fn plain(secret: SecretName, versions: Option<SecretVersions>) -> Self {
        Self { binding: secret.into(), versions }
    }

    /// Why no key can be had from it, where that is so. For whoever binds it, not for the plugin.
    #[must_use]
    pub fn problem(&self, form: KeyForm) -> Option<String> {
        let secret = &self.binding.secret;
        let Some(versions) = &self.versions else {
            return Some(format!("the tenant has no secret {secret}"));
        };
        let undecodable = versions.all().any(|text| form.key(text).is_none());
        undecodable.then(|| {
            format!("the secret {secret} does not decode as its binding says it is encoded")
        })
    }
}

/// A granted secret that a guest has opened: its keys, and what may be done with them.
pub struct GrantedSecret {
    keys: SecretVersions,
    form: KeyForm,
}

impl CallState {
    /// The keys of a bound secret. Every reason for which there are none looks the same to the plugin.
    fn opened(
        &mut self,
        name: &str,
        expected: Option<(&str, &str)>,
    ) -> Result<GrantedSecret, types::Failure> {
        let shown = || name.chars().take(64).collect::<String>();
        let Some(bound) = self.secret(name).cloned() else {
            self.unusable_secret(format!(
                "it opens the secret {:?}, which neither the channel's [secrets] nor {} bind",
                shown(),
                self.grants_hint()
            ));
            let message = format!(
                "no secret {:?} is bound to the plugin: a channel's [secrets], or those of {}, can bind one",
                shown(),
                self.grants_hint()
            );
            return Err(failure("forbidden", &message));
        };
        let form = bound.binding.form(name, self.binding.known_forms(), |name| self.setting(name));
        let form = form.map_err(|error| error.to_string());
        let problem = match &form {
            Ok(form) => bound.problem(*form),
            Err(problem) => Some(problem.clone()),
        };
        let (Ok(form), None) = (form, &problem) else {
            let why = problem.unwrap_or_default();
            self.unusable_secret(format!("it opens the secret {:?}: {why}", shown()));
            let message = format!("the secret {:?} cannot be used as it is bound", shown());
            return Err(failure("forbidden", &message));
        };
        if let Some((prefix, encoding)) = expected
            && !form.reads_as(prefix, encoding)
        {
            self.note(format!(
                "it expects the secret {:?} to be {encoding:?} behind the prefix {prefix:?}, which is the \
                 binding's to say, and the binding says something else",
                shown()
            ));
        }
        let texts = bound.versions.unwrap_or_default();
        let keys = texts.try_map(|text| form.key(text).map(|key| key.to_vec()).ok_or(()));
        Ok(GrantedSecret { keys: keys.unwrap_or_default(), form })
    }

    fn keep(
        &mut self,
        opened: Result<GrantedSecret, types::Failure>,
    ) -> wasmtime::Result<Result<Resource<GrantedSecret>, types::Failure>> {
        match opened {
            Ok(secret) => Ok(Ok(self.table().push(secret)?)),
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// The keys of an opened secret, where its binding allows this use of them.
    fn keys_for(
        &mut self,
        key: &Resource<GrantedSecret>,
        wanted: KeyUse,
    ) -> wasmtime::Result<Result<SecretVersions, types::Failure>> {
        let secret = self.table().get(key)?;
        if secret.form.allows(wanted) {
            return Ok(Ok(secret.keys.clone()));
        }
        let message = format!(
            "the secret is not bound for this use: its binding would have to say use = [\"{}\"]",
            wanted.as_str()
        );
        self.note(message.clone());
        Ok(Err(failure("forbidden", &message)))
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
        let opened = self.opened(&name, None);
        self.keep(opened)
    }

    fn open_encoded(
        &mut self,
        name: String,
        prefix: String,
        encoding: String,
    ) -> wasmtime::Result<Result<Resource<GrantedSecret>, types::Failure>> {
        let opened = self.opened(&name, Some((&prefix, &encoding)));
        self.keep(opened)
    }

    fn hmac_verify(
        &mut self,
        key: Resource<GrantedSecret>,
        algorithm: String,
        message: Vec<u8>,
        signature: Vec<u8>,
    ) -> wasmtime::Result<Result<bool, types::Failure>> {
        self.charge(message.len())?;
        let keys = match self.keys_for(&key, KeyUse::Verify)? {
            Ok(keys) => keys,
            Err(failure) => return Ok(Err(failure)),
        };
        let Some(algorithm) = Algorithm::named(&algorithm) else {
            return Ok(Err(unknown_algorithm(&algorithm)));
        };
        let parts = [message.as_slice()];
        let verdict = self.verdict("hmac-verify", || algorithm.verify(&keys, &parts, &[signature]));
        Ok(Ok(verdict))
    }

    fn hmac_verify_body(
        &mut self,
        key: Resource<GrantedSecret>,
        algorithm: String,
        before: Vec<u8>,
        after: Vec<u8>,
        signatures: Vec<Vec<u8>>,
    ) -> wasmtime::Result<Result<bool, types::Failure>> {
        let body = self.subject.request.as_ref().map(|request| request.body.clone());
        let body = body.unwrap_or_default();
        self.charge(before.len().saturating_add(body.len()).saturating_add(after.len()))?;
        let keys = match self.keys_for(&key, KeyUse::Verify)? {
            Ok(keys) => keys,
            Err(failure) => return Ok(Err(failure)),
        };
        let Some(algorithm) = Algorithm::named(&algorithm) else {
            return Ok(Err(unknown_algorithm(&algorithm)));
        };
        // The body is hashed where it lies, once for each key, however many signatures came.
        let parts = [before.as_slice(), &body, &after];
        let verdict =
            self.verdict("hmac-verify-body", || algorithm.verify(&keys, &parts, &signatures));
        Ok(Ok(verdict))
    }

    fn hmac_sign(
        &mut self,
        key: Resource<GrantedSecret>,
        algorithm: String,
        message: Vec<u8>,
    ) -> wasmtime::Result<Result<Vec<u8>, types::Failure>> {
        self.charge(message.len())?;
        let keys = match self.keys_for(&key, KeyUse::Sign)? {
            Ok(keys) => keys,
            Err(failure) => return Ok(Err(failure)),
        };
        let Some(algorithm) = Algorithm::named(&algorithm) else {
            return Ok(Err(unknown_algorithm(&algorithm)));
        };
        // A signature is as good as a secret to whoever reads it later, so only that there was one is
        // written down.
        self.outside().record(|| Answered::Signed);
        let key = keys.newest().unwrap_or_default();
        Ok(Ok(algorithm.mac(key, &[&message])))
    }

    fn matches(
        &mut self,
        key: Resource<GrantedSecret>,
        presented: Vec<u8>,
    ) -> wasmtime::Result<bool> {
        self.charge(presented.len())?;
        // The function has no failure to give: what the binding does not allow matches nothing.
        let Ok(keys) = self.keys_for(&key, KeyUse::Compare)? else { return Ok(false) };
        Ok(self.verdict("matches", || {
            keys.all().fold(false, |holds, value| {
                // Hashes are compared: the time says nothing of how much of a guess is right.
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

    /// The HMAC of these parts, one behind the other.
    fn mac(self, key: &[u8], message: &[&[u8]]) -> Vec<u8> {
        /// An HMAC takes keys of any length, so this never fails; an empty answer verifies nothing.
        fn mac<M: Mac + hmac::KeyInit>(key: &[u8], message: &[&[u8]]) -> Vec<u8> {
            let Ok(mut mac) = <M as hmac::KeyInit>::new_from_slice(key) else { return Vec::new() };
            message.iter().for_each(|part| mac.update(part));
            mac.finalize().into_bytes().to_vec()
        }
        match self {
            Self::Sha1 => mac::<Hmac<sha1::Sha1>>(key, message),
            Self::Sha256 => mac::<Hmac<sha2::Sha256>>(key, message),
            Self::Sha512 => mac::<Hmac<sha2::Sha512>>(key, message),
        }
    }

    /// Whether one of the signatures is the HMAC under one of the keys. Every pair is tried, so that the time
    /// tells nothing of which one it was.
    fn verify(self, keys: &SecretVersions, message: &[&[u8]], signatures: &[Vec<u8>]) -> bool {
        keys.all().filter(|key| !key.is_empty()).fold(false, |holds, key| {
            let mac = self.mac(key, message);
            signatures
                .iter()
                .filter(|signature| !signature.is_empty())
                .fold(holds, |holds, signature| holds | bool::from(mac.ct_eq(signature)))
        })
    }
}

fn unknown_algorithm(name: &str) -> types::Failure {
    let shown: String = name.chars().take(40).collect();
    failure("invalid-input", &format!("the algorithm {shown:?} is none of sha1, sha256, sha512"))
}
