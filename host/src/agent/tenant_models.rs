//! The models of each tenant: those of the settings, and those that the tenant has brought along.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::SecretString;

use super::model::{ModelOrigin, Models, NamedModel};
use crate::clock::Timestamp;
use crate::ids::TenantId;
use crate::outbound::check_admins_address;
use crate::store::{Store, StoreError, TenantCache};
use crate::tenants::{Installer, ModelDefinition, TenantModel};
use crate::vault::{SealedSecrets, Vault};

/// The models of all tenants. Clones share them.
#[derive(Debug, Clone)]
pub struct TenantModels {
    of_settings: Models,
    store: Store,
    vault: Vault,
    ready: TenantCache<ReadyModels>,
}

/// The models of one tenant.
struct ReadyModels {
    models: Models,
    /// The tenant's own, each with what it was made from.
    own: BTreeMap<String, (ModelSource, NamedModel)>,
}

impl std::fmt::Debug for ReadyModels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.models.fmt(f)
    }
}

/// What a model was made from. While it is the same, the model stays, with its connections and circuits.
#[derive(PartialEq, Eq)]
struct ModelSource {
    definition: ModelDefinition,
    set_by: Installer,
    key_updated_at: Option<Timestamp>,
}

impl TenantModels {
    /// The models of all tenants of this store.
    #[must_use]
    pub fn new(of_settings: Models, store: Store, vault: Vault) -> Self {
        let ready = TenantCache::new(store.changes());
        Self { of_settings, store, vault, ready }
    }

    /// The models that a tenant's agents can have.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn of(&self, tenant: TenantId) -> Result<Models, StoreError> {
        let making =
            async |known: Option<Arc<ReadyModels>>| self.read(tenant, known.as_deref()).await;
        let ready = self.ready.get_or_make(tenant, making).await?;
        Ok(ready.models.clone())
    }

    async fn read(
        &self,
        tenant: TenantId,
        known: Option<&ReadyModels>,
    ) -> Result<ReadyModels, StoreError> {
        let stored = self.store.models(tenant).await?;
        if stored.is_empty() {
            return Ok(ReadyModels { models: self.of_settings.clone(), own: BTreeMap::new() });
        }
        // Read once, also for many models with the same key.
        let secrets = self.vault.sealed(tenant).await?;
        let (mut own, mut unusable) = (BTreeMap::new(), BTreeMap::new());
        for model in stored {
            let name = model.name.to_string();
            match self.make(model, &secrets, known) {
                Ok(made) => {
                    own.insert(name, made);
                }
                Err(why) => {
                    unusable
                        .insert(name.clone(), format!("the model {name} cannot be used: {why}"));
                }
            }
        }
        let clients: BTreeMap<String, NamedModel> =
            own.iter().map(|(name, (_, model))| (name.clone(), model.clone())).collect();
        Ok(ReadyModels { models: self.of_settings.with_own(&clients, unusable), own })
    }

    /// A tenant's model, or why it cannot be used.
    fn make(
        &self,
        model: TenantModel,
        secrets: &SealedSecrets,
        known: Option<&ReadyModels>,
    ) -> Result<(ModelSource, NamedModel), String> {
        let TenantModel { name, definition, set_by, .. } = model;
        let key = match &definition.api_key {
            None => None,
            Some(secret) => Some(secrets.facts(secret).ok_or_else(|| {
                format!("the tenant has no secret {secret} (`wardgate secret set {secret}`)")
            })?),
        };
        if let Some(key) = &key {
            key.check_sending(set_by)?;
        }
        let key_updated_at = key.as_ref().map(|key| key.updated_at);
        let source = ModelSource { definition, set_by, key_updated_at };
        if let Some((same, model)) = known.and_then(|known| known.own.get(name.as_str()))
            && *same == source
        {
            return Ok((source, model.clone()));
        }
        let value = match &key {
            None => SecretString::default(),
            Some(key) => secrets.text(&key.name)?.as_str().into(),
        };
        let origin = match set_by {
            Installer::Operator => ModelOrigin::Operator,
            Installer::Admin => ModelOrigin::Admin,
        };
        let settings = source.definition.settings(value);
        let connection = (self.of_settings.connector(), origin);
        let model = NamedModel::new(name.as_str(), settings, connection);
        model.map(|model| (source, model)).map_err(|error| error.message)
    }
}

/// Checks the address of a model that is about to be set. It is shown to the tenant's admins, so no key may be in it.
///
/// # Errors
/// Why it cannot have this address, in one sentence.
pub fn check_model_address(definition: &ModelDefinition, by: Installer) -> Result<(), String> {
    let Some(url) = &definition.base_url else { return Ok(()) };
    let is_version = |(name, value): (Cow<'_, str>, Cow<'_, str>)| {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-.".contains(&b);
        name == "api-version" && value.len() <= 32 && value.bytes().all(is_plain)
    };
    if url.fragment().is_some() || !url.query_pairs().all(is_version) {
        return Err(
            "base_url has a query or a fragment; put the key into a secret and name it in api_key"
                .to_owned(),
        );
    }
    match by {
        Installer::Operator => Ok(()),
        Installer::Admin => check_admins_address("base_url", url),
    }
}
