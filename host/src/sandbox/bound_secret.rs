//! A tenant's secret bound to a name for a plugin: in which form a key is had from its text, and what may be done
//! with it, is the binding's to say ([`SecretBinding`]).

mod keys;

use std::sync::{Arc, OnceLock};

use crate::secrets::{KeyForm, SecretBinding, SecretVersions, TenantSecret};
pub(super) use keys::{Algorithm, Keys};

/// A secret bound to a name: how, and its values where the tenant has it. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct BoundSecret {
    pub(super) binding: SecretBinding,
    /// None where the tenant has no such secret, or it cannot be opened.
    pub(super) secret: Option<TenantSecret>,
    /// Its keys in each form in which they were asked for; none in a form that it does not decode in. Whoever asks
    /// first waits for them to be made, and nobody else.
    keys: Arc<[OnceLock<Option<Arc<Keys>>>; KeyForm::READINGS]>,
}

impl BoundSecret {
    /// Binds a secret of the tenant; none where there is no such secret, or it cannot be opened.
    #[must_use]
    pub fn new(binding: SecretBinding, secret: Option<TenantSecret>) -> Self {
        let keys = Arc::new([const { OnceLock::new() }; KeyForm::READINGS]);
        let bound = Self { binding, secret, keys };
        // As it is had by every plugin but those that the gateway knows: no call of theirs takes the time of it.
        if let Ok(form) = bound.binding.form("", None, |_| None) {
            bound.keys(form);
        }
        bound
    }

    /// Which secret it is, in which form it holds the key, and what it is bound for.
    #[must_use]
    pub fn binding(&self) -> &SecretBinding {
        &self.binding
    }

    /// Its values. None where the tenant has no such secret, or it cannot be opened.
    #[must_use]
    pub fn versions(&self) -> Option<&SecretVersions> {
        self.secret.as_ref().map(|secret| &secret.versions)
    }

    /// Why no key can be had from it, where that is so. For whoever binds it, not for the plugin.
    #[must_use]
    pub fn problem(&self, form: KeyForm) -> Option<String> {
        let name = &self.binding.secret;
        let Some(secret) = &self.secret else {
            return Some(format!("the tenant has no secret {name}"));
        };
        if let Err(beyond) = self.binding.check(&secret.uses) {
            return Some(beyond.to_string());
        }
        self.keys(form)
            .is_none()
            .then(|| format!("the secret {name} does not decode as its binding says it is encoded"))
    }

    pub(super) fn keys(&self, form: KeyForm) -> Option<Arc<Keys>> {
        let versions = self.versions()?;
        let make = || Keys::of(versions, form).map(Arc::new);
        self.keys.get(form.reading()).and_then(|keys| keys.get_or_init(make).clone())
    }
}

/// A granted secret that a guest has opened: its keys, and what may be done with them.
pub struct GrantedSecret {
    pub(super) keys: Arc<Keys>,
    pub(super) form: KeyForm,
}
