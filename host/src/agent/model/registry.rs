//! Models by name: those of the settings, and those that a tenant has besides.

use std::collections::BTreeMap;
use std::sync::Arc;

use secrecy::ExposeSecret as _;

use super::connector::{Connector, ModelOrigin};
use super::retrying::{Retrying, WithFallback};
use super::{Client, Model, ModelError, offline};
use crate::settings::ModelSettings;
use crate::trace::redact::Redactor;

/// Models by name, and `offline`. Clones share them.
#[derive(Clone)]
pub struct Models(Arc<Registered>);

struct Registered {
    connector: Connector,
    by_name: BTreeMap<String, Arc<dyn Model>>,
    named: BTreeMap<String, NamedModel>,
    /// Why a model cannot be used, as a sentence.
    unusable: BTreeMap<String, String>,
    redactor: Redactor,
}

/// A model, without its fallbacks.
#[derive(Clone)]
pub(in crate::agent) struct NamedModel {
    client: Arc<Retrying>,
    settings: Arc<ModelSettings>,
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.by_name.keys()).finish()
    }
}

impl NamedModel {
    /// A model with these settings.
    ///
    /// # Errors
    /// If the settings cannot be used, or no HTTP client can be made.
    pub(in crate::agent) fn new(
        name: &str,
        settings: ModelSettings,
        connection: (&Connector, ModelOrigin),
    ) -> Result<Self, ModelError> {
        let client = Client::new(name, &settings, connection)?;
        Ok(Self {
            client: Arc::new(Retrying::new(name, Box::new(client))),
            settings: Arc::new(settings),
        })
    }
}

impl Models {
    /// Creates the models that the settings name.
    ///
    /// # Errors
    /// If an HTTP client cannot be created.
    pub fn from_settings(settings: &BTreeMap<String, ModelSettings>) -> Result<Self, ModelError> {
        let connector = Connector::new()?;
        let connection = (&connector, ModelOrigin::Settings);
        let named = settings.iter().map(|(name, settings)| {
            Ok((name.clone(), NamedModel::new(name, settings.clone(), connection)?))
        });
        let named = named.collect::<Result<_, ModelError>>()?;
        Ok(Self::new(connector.clone(), named, BTreeMap::new()))
    }

    /// These models and a tenant's own, which take precedence. Some of those may be unusable, for the reasons given.
    pub(in crate::agent) fn with_own(
        &self,
        own: &BTreeMap<String, NamedModel>,
        unusable: BTreeMap<String, String>,
    ) -> Self {
        let mut named = self.0.named.clone();
        named.retain(|name, _| !unusable.contains_key(name));
        named.extend(own.iter().map(|(name, model)| (name.clone(), model.clone())));
        Self::new(self.0.connector.clone(), named, unusable)
    }

    /// Makes the connections of these models, and of further ones.
    pub(in crate::agent) fn connector(&self) -> &Connector {
        &self.0.connector
    }

    fn new(
        connector: Connector,
        named: BTreeMap<String, NamedModel>,
        unusable: BTreeMap<String, String>,
    ) -> Self {
        let offline: Arc<dyn Model> = Arc::new(offline::Offline);
        let mut by_name = BTreeMap::from([("offline".to_owned(), offline)]);
        let mut redactor = Redactor::default();
        for (name, model) in &named {
            redactor.add(model.settings.api_key.expose_secret());
            // From the model itself along its fallbacks, each once, even if they lead back.
            let mut chain = vec![model];
            while let Some(next) =
                chain.last().and_then(|model| named.get(model.settings.fallback.as_ref()?))
                && !chain.iter().any(|model| Arc::ptr_eq(&model.client, &next.client))
            {
                chain.push(next);
            }
            let chain = chain.into_iter().map(|model| Arc::clone(&model.client)).collect();
            by_name.insert(name.clone(), Arc::new(WithFallback(chain)));
        }
        Self(Arc::new(Registered { connector, by_name, named, unusable, redactor }))
    }

    /// The model with this name.
    ///
    /// # Errors
    /// One sentence that says why the model is not available.
    pub fn get(&self, name: &str) -> Result<&Arc<dyn Model>, String> {
        self.0.by_name.get(name).ok_or_else(|| {
            let reason = self.0.unusable.get(name).cloned();
            reason.unwrap_or_else(|| {
                format!("the agent's model {name:?} is not in the gateway's settings, nor among the tenant's models")
            })
        })
    }

    /// Redacts the models' keys in what is stored.
    #[must_use]
    pub fn redactor(&self) -> &Redactor {
        &self.0.redactor
    }
}
