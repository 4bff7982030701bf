//! `wardgate:plugin/secrets`: secrets that plugins open by name, compare and sign with, but never read. The binding
//! alone ([`SecretBinding`]) decides how the secret's text encodes the key and what the key may be used for. So no
//! argument of a plugin can make a result reveal the secret's bytes.
//!
//! [`SecretBinding`]: crate::secrets::SecretBinding

use std::sync::Arc;

use wasmtime::component::Resource;

use super::failure;
use crate::sandbox::bindings::v0_1::wardgate::plugin::{secrets, types};
use crate::sandbox::bound_secret::{Algorithm, GrantedSecret, Keys};
use crate::sandbox::call::state::CallState;
use crate::sandbox::recording::{HostResponse, HostSource, lock};
use crate::secrets::KeyUse;

impl CallState {
    /// Opens a secret. All reasons why a bound secret cannot be used look the same to the plugin.
    fn open_secret(
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
        let unusable_reason = match &form {
            Ok(form) => bound.unusable_reason(*form),
            Err(unusable_reason) => Some(unusable_reason.clone()),
        };
        let ready = form.ok().filter(|_| unusable_reason.is_none());
        let ready = ready.and_then(|form| Some((form, bound.keys(form)?, bound.secret.as_ref()?)));
        let Some((form, keys, secret)) = ready else {
            let why = unusable_reason.unwrap_or_default();
            self.unusable_secret(format!("it opens the secret {:?}: {why}", shown()));
            let message = format!("the secret {:?} cannot be used as it is bound", shown());
            return Err(failure("forbidden", &message));
        };
        if let Some((prefix, encoding)) = expected
            && !form.reads_as(prefix, encoding)
        {
            self.log_host_line(format!(
                "it expects the secret {:?} to be {encoding:?} behind the prefix {prefix:?}, which is the \
                 binding's to say, and the binding says something else",
                shown()
            ));
        }
        Ok(GrantedSecret { keys, form: form.within(&secret.uses) })
    }

    fn push_secret(
        &mut self,
        opened: Result<GrantedSecret, types::Failure>,
    ) -> wasmtime::Result<Result<Resource<GrantedSecret>, types::Failure>> {
        match opened {
            Ok(secret) => Ok(Ok(self.table().push(secret)?)),
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// The keys of an opened secret, if its binding allows this use.
    fn keys_for(
        &mut self,
        key: &Resource<GrantedSecret>,
        wanted: KeyUse,
    ) -> wasmtime::Result<Result<Arc<Keys>, types::Failure>> {
        let secret = self.table().get(key)?;
        if secret.form.allows(wanted) {
            return Ok(Ok(Arc::clone(&secret.keys)));
        }
        let message = format!(
            "the secret is not bound for this use: its binding would have to say use = [\"{}\"], and the \
             secret's own uses to include it",
            wanted.as_str()
        );
        // A verifier that cannot compare rejects every request, which is not the sender's fault.
        self.unusable_secret(message.clone());
        Ok(Err(failure("forbidden", &message)))
    }

    /// A verdict about a secret: from the recording in a replay, otherwise computed and recorded.
    fn verdict(&mut self, operation: &'static str, find: impl FnOnce() -> bool) -> bool {
        let host_source = self.host_source();
        if let HostSource::Scripted(script) = &host_source
            && let Some(verdicts) = &mut lock(script).verdicts
        {
            return verdicts.pop_front().unwrap_or(false);
        }
        let holds = find();
        host_source.record(|| HostResponse::Secret { operation: operation.to_owned(), holds });
        holds
    }
}

impl secrets::Host for CallState {
    fn open(
        &mut self,
        name: String,
    ) -> wasmtime::Result<Result<Resource<GrantedSecret>, types::Failure>> {
        let opened = self.open_secret(&name, None);
        self.push_secret(opened)
    }

    fn open_encoded(
        &mut self,
        name: String,
        prefix: String,
        encoding: String,
    ) -> wasmtime::Result<Result<Resource<GrantedSecret>, types::Failure>> {
        let opened = self.open_secret(&name, Some((&prefix, &encoding)));
        self.push_secret(opened)
    }

    fn hmac_verify(
        &mut self,
        key: Resource<GrantedSecret>,
        algorithm: String,
        message: Vec<u8>,
        signature: Vec<u8>,
    ) -> wasmtime::Result<Result<bool, types::Failure>> {
        self.charge_look_up(message.len())?;
        let keys = match self.keys_for(&key, KeyUse::Verify)? {
            Ok(keys) => keys,
            Err(failure) => return Ok(Err(failure)),
        };
        let Some(algorithm) = Algorithm::named(&algorithm) else {
            return Ok(Err(unknown_algorithm(&algorithm)));
        };
        let parts = [message.as_slice()];
        let verdict = self.verdict("hmac-verify", || keys.verify(algorithm, &parts, &[signature]));
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
        self.charge_look_up(before.len().saturating_add(body.len()).saturating_add(after.len()))?;
        let keys = match self.keys_for(&key, KeyUse::Verify)? {
            Ok(keys) => keys,
            Err(failure) => return Ok(Err(failure)),
        };
        let Some(algorithm) = Algorithm::named(&algorithm) else {
            return Ok(Err(unknown_algorithm(&algorithm)));
        };
        // The body is hashed in place, once for each key, however many signatures there are.
        let parts = [before.as_slice(), &body, &after];
        let verdict =
            self.verdict("hmac-verify-body", || keys.verify(algorithm, &parts, &signatures));
        Ok(Ok(verdict))
    }

    fn hmac_sign(
        &mut self,
        key: Resource<GrantedSecret>,
        algorithm: String,
        message: Vec<u8>,
    ) -> wasmtime::Result<Result<Vec<u8>, types::Failure>> {
        self.charge_look_up(message.len())?;
        let keys = match self.keys_for(&key, KeyUse::Sign)? {
            Ok(keys) => keys,
            Err(failure) => return Ok(Err(failure)),
        };
        let Some(algorithm) = Algorithm::named(&algorithm) else {
            return Ok(Err(unknown_algorithm(&algorithm)));
        };
        // A signature is as sensitive as a secret to later readers, so the recording only says that there was one.
        self.host_source().record(|| HostResponse::Signed);
        Ok(Ok(keys.sign(algorithm, &message)))
    }

    fn matches(
        &mut self,
        key: Resource<GrantedSecret>,
        presented: Vec<u8>,
    ) -> wasmtime::Result<bool> {
        self.charge_look_up(presented.len())?;
        // The function cannot return a failure: a use that the binding does not allow matches nothing.
        let Ok(keys) = self.keys_for(&key, KeyUse::Compare)? else { return Ok(false) };
        Ok(self.verdict("matches", || keys.match_any(&presented)))
    }
}

impl secrets::HostSecret for CallState {
    fn drop(&mut self, key: Resource<GrantedSecret>) -> wasmtime::Result<()> {
        self.table().delete(key)?;
        Ok(())
    }
}

fn unknown_algorithm(name: &str) -> types::Failure {
    let shown: String = name.chars().take(40).collect();
    failure("invalid-input", &format!("the algorithm {shown:?} is not one of sha1, sha256, sha512"))
}
