//! Tenants' secrets: sealed on their way into the store, opened for the plugins that are granted them.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::ids::{SecretName, TenantId};
use crate::secrets::{
    DerivedKey, SECRET_BYTES_MAX, SealBroken, SecretUses, SecretVersions, TenantSecret,
};
use crate::store::{PutSecret, PutSecretOutcome, SealedSecret, Store, StoreError};
use crate::tenants::Installer;

/// Why a secret cannot be kept or had.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// It is empty, or longer than any.
    #[error("a secret has 1 to {SECRET_BYTES_MAX} bytes")]
    Size,
    /// An admin would have a secret be used for more than an operator lets it.
    #[error(
        "an operator has set the secret {0}, or it was not written down who has, and lets it be used for {1}: \
         only an operator may let it be used for more. Leave `use` out, or remove the secret and set one of \
         your own"
    )]
    UsesOfOperator(SecretName, SecretUses),
    /// It was sealed by another gateway, or changed.
    #[error("the secret {0}: {1}")]
    Broken(SecretName, SealBroken),
    /// The operating system has no randomness to give.
    #[error("the secret cannot be sealed: {0}")]
    Sealing(std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A secret as its owner sees it: everything but its value.
#[derive(Debug, Clone)]
pub struct SecretFacts {
    /// Its name.
    pub name: SecretName,
    /// Whether the value before is still accepted.
    pub rotating: bool,
    /// What it may be used for.
    pub uses: SecretUses,
    /// Who lets it be used for that. None: it was not written down.
    pub set_by: Option<Installer>,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// A secret to be kept.
#[derive(Debug)]
pub struct NewSecret {
    /// Its value, 1 to [`SECRET_BYTES_MAX`] bytes.
    pub value: Zeroizing<Vec<u8>>,
    /// Whether the value before is accepted until the next change.
    pub rotate: bool,
    /// What it may be used for. None: what the one of this name may be used for, or
    /// [`SecretUses::default`] where there is none.
    pub uses: Option<SecretUses>,
    /// Who sets it.
    pub by: Installer,
}

/// The secrets of all tenants. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Vault {
    store: Store,
    key: DerivedKey,
}

/// The secrets of a tenant that somebody asked for, and when each was last changed.
#[derive(Debug, Clone, Default)]
pub struct Opened {
    /// By name. A secret that the tenant does not have is absent.
    pub secrets: BTreeMap<SecretName, TenantSecret>,
    /// Tells whether they are still the same.
    pub stamp: Vec<(SecretName, Timestamp)>,
}

impl Vault {
    /// The secrets in this store, sealed with this key.
    #[must_use]
    pub fn new(store: Store, key: DerivedKey) -> Self {
        Self { store, key }
    }

    /// Keeps a secret, or replaces the one of the name. An admin may not let one be used for more that an operator
    /// has set, though its value be the admin's own then: what an operator said of a name stays true.
    ///
    /// # Errors
    /// [`VaultError`]; the secret is as before then.
    pub async fn put(
        &self,
        tenant: TenantId,
        name: &SecretName,
        new: NewSecret,
    ) -> Result<(), VaultError> {
        let NewSecret { value, rotate, uses, by } = new;
        if !(1..=SECRET_BYTES_MAX).contains(&value.len()) {
            return Err(VaultError::Size);
        }
        let sealed = self.key.seal(&place(tenant, name), &value).map_err(VaultError::Sealing)?;
        let put = PutSecret { tenant, name: name.clone(), sealed, keep_previous: rotate, uses, by };
        match self.store.put_secret(put).await? {
            PutSecretOutcome::Kept => Ok(()),
            PutSecretOutcome::OnlyByOperator(uses) => {
                Err(VaultError::UsesOfOperator(name.clone(), uses))
            }
        }
    }

    /// Forgets a secret. False where the tenant has none of this name.
    ///
    /// # Errors
    /// When the store could not be used.
    pub async fn delete(&self, tenant: TenantId, name: &SecretName) -> Result<bool, StoreError> {
        self.store.delete_secret(tenant, name).await
    }

    /// The secrets of a tenant, without their values.
    ///
    /// # Errors
    /// When the store could not be asked.
    pub async fn list(&self, tenant: TenantId) -> Result<Vec<SecretFacts>, StoreError> {
        let secrets = self.store.secrets(tenant).await?.into_iter();
        Ok(secrets
            .map(|secret| SecretFacts {
                name: secret.name,
                rotating: secret.previous.is_some(),
                uses: secret.uses,
                set_by: secret.set_by,
                updated_at: secret.updated_at,
            })
            .collect())
    }

    /// Opens the secrets of these names.
    ///
    /// # Errors
    /// [`VaultError::Broken`], [`VaultError::Store`].
    pub async fn open<'a>(
        &self,
        tenant: TenantId,
        names: impl IntoIterator<Item = &'a SecretName>,
    ) -> Result<Opened, VaultError> {
        let names: Vec<_> = names.into_iter().collect();
        let mut opened = Opened::default();
        if names.is_empty() {
            return Ok(opened);
        }
        for secret in self.store.secrets(tenant).await? {
            if names.contains(&&secret.name) {
                let versions = self.unseal(tenant, &secret)?;
                opened.stamp.push((secret.name.clone(), secret.updated_at));
                let uses = secret.uses;
                opened.secrets.insert(secret.name, TenantSecret { versions, uses });
            }
        }
        Ok(opened)
    }

    fn unseal(
        &self,
        tenant: TenantId,
        secret: &SealedSecret,
    ) -> Result<SecretVersions, VaultError> {
        let place = place(tenant, &secret.name);
        let values = [Some(&secret.sealed), secret.previous.as_ref()];
        let values = values.into_iter().flatten().map(|sealed| self.key.unseal(&place, sealed));
        let values = values.collect::<Result<Vec<_>, _>>();
        let values = values.map_err(|broken| VaultError::Broken(secret.name.clone(), broken))?;
        Ok(SecretVersions::new(values))
    }
}

/// What a sealed secret is bound to.
fn place(tenant: TenantId, name: &SecretName) -> Vec<u8> {
    [tenant.as_bytes().as_slice(), name.as_str().as_bytes()].concat()
}
