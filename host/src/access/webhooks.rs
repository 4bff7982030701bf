//! Tokens of agents' own webhooks (CONTRACT D5): minted once, shown again, replaced, ended.
//!
//! A token is derived from the gateway's own key and stored as a hash, so it can be shown again though
//! it is kept nowhere.

use crate::ids::{AgentId, TenantId};
use crate::secrets::{DerivedKey, PlainSecret};
use crate::store::{Store, StoreError};

/// What makes tokens.
#[derive(Debug, Clone)]
pub struct Webhooks {
    store: Store,
    key: DerivedKey,
}

impl Webhooks {
    /// Tokens derived from this key.
    #[must_use]
    pub fn new(store: Store, key: DerivedKey) -> Self {
        Self { store, key }
    }

    /// The token in force, minted where the agent never had one. None where it was revoked: only
    /// [`Webhooks::rotate`] makes another one then.
    ///
    /// # Errors
    /// [`StoreError::Missing`] where the tenant has no such agent.
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
                // Whoever else mints one at the same time mints the same.
                self.store.put_webhook(tenant, agent, 0, token.hash()).await?;
                Ok(Some(token))
            }
        }
    }

    /// A new token; the one before is no longer found.
    ///
    /// # Errors
    /// [`StoreError::Missing`] where the tenant has no such agent.
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
        // The first token of an agent was derived before there were generations.
        let parts = if generation == 0 { parts.split_at(2).0 } else { &parts };
        self.key.webhook_token(parts)
    }
}
