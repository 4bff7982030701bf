//! Tenants' secrets: sealed before they are stored, opened for the plugins that are granted them.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::ids::{SecretName, TenantId};
use crate::secrets::{
    DerivedKey, SECRET_BYTES_MAX, SealBroken, SecretUse, SecretUses, SecretVersions, TenantSecret,
};
use crate::store::{PutSecret, PutSecretOutcome, SealedSecret, Store, StoreError};
use crate::tenants::Installer;

/// Why a secret cannot be stored or opened.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// It is empty, or too long.
    #[error("a secret has 1 to {SECRET_BYTES_MAX} bytes")]
    Size,
    /// An admin has tried to allow more uses than an operator has set.
    #[error(
        "an operator has set the secret {0}, or it was not written down who has, and lets it be used for {1}: \
         only an operator may let it be used for more. Leave `use` out, or remove the secret and set one of \
         your own"
    )]
    UsesOfOperator(SecretName, SecretUses),
    /// It was sealed by another gateway, or has been changed.
    #[error("the secret {0}: {1}")]
    Broken(SecretName, SealBroken),
    /// The operating system cannot provide randomness.
    #[error("the secret cannot be sealed: {0}")]
    Sealing(std::io::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A secret as its tenant sees it: everything but its value.
#[derive(Debug, Clone)]
pub struct SecretFacts {
    /// Its name.
    pub name: SecretName,
    /// Whether the previous value is still accepted.
    pub rotating: bool,
    /// What it may be used for.
    pub uses: SecretUses,
    /// Who set these uses. None if that was not recorded.
    pub set_by: Option<Installer>,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl From<&SealedSecret> for SecretFacts {
    fn from(secret: &SealedSecret) -> Self {
        Self {
            name: secret.name.clone(),
            rotating: secret.previous.is_some(),
            uses: secret.uses.clone(),
            set_by: secret.set_by,
            updated_at: secret.updated_at,
        }
    }
}

impl SecretFacts {
    /// Checks that a server which this role has set may be sent the secret. One that an admin has set may be anybody's,
    /// and is sent none that an operator has set.
    ///
    /// # Errors
    /// Why not, in one sentence.
    pub fn check_sending(&self, set_by: Installer) -> Result<(), String> {
        self.uses.check(&self.name, [SecretUse::Send]).map_err(|error| error.to_string())?;
        if set_by == Installer::Admin && self.set_by != Some(Installer::Admin) {
            return Err(format!(
                "an operator has set the secret {}, so it is sent only to a server that an operator has set",
                self.name
            ));
        }
        Ok(())
    }
}

/// A secret to store.
#[derive(Debug)]
pub struct NewSecret {
    /// Its value, 1 to [`SECRET_BYTES_MAX`] bytes.
    pub value: Zeroizing<Vec<u8>>,
    /// Whether the previous value is accepted until the next change.
    pub rotate: bool,
    /// What it may be used for. None: the uses of the existing secret with this name, or [`SecretUses::default`] if
    /// there is none.
    pub uses: Option<SecretUses>,
    /// Who sets it.
    pub by: Installer,
}

/// The secrets of all tenants. Clones are handles to the same vault.
#[derive(Debug, Clone)]
pub struct Vault {
    store: Store,
    key: DerivedKey,
}

/// The secrets of a tenant as they were at one time, to be opened one by one.
#[derive(Debug)]
pub struct SealedSecrets {
    vault: Vault,
    tenant: TenantId,
    secrets: Vec<SealedSecret>,
}

impl SealedSecrets {
    fn find(&self, name: &SecretName) -> Option<&SealedSecret> {
        self.secrets.iter().find(|secret| secret.name == *name)
    }

    /// What is known of a secret.
    #[must_use]
    pub fn facts(&self, name: &SecretName) -> Option<SecretFacts> {
        self.find(name).map(SecretFacts::from)
    }

    /// The values of a secret. None if there is none of this name.
    ///
    /// # Errors
    /// If it cannot be unsealed ([`VaultError::Broken`]).
    pub fn open(&self, name: &SecretName) -> Result<Option<SecretVersions>, VaultError> {
        self.find(name).map(|secret| self.vault.unseal(self.tenant, secret)).transpose()
    }

    /// The newest value of a secret as text. Empty if there is none of this name.
    ///
    /// # Errors
    /// If it cannot be unsealed, or is not UTF-8, in one sentence.
    pub fn text(&self, name: &SecretName) -> Result<Zeroizing<String>, String> {
        let opened = self.open(name).map_err(|error| error.to_string())?.unwrap_or_default();
        let text = std::str::from_utf8(opened.newest().unwrap_or_default());
        let text = text.map_err(|_| format!("the secret {name} is not UTF-8"))?;
        Ok(Zeroizing::new(text.to_owned()))
    }
}

/// The requested secrets of a tenant, and when each was last changed.
#[derive(Debug, Clone, Default)]
pub struct OpenedSecrets {
    /// By name. A secret that the tenant does not have is absent.
    pub secrets: BTreeMap<SecretName, TenantSecret>,
    /// Shows whether they are still the same.
    pub stamp: Vec<(SecretName, Timestamp)>,
}

impl Vault {
    /// The secrets in this store, sealed with this key.
    #[must_use]
    pub fn new(store: Store, key: DerivedKey) -> Self {
        Self { store, key }
    }

    /// Stores a secret, or replaces the one with this name. An admin may not allow more uses than an operator has
    /// set, even if the value is then the admin's own: what an operator has set for a name stays in force.
    ///
    /// # Errors
    /// If the value has a wrong length, cannot be sealed or stored, or is to have more uses than an operator has set
    /// ([`VaultError`]). The secret is then unchanged.
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
        let sealed =
            self.key.seal(&associated_data(tenant, name), &value).map_err(VaultError::Sealing)?;
        let put = PutSecret { tenant, name: name.clone(), sealed, keep_previous: rotate, uses, by };
        match self.store.put_secret(put).await? {
            PutSecretOutcome::Stored => Ok(()),
            PutSecretOutcome::OperatorOnly(uses) => {
                Err(VaultError::UsesOfOperator(name.clone(), uses))
            }
        }
    }

    /// Deletes a secret. Returns false if the tenant has none with this name.
    ///
    /// # Errors
    /// If the store is unavailable.
    pub async fn delete(&self, tenant: TenantId, name: &SecretName) -> Result<bool, StoreError> {
        self.store.delete_secret(tenant, name).await
    }

    /// The secrets of a tenant, without their values.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn list(&self, tenant: TenantId) -> Result<Vec<SecretFacts>, StoreError> {
        let secrets = self.store.secrets(tenant).await?.into_iter();
        Ok(secrets.map(|secret| SecretFacts::from(&secret)).collect())
    }

    /// The secrets of a tenant as they are now, still sealed.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn sealed(&self, tenant: TenantId) -> Result<SealedSecrets, StoreError> {
        let secrets = self.store.secrets(tenant).await?;
        Ok(SealedSecrets { vault: self.clone(), tenant, secrets })
    }

    /// Opens the secrets with these names.
    ///
    /// # Errors
    /// If a secret cannot be unsealed ([`VaultError::Broken`]), or if the store cannot be read
    /// ([`VaultError::Store`]).
    pub async fn open<'a>(
        &self,
        tenant: TenantId,
        names: impl IntoIterator<Item = &'a SecretName>,
    ) -> Result<OpenedSecrets, VaultError> {
        let names: Vec<_> = names.into_iter().collect();
        let mut opened = OpenedSecrets::default();
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
        let associated_data = associated_data(tenant, &secret.name);
        let values = [Some(&secret.sealed), secret.previous.as_ref()];
        let values =
            values.into_iter().flatten().map(|sealed| self.key.unseal(&associated_data, sealed));
        let values = values.collect::<Result<Vec<_>, _>>();
        let values = values.map_err(|broken| VaultError::Broken(secret.name.clone(), broken))?;
        Ok(SecretVersions::new(values))
    }
}

/// The associated data that a sealed secret is bound to: its tenant and its name.
fn associated_data(tenant: TenantId, name: &SecretName) -> Vec<u8> {
    [tenant.as_bytes().as_slice(), name.as_str().as_bytes()].concat()
}
