//! HTTP clients for models' servers. Which addresses a model may use depends on who configured it.

use super::error::ModelError;
use crate::fault::Fault;
use crate::outbound::{admins_server_client, is_public_host, server_client};
use crate::settings::ModelSettings;

/// Who has set a model, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::agent) enum ModelOrigin {
    /// The settings of the gateway.
    Settings,
    /// An operator, for a tenant. A model on localhost is a usual case, as in the settings.
    Operator,
    /// A tenant's admin: the address must be public, with HTTPS.
    Admin,
}

impl ModelOrigin {
    /// The words by which an error names a field of a model.
    pub(super) fn field(self, model: &str, field: &str) -> String {
        match self {
            Self::Settings => format!("models.{model}.{field} of the settings"),
            Self::Operator | Self::Admin => format!("{field} of the tenant's model {model}"),
        }
    }

    /// Whose fault a wrong field is.
    pub(super) fn fault(self) -> Fault {
        match self {
            Self::Settings | Self::Operator => Fault::Host,
            Self::Admin => Fault::Caller,
        }
    }
}

/// Makes connections. Clones share them: they are vetted alike, and each request has its own key.
#[derive(Debug, Clone)]
pub(in crate::agent) struct Connector {
    everywhere: reqwest::Client,
    public: reqwest::Client,
}

impl Connector {
    /// # Errors
    /// If no HTTP client can be made.
    pub(in crate::agent) fn new() -> Result<Self, ModelError> {
        let unmade = |_| ModelError::settings("no HTTP client could be made for models");
        Ok(Self {
            everywhere: server_client().build().map_err(unmade)?,
            public: admins_server_client().build().map_err(unmade)?,
        })
    }

    /// The client for a model.
    ///
    /// # Errors
    /// If the tenant's admin configured an address that is not public.
    pub(super) fn client(
        &self,
        settings: &ModelSettings,
        origin: ModelOrigin,
    ) -> Result<reqwest::Client, ModelError> {
        match origin {
            ModelOrigin::Settings | ModelOrigin::Operator => Ok(self.everywhere.clone()),
            // Names are vetted when they are resolved.
            ModelOrigin::Admin if settings.base_url.as_ref().is_none_or(is_public_host) => {
                Ok(self.public.clone())
            }
            ModelOrigin::Admin => Err(ModelError {
                fault: Fault::Policy,
                ..ModelError::settings("its address is not a public one")
            }),
        }
    }
}
