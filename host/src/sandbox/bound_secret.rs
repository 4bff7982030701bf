//! A tenant's secret, bound to a name for a plugin. The binding ([`SecretBinding`]) decides how a key is decoded
//! from the secret's text and what it may be used for.

mod keys;

use std::sync::{Arc, OnceLock};

use crate::secrets::{KeyForm, SecretBinding, SecretVersions, TenantSecret};
pub(super) use keys::{Algorithm, Keys};

/// A secret bound to a name: the binding, and the secret's values if the tenant has it. Clones share the decoded
/// keys.
#[derive(Debug, Clone)]
pub struct BoundSecret {
    pub(super) binding: SecretBinding,
    /// `None` if the tenant has no such secret, or it cannot be opened.
    pub(super) secret: Option<TenantSecret>,
    /// The decoded keys, by form; `None` for a form in which the secret does not decode. Each form is decoded once,
    /// by the first caller that asks for it.
    keys: Arc<[OnceLock<Option<Arc<Keys>>>; KeyForm::COUNT]>,
}

impl BoundSecret {
    /// Binds a secret of the tenant. `secret` is `None` if the tenant has no such secret, or it cannot be opened.
    #[must_use]
    pub fn new(binding: SecretBinding, secret: Option<TenantSecret>) -> Self {
        let keys = Arc::new([const { OnceLock::new() }; KeyForm::COUNT]);
        let bound = Self { binding, secret, keys };
        // Decoded now, in the form that every plugin without known forms uses, so that none of its calls pays for
        // it.
        if let Ok(form) = bound.binding.form("", None, |_| None) {
            bound.keys(form);
        }
        bound
    }

    /// The binding: which secret, in which form it holds the key, and for which uses.
    #[must_use]
    pub fn binding(&self) -> &SecretBinding {
        &self.binding
    }

    /// The secret's values. `None` if the tenant has no such secret, or it cannot be opened.
    #[must_use]
    pub fn versions(&self) -> Option<&SecretVersions> {
        self.secret.as_ref().map(|secret| &secret.versions)
    }

    /// Why the secret cannot be used in this form. `None` if it can. For the operator who binds it, not for the
    /// plugin.
    #[must_use]
    pub fn unusable_reason(&self, form: KeyForm) -> Option<String> {
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
        let make = || Keys::from_versions(versions, form).map(Arc::new);
        self.keys.get(form.index()).and_then(|keys| keys.get_or_init(make).clone())
    }
}

/// A granted secret that a guest has opened: its keys and their allowed uses.
pub struct GrantedSecret {
    pub(super) keys: Arc<Keys>,
    pub(super) form: KeyForm,
}
