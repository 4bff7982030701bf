//! Who calls. A [`Caller`] is proof of access: only this module makes one.

pub mod webhooks;

use std::sync::Arc;

use moka::sync::Cache;

use crate::clock::Clock;
use crate::ids::{AgentId, ChannelId, TenantId};
use crate::secrets::SecretHash;
use crate::store::{Stamp, Store, StoreError};
use crate::tasks::Surface;
use crate::tenants::{Agent, KeyHolder, ValidKey};

/// Most entries cached of each kind. Only what exists is cached, so that wrong keys cannot push out
/// right ones.
const CACHED_MAX: u64 = 10_000;

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
    clock: Clock,
    keys: Cache<SecretHash, (ValidKey, Stamp)>,
    /// Key and agent together, since that is what each request asks for.
    callers: Cache<(SecretHash, AgentId), (Caller, ValidKey, Stamp)>,
    tokens: Cache<SecretHash, (Caller, Stamp)>,
}

impl Access {
    /// Access to what this store holds.
    #[must_use]
    pub fn new(store: Store, folder_operator: SecretHash, clock: Clock) -> Self {
        let (keys, callers, tokens) = (cache(), cache(), cache());
        Self { store, folder_operator, clock, keys, callers, tokens }
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
        Ok(self.valid_key(hash).await?.holder)
    }

    async fn valid_key(&self, hash: SecretHash) -> Result<ValidKey, Denied> {
        if hash == self.folder_operator {
            return Ok(ValidKey { holder: KeyHolder::Operator, expires_at: None });
        }
        let changes = self.store.changes();
        if let Some((key, stamp)) = self.keys.get(&hash)
            && changes.holds(key.holder.tenant(), stamp)
            && self.is_unexpired(&key)
        {
            return Ok(key);
        }
        let before = changes.before_reading();
        let key = self.store.valid_key(hash).await?.ok_or(Denied::Invalid)?;
        if let Some(stamp) = changes.stamp(key.holder.tenant(), before) {
            self.keys.insert(hash, (key, stamp));
        }
        Ok(key)
    }

    fn is_unexpired(&self, key: &ValidKey) -> bool {
        key.expires_at.is_none_or(|expires_at| self.clock.now() < expires_at)
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
        let changes = self.store.changes();
        if let Some((caller, key, stamp)) = id.and_then(|id| self.callers.get(&(hash, id)))
            && changes.holds(Some(caller.tenant()), stamp)
            && self.is_unexpired(&key)
        {
            return Ok(caller);
        }
        let before = changes.before_reading();
        let key = self.valid_key(hash).await?;
        let tenant = key.holder.tenant().ok_or(Denied::Invalid)?;
        let id = id.ok_or(Denied::Invalid)?;
        let agent = self.store.agent(tenant, id).await?.ok_or(Denied::Invalid)?;
        let caller = enabled(agent, Surface::Api)?;
        if let Some(stamp) = changes.stamp(Some(tenant), before) {
            self.callers.insert((hash, id), (caller.clone(), key, stamp));
        }
        Ok(caller)
    }

    /// Somebody who knows a webhook's token. None where no agent has it (CONTRACT D3).
    ///
    /// # Errors
    /// [`Denied::Disabled`], or when the store could not be asked.
    pub async fn webhook(&self, token: &str) -> Result<Option<Caller>, Denied> {
        let hash = SecretHash::of(token);
        let changes = self.store.changes();
        if let Some((caller, stamp)) = self.tokens.get(&hash)
            && changes.holds(Some(caller.tenant()), stamp)
        {
            return Ok(Some(caller));
        }
        let before = changes.before_reading();
        let Some((agent, generation)) = self.store.agent_by_webhook_token(hash).await? else {
            return Ok(None);
        };
        let caller = enabled(agent, Surface::Webhook { generation })?;
        if let Some(stamp) = changes.stamp(Some(caller.tenant()), before) {
            self.tokens.insert(hash, (caller.clone(), stamp));
        }
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

fn cache<K, V>() -> Cache<K, V>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::new(CACHED_MAX)
}
