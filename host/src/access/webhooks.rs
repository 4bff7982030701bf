//! Tokens of agents' own webhooks (CONTRACT D5): created once, shown again on request, rotated, and revoked.
//!
//! A token is derived from the gateway's own key, and only its hash is stored. So it can be shown again although it
//! is not stored.

use crate::ids::{AgentId, TenantId};
use crate::secrets::{DerivedKey, PlainSecret};
use crate::store::{Store, StoreError};

/// Issues webhook tokens.
#[derive(Debug, Clone)]
pub struct Webhooks {
    store: Store,
    key: DerivedKey,
    /// The base of URLs, without a trailing slash.
    public_url: String,
}

impl Webhooks {
    /// Creates tokens that are derived from this key.
    #[must_use]
    pub fn new(store: Store, key: DerivedKey, public_url: &str) -> Self {
        Self { store, key, public_url: public_url.to_owned() }
    }

    /// The URL of the webhook that has this token.
    #[must_use]
    pub fn url(&self, token: &PlainSecret) -> String {
        format!("{}/api/webhooks/agents/{}", self.public_url, token.reveal())
    }

    /// Returns the current token, and creates it if the agent never had one. `None` if it was revoked: then only
    /// [`Webhooks::rotate`] creates a new one.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if the tenant has no such agent.
    pub async fn token(
        &self,
        tenant: TenantId,
        agent: AgentId,
    ) -> Result<Option<PlainSecret>, StoreError> {
        match self.store.webhook(tenant, agent).await? {
            Some(webhook) if webhook.revoked => Ok(None),
            Some(webhook) => Ok(Some(self.derive(tenant, agent, webhook.generation))),
            None => {
                let token = self.derive(tenant, agent, 0);
                // Concurrent calls derive the same token.
                self.store.put_webhook(tenant, agent, 0, token.hash()).await?;
                Ok(Some(token))
            }
        }
    }

    /// Replaces the token. The old one becomes invalid.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if the tenant has no such agent.
    pub async fn rotate(
        &self,
        tenant: TenantId,
        agent: AgentId,
    ) -> Result<PlainSecret, StoreError> {
        let now = self.store.webhook(tenant, agent).await?;
        let generation = now.map_or(0, |webhook| webhook.generation.saturating_add(1));
        let token = self.derive(tenant, agent, generation);
        self.store.put_webhook(tenant, agent, generation, token.hash()).await?;
        Ok(token)
    }

    fn derive(&self, tenant: TenantId, agent: AgentId, generation: u32) -> PlainSecret {
        let (tenant, agent) = (tenant.to_string(), agent.to_string());
        let number = generation.to_le_bytes();
        let parts: [&[u8]; 3] = [tenant.as_bytes(), agent.as_bytes(), &number];
        // The derivation of an agent's first token predates generations.
        let parts = if generation == 0 { parts.split_at(2).0 } else { &parts };
        self.key.webhook_token(parts)
    }
}
