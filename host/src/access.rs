//! Who calls. A [`Caller`] is proof of access: only this module makes one.

pub mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use crate::ids::{AgentId, ChannelId, TenantId};
use crate::secrets::SecretHash;
use crate::store::{Store, StoreError};
use crate::tasks::Surface;
use crate::tenants::{Agent, KeyHolder};

/// How long a key, token or agent that was found is believed without asking the store again. What
/// another process changes (a revoked key, a replaced agent) holds here after this at the latest.
const BELIEVED_FOR: Duration = Duration::from_secs(5);

/// Most entries remembered of each kind. Only what exists is remembered, so that wrong keys cannot
/// push out right ones.
const REMEMBERED_MAX: u64 = 10_000;

/// Somebody who may run this agent, by the surface that he came in by.
#[derive(Debug, Clone)]
pub struct Caller {
    agent: Arc<Agent>,
    surface: Surface,
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

    /// Proof of access to a channel's agent, for requests by the channel.
    ///
    /// # Errors
    /// [`Denied::Disabled`].
    pub(crate) fn by_channel(agent: Agent, channel: ChannelId) -> Result<Self, Denied> {
        enabled(agent, Surface::Channel(channel))
    }

    /// The surface that access was proved on.
    #[must_use]
    pub fn surface(&self) -> Surface {
        self.surface
    }
}

/// Somebody who may manage what a tenant has.
#[derive(Debug, Clone, Copy)]
pub struct AdminCaller {
    tenant: TenantId,
    is_operator: bool,
}

impl AdminCaller {
    /// The tenant. Where an operator asks it may be none that exists.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Whether it is an operator, who alone says what plugins may do.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.is_operator
    }
}

/// Somebody who operates the gateway.
#[derive(Debug, Clone, Copy)]
pub struct OperatorCaller(());

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
    /// The agent takes no new tasks; its owner has disabled it.
    #[error("Agent is disabled")]
    Disabled,
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Proves access.
#[derive(Debug, Clone)]
pub struct Access {
    store: Store,
    /// The operator key that is derived from the data folder's own: whoever can read that one needs no
    /// other.
    folder_operator: SecretHash,
    keys: Cache<SecretHash, KeyHolder>,
    /// Key and agent together, since that is what each request asks for.
    callers: Cache<(SecretHash, AgentId), Caller>,
    tokens: Cache<SecretHash, Caller>,
}

impl Access {
    /// Access to what this store holds.
    #[must_use]
    pub fn new(store: Store, folder_operator: SecretHash) -> Self {
        let (keys, callers, tokens) = (remembered(), remembered(), remembered());
        Self { store, folder_operator, keys, callers, tokens }
    }

    /// Forgets what is believed: for whoever has changed something that must hold at once.
    pub fn forget(&self) {
        self.keys.invalidate_all();
        self.callers.invalidate_all();
        self.tokens.invalidate_all();
    }

    /// A tenant by its API key.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn tenant(&self, key: Option<&str>) -> Result<TenantCaller, Denied> {
        self.tenant_of(SecretHash::of(key.ok_or(Denied::NoKey)?)).await
    }

    /// Somebody who manages this tenant: one of its own admins, or an operator.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn admin(&self, key: Option<&str>, tenant: TenantId) -> Result<AdminCaller, Denied> {
        match self.holder(SecretHash::of(key.ok_or(Denied::NoKey)?)).await? {
            KeyHolder::Operator => Ok(AdminCaller { tenant, is_operator: true }),
            KeyHolder::Admin(own) if own == tenant => {
                Ok(AdminCaller { tenant, is_operator: false })
            }
            KeyHolder::Admin(_) | KeyHolder::Tenant(_) => Err(Denied::Invalid),
        }
    }

    /// What somebody manages: one tenant, or (None) all of them.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn managed(&self, key: Option<&str>) -> Result<Option<AdminCaller>, Denied> {
        match self.holder(SecretHash::of(key.ok_or(Denied::NoKey)?)).await? {
            KeyHolder::Operator => Ok(None),
            KeyHolder::Admin(tenant) => Ok(Some(AdminCaller { tenant, is_operator: false })),
            KeyHolder::Tenant(_) => Err(Denied::Invalid),
        }
    }

    /// Somebody who operates the gateway.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn operator(&self, key: Option<&str>) -> Result<OperatorCaller, Denied> {
        match self.holder(SecretHash::of(key.ok_or(Denied::NoKey)?)).await? {
            KeyHolder::Operator => Ok(OperatorCaller(())),
            KeyHolder::Admin(_) | KeyHolder::Tenant(_) => Err(Denied::Invalid),
        }
    }

    /// Somebody who may see and change the webhook of an agent: its tenant, or an operator. None where
    /// the agent does not exist for him.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn webhook_owner(
        &self,
        key: Option<&str>,
        agent: AgentId,
    ) -> Result<Option<AdminCaller>, Denied> {
        let holder = self.holder(SecretHash::of(key.ok_or(Denied::NoKey)?)).await?;
        let owner = match holder {
            KeyHolder::Tenant(tenant) | KeyHolder::Admin(tenant) => {
                self.store.agent(tenant, agent).await?.map(|agent| agent.tenant)
            }
            KeyHolder::Operator => self.store.owner_of_agent(agent).await?,
        };
        let is_operator = holder == KeyHolder::Operator;
        Ok(owner.map(|tenant| AdminCaller { tenant, is_operator }))
    }

    async fn holder(&self, hash: SecretHash) -> Result<KeyHolder, Denied> {
        if hash == self.folder_operator {
            return Ok(KeyHolder::Operator);
        }
        if let Some(holder) = self.keys.get(&hash) {
            return Ok(holder);
        }
        let holder = self.store.key_holder(hash).await?.ok_or(Denied::Invalid)?;
        self.keys.insert(hash, holder);
        Ok(holder)
    }

    async fn tenant_of(&self, hash: SecretHash) -> Result<TenantCaller, Denied> {
        match self.holder(hash).await? {
            KeyHolder::Tenant(tenant) | KeyHolder::Admin(tenant) => Ok(TenantCaller { tenant }),
            KeyHolder::Operator => Err(Denied::Invalid),
        }
    }

    /// A tenant who names one of its agents. None where it has no such agent.
    ///
    /// # Errors
    /// [`Denied::Disabled`], or when the store could not be asked.
    pub async fn caller_of(
        &self,
        tenant: TenantCaller,
        agent: AgentId,
    ) -> Result<Option<Caller>, Denied> {
        let agent = self.store.agent(tenant.tenant, agent).await?;
        agent.map(|agent| enabled(agent, Surface::Api)).transpose()
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
        let caller = enabled(agent, Surface::Api)?;
        self.callers.insert((hash, id), caller.clone());
        Ok(caller)
    }

    /// Somebody who knows a webhook's token. None where no agent has it (CONTRACT D3).
    ///
    /// # Errors
    /// [`Denied::Disabled`], or when the store could not be asked.
    pub async fn webhook(&self, token: &str) -> Result<Option<Caller>, Denied> {
        let hash = SecretHash::of(token);
        if let Some(caller) = self.tokens.get(&hash) {
            return Ok(Some(caller));
        }
        let Some((agent, generation)) = self.store.agent_by_webhook_token(hash).await? else {
            return Ok(None);
        };
        let caller = enabled(agent, Surface::Webhook { generation })?;
        self.tokens.insert(hash, caller.clone());
        Ok(Some(caller))
    }
}

/// Proof of access to an agent, if it takes tasks.
fn enabled(agent: Agent, surface: Surface) -> Result<Caller, Denied> {
    if !agent.enabled {
        return Err(Denied::Disabled);
    }
    Ok(Caller { agent: Arc::new(agent), surface })
}

pub(crate) fn remembered<K, V>() -> Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder().max_capacity(REMEMBERED_MAX).time_to_live(BELIEVED_FOR).build()
}
