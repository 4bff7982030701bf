//! Who calls. A [`Caller`] is proof of access: only this module makes one.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use crate::ids::{AgentId, TenantId};
use crate::secrets::SecretHash;
use crate::store::{Store, StoreError};
use crate::tenants::{Agent, KeyHolder};

/// How long a key, token or agent that was found is believed without asking the store again. What
/// another process changes (a revoked key, a replaced agent) holds here after this at the latest.
const BELIEVED_FOR: Duration = Duration::from_secs(5);

/// Most entries remembered of each kind. Only what exists is remembered, so that wrong keys cannot
/// push out right ones.
const REMEMBERED_MAX: u64 = 10_000;

/// Somebody who may run this agent.
#[derive(Debug, Clone)]
pub struct Caller {
    agent: Arc<Agent>,
}

impl Caller {
    /// The agent.
    #[must_use]
    pub fn agent(&self) -> &Arc<Agent> {
        &self.agent
    }

    /// Whose agent it is.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.agent.tenant
    }
}

/// Somebody who may read what a tenant has.
#[derive(Debug, Clone, Copy)]
pub struct TenantCaller {
    tenant: TenantId,
}

impl TenantCaller {
    /// The tenant.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }
}

/// Why somebody may not.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// No key was sent.
    #[error("API key not specified")]
    NoKey,
    /// The key is wrong, or is not for this agent, or there is no such agent: which of them is not
    /// told (CONTRACT X4).
    #[error("Invalid API key")]
    Invalid,
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Proves access.
#[derive(Debug, Clone)]
pub struct Access {
    store: Store,
    keys: Cache<SecretHash, KeyHolder>,
    /// Key and agent together, since that is what each request asks for.
    callers: Cache<(SecretHash, AgentId), Caller>,
    tokens: Cache<SecretHash, Arc<Agent>>,
}

impl Access {
    /// Access to what this store holds.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, keys: remembered(), callers: remembered(), tokens: remembered() }
    }

    /// A tenant by its API key.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn tenant(&self, key: Option<&str>) -> Result<TenantCaller, Denied> {
        self.tenant_of(SecretHash::of(key.ok_or(Denied::NoKey)?)).await
    }

    async fn tenant_of(&self, hash: SecretHash) -> Result<TenantCaller, Denied> {
        let holder = match self.keys.get(&hash) {
            Some(holder) => holder,
            None => {
                let holder = self.store.key_holder(hash).await?.ok_or(Denied::Invalid)?;
                self.keys.insert(hash, holder);
                holder
            }
        };
        match holder {
            KeyHolder::Tenant(tenant) => Ok(TenantCaller { tenant }),
            KeyHolder::Operator => Err(Denied::Invalid),
        }
    }

    /// Somebody who sent an API key and named an agent.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn caller(&self, key: Option<&str>, agent: &str) -> Result<Caller, Denied> {
        let hash = SecretHash::of(key.ok_or(Denied::NoKey)?);
        let id: Option<AgentId> = agent.parse().ok();
        if let Some(caller) = id.and_then(|id| self.callers.get(&(hash, id))) {
            return Ok(caller);
        }
        let tenant = self.tenant_of(hash).await?.tenant;
        let id = id.ok_or(Denied::Invalid)?;
        let agent = self.store.agent(tenant, id).await?.ok_or(Denied::Invalid)?;
        let caller = Caller { agent: Arc::new(agent) };
        self.callers.insert((hash, id), caller.clone());
        Ok(caller)
    }

    /// Somebody who knows a webhook's token. None where no agent has it (CONTRACT D3).
    ///
    /// # Errors
    /// When the store could not be asked.
    pub async fn webhook(&self, token: &str) -> Result<Option<Caller>, StoreError> {
        let hash = SecretHash::of(token);
        if let Some(agent) = self.tokens.get(&hash) {
            return Ok(Some(Caller { agent }));
        }
        let Some(agent) = self.store.agent_by_webhook_token(hash).await? else {
            return Ok(None);
        };
        let agent = Arc::new(agent);
        self.tokens.insert(hash, Arc::clone(&agent));
        Ok(Some(Caller { agent }))
    }
}

fn remembered<K, V>() -> Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder().max_capacity(REMEMBERED_MAX).time_to_live(BELIEVED_FOR).build()
}
