//! Authenticates callers. A [`Caller`] is proof of access: only this module creates one.

pub mod approval_links;
pub mod webhooks;

use std::sync::Arc;

use moka::sync::Cache;

use crate::clock::Clock;
use crate::ids::{AgentId, ChannelId, TenantId};
use crate::secrets::SecretHash;
use crate::store::{Stamp, Store, StoreError};
use crate::tasks::Surface;
use crate::tenants::{Agent, KeyHolder, ValidKey};

/// Maximum number of cached entries of each kind. Only existing keys are cached, so wrong keys cannot evict valid
/// ones.
const CACHED_MAX: u64 = 10_000;

/// A caller that may run an agent, and the surface that it was authenticated on.
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

    /// The tenant that owns the agent.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.agent.tenant
    }

    /// Creates the proof of access to a channel's agent, for requests by the channel.
    ///
    /// # Errors
    /// [`Denied::Disabled`].
    pub(crate) fn by_channel(agent: Agent, channel: ChannelId) -> Result<Self, Denied> {
        require_enabled(agent, Surface::Channel(channel))
    }

    /// The surface that the caller was authenticated on.
    #[must_use]
    pub fn surface(&self) -> Surface {
        self.surface
    }
}

/// A caller that may manage a tenant's resources.
#[derive(Debug, Clone, Copy)]
pub struct AdminCaller {
    tenant: TenantId,
    is_operator: bool,
}

impl AdminCaller {
    /// The tenant. For an operator, it may not exist.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// Whether it is an operator. Only operators can grant permissions to plugins.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.is_operator
    }
}

/// A caller that operates the gateway.
#[derive(Debug, Clone, Copy)]
pub struct OperatorCaller(());

/// A caller that may read a tenant's resources.
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

/// Why access is denied.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// No key was sent.
    #[error("API key not specified")]
    NoKey,
    /// The key is wrong or not valid for this agent, or the agent does not exist. The response does not say which
    /// (CONTRACT X4).
    #[error("Invalid API key")]
    Invalid,
    /// The agent accepts no new tasks; its owner has disabled it.
    #[error("Agent is disabled")]
    Disabled,
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Authenticates callers.
#[derive(Debug, Clone)]
pub struct Access {
    store: Store,
    /// The operator key that is derived from the data folder's own key: anyone who can read that file needs no other
    /// key.
    folder_operator: SecretHash,
    clock: Clock,
    keys: Cache<SecretHash, (ValidKey, Stamp)>,
    /// By key and agent together, because every request looks up both.
    callers: Cache<(SecretHash, AgentId), (Caller, ValidKey, Stamp)>,
    tokens: Cache<SecretHash, (Caller, Stamp)>,
}

impl Access {
    /// Creates access to the contents of this store.
    #[must_use]
    pub fn new(store: Store, folder_operator: SecretHash, clock: Clock) -> Self {
        let (keys, callers, tokens) = (cache(), cache(), cache());
        Self { store, folder_operator, clock, keys, callers, tokens }
    }

    /// Authenticates a tenant by its API key.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn tenant(&self, key: Option<&str>) -> Result<TenantCaller, Denied> {
        self.tenant_of(SecretHash::of(key.ok_or(Denied::NoKey)?)).await
    }

    /// Authenticates an admin of this tenant, or an operator.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn admin(&self, key: Option<&str>, tenant: TenantId) -> Result<AdminCaller, Denied> {
        let holder = self.holder(SecretHash::of(key.ok_or(Denied::NoKey)?)).await?;
        match holder {
            KeyHolder::Operator => Ok(AdminCaller { tenant, is_operator: true }),
            KeyHolder::Admin(own) if own == tenant => {
                Ok(AdminCaller { tenant, is_operator: false })
            }
            KeyHolder::Admin(_) | KeyHolder::Tenant(_) => Err(Denied::Invalid),
        }
    }

    /// Returns what the key can manage: one tenant, or all of them (`None`).
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn admin_scope(&self, key: Option<&str>) -> Result<Option<AdminCaller>, Denied> {
        match self.holder(SecretHash::of(key.ok_or(Denied::NoKey)?)).await? {
            KeyHolder::Operator => Ok(None),
            KeyHolder::Admin(tenant) => Ok(Some(AdminCaller { tenant, is_operator: false })),
            KeyHolder::Tenant(_) => Err(Denied::Invalid),
        }
    }

    /// Authenticates an operator.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn operator(&self, key: Option<&str>) -> Result<OperatorCaller, Denied> {
        match self.holder(SecretHash::of(key.ok_or(Denied::NoKey)?)).await? {
            KeyHolder::Operator => Ok(OperatorCaller(())),
            KeyHolder::Admin(_) | KeyHolder::Tenant(_) => Err(Denied::Invalid),
        }
    }

    /// Authenticates a caller that may read and change an agent's webhook: its tenant, or an operator. `None` if the
    /// agent does not exist, or is not the caller's.
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
            && changes.is_current(key.holder.tenant(), stamp)
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

    /// Authorizes a tenant for one of its agents. `None` if it has no such agent.
    ///
    /// # Errors
    /// [`Denied::Disabled`], or if the store cannot be read.
    pub async fn caller_of(
        &self,
        tenant: TenantCaller,
        agent: AgentId,
    ) -> Result<Option<Caller>, Denied> {
        let agent = self.store.agent(tenant.tenant, agent).await?;
        agent.map(|agent| require_enabled(agent, Surface::Api)).transpose()
    }

    /// Authenticates a caller by API key for the agent it names.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn caller(&self, key: Option<&str>, agent: &str) -> Result<Caller, Denied> {
        let hash = SecretHash::of(key.ok_or(Denied::NoKey)?);
        let id: Option<AgentId> = agent.parse().ok();
        let changes = self.store.changes();
        if let Some((caller, key, stamp)) = id.and_then(|id| self.callers.get(&(hash, id)))
            && changes.is_current(Some(caller.tenant()), stamp)
            && self.is_unexpired(&key)
        {
            return Ok(caller);
        }
        let before = changes.before_reading();
        let key = self.valid_key(hash).await?;
        let tenant = key.holder.tenant().ok_or(Denied::Invalid)?;
        let id = id.ok_or(Denied::Invalid)?;
        let agent = self.store.agent(tenant, id).await?.ok_or(Denied::Invalid)?;
        let caller = require_enabled(agent, Surface::Api)?;
        if let Some(stamp) = changes.stamp(Some(tenant), before) {
            self.callers.insert((hash, id), (caller.clone(), key, stamp));
        }
        Ok(caller)
    }

    /// Authenticates a caller by a webhook token. `None` if no agent has this token (CONTRACT D3).
    ///
    /// # Errors
    /// [`Denied::Disabled`], or if the store cannot be read.
    pub async fn webhook(&self, token: &str) -> Result<Option<Caller>, Denied> {
        let hash = SecretHash::of(token);
        let changes = self.store.changes();
        if let Some((caller, stamp)) = self.tokens.get(&hash)
            && changes.is_current(Some(caller.tenant()), stamp)
        {
            return Ok(Some(caller));
        }
        let before = changes.before_reading();
        let Some((agent, generation)) = self.store.agent_by_webhook_token(hash).await? else {
            return Ok(None);
        };
        let caller = require_enabled(agent, Surface::Webhook { generation })?;
        if let Some(stamp) = changes.stamp(Some(caller.tenant()), before) {
            self.tokens.insert(hash, (caller.clone(), stamp));
        }
        Ok(Some(caller))
    }
}

/// Creates the proof of access to an agent, if the agent is enabled.
fn require_enabled(agent: Agent, surface: Surface) -> Result<Caller, Denied> {
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
