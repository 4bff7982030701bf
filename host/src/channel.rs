//! Channels: the endpoints of providers' webhooks. A request goes through `verify` (does it come from the provider?),
//! `scrub` (removes its credentials), `map` (resolves it to a call) and, if the channel has a replier, `reply`
//! (responds in the provider's own format) or, after the run, `deliver`.

mod deliver;
mod map;
mod reply;
mod scrub;
mod verify;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use crate::access::{Caller, Denied};
use crate::clock::Timestamp;
use crate::ids::{ChannelId, PluginName, RequestId, TenantId};
use crate::plugins::PluginUnavailable;
use crate::request::IncomingRequest;
use crate::sandbox::{BoundSecret, ChannelContext, PluginError, Subject};
use crate::store::{Stamp, Store, StoreError};
use crate::tasks::Surface;
use crate::tenants::{Channel, ChannelDefinition, ChannelThreads, Verification};
use crate::vault::{Vault, VaultError};
pub use deliver::{DeliverError, Delivery};
pub use reply::ReplySubject;
pub use verify::Verified;

/// Maximum number of cached channels.
const OPEN_CHANNELS_MAX: u64 = 10_000;

/// Maximum number of channels whose log sampling is tracked. The next rejection of an evicted channel is logged
/// again.
const SAMPLED_CHANNELS_MAX: u64 = 10_000;

/// Why a plugin of a channel returned no result.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The plugin rejected the request, or was stopped.
    #[error("plugin {0}: {1}")]
    Plugin(PluginName, PluginError),
    /// The plugin is not available.
    #[error(transparent)]
    Unavailable(#[from] PluginUnavailable),
}

/// The channels of all tenants.
#[derive(Debug, Clone)]
pub struct Channels {
    store: Store,
    vault: Vault,
    /// The base of the channels' URLs, without a trailing slash.
    public_url: Arc<str>,
    open: Cache<ChannelId, (Arc<ActiveChannel>, Stamp)>,
    /// Channels without verification for which a warning has been logged, by id and version.
    warned: Arc<Mutex<HashSet<(ChannelId, u32)>>>,
    /// The log sampling of rejected requests, by channel.
    refusals: Cache<ChannelId, Arc<Mutex<Sampling>>>,
}

/// Samples the log entries about a channel's rejected requests.
#[derive(Debug, Default)]
struct Sampling {
    /// When one was last logged. `None` if none was.
    last: Option<Timestamp>,
    /// How many were rejected since then without being logged.
    unlogged: u64,
}

/// The time between two log entries about rejected requests of one channel.
const SAMPLED_EVERY: Duration = Duration::from_secs(60);

/// A channel that accepts requests.
#[derive(Debug)]
pub struct ActiveChannel {
    channel: Channel,
    facts: Arc<ChannelContext>,
    /// Returned for requests that pass verification.
    caller: Caller,
}

impl Channels {
    /// Creates the channels of this store.
    #[must_use]
    pub fn new(store: Store, vault: Vault, public_url: &str) -> Self {
        let warned = Arc::default();
        let refusals = Cache::builder().max_capacity(SAMPLED_CHANNELS_MAX).build();
        Self {
            store,
            vault,
            public_url: public_url.into(),
            open: Cache::new(OPEN_CHANNELS_MAX),
            warned,
            refusals,
        }
    }

    /// Whether to log a rejected request of this channel. Returns how many rejections were skipped since the last log
    /// entry, or `None` if this one is skipped as well.
    #[must_use]
    pub fn sample(&self, channel: ChannelId, now: Timestamp) -> Option<u64> {
        let sampling = self.refusals.get_with(channel, Arc::default);
        let mut sampling = sampling.lock().unwrap_or_else(PoisonError::into_inner);
        if sampling.last.is_some_and(|last| now < last.plus(SAMPLED_EVERY)) {
            sampling.unlogged += 1;
            return None;
        }
        sampling.last = Some(now);
        Some(std::mem::take(&mut sampling.unlogged))
    }

    /// The URL of a channel.
    #[must_use]
    pub fn url(&self, id: ChannelId) -> String {
        format!("{}/hooks/{id}", self.public_url)
    }

    /// Returns a channel that accepts requests. `None` if it does not exist or is disabled, or if its agent does not
    /// exist.
    ///
    /// # Errors
    /// [`Denied::Disabled`] if its agent is disabled, [`Denied::Store`] if the store cannot be read.
    pub async fn open(&self, id: ChannelId) -> Result<Option<Arc<ActiveChannel>>, Denied> {
        let changes = self.store.changes();
        if let Some((channel, stamp)) = self.open.get(&id)
            && changes.is_current(Some(channel.tenant()), stamp)
        {
            return Ok(Some(channel));
        }
        let before = changes.before_reading();
        let channel = self.store.channel(id).await?.filter(|channel| channel.definition.enabled);
        let Some(channel) = channel else { return Ok(None) };
        let Some(agent) = self.store.agent(channel.tenant, channel.agent).await? else {
            return Ok(None);
        };
        let caller = Caller::by_channel(agent, id)?;
        let facts = self.facts(&channel).await?;
        if channel.definition.verifier == Verification::Off {
            self.warn_unverified(&channel);
        }
        let channel = Arc::new(ActiveChannel { channel, facts, caller });
        if let Some(stamp) = changes.stamp(Some(channel.tenant()), before) {
            self.open.insert(id, (Arc::clone(&channel), stamp));
        }
        Ok(Some(channel))
    }

    /// What a channel passes to its plugins. A secret that cannot be decrypted counts as missing, so whatever needs
    /// it fails closed.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn facts(&self, channel: &Channel) -> Result<Arc<ChannelContext>, StoreError> {
        let definition = &channel.definition;
        let named = definition.secrets.values().map(|binding| &binding.secret);
        let opened = self.vault.open(channel.tenant, named).await;
        let opened = match opened {
            Ok(opened) => opened.secrets,
            Err(VaultError::Store(error)) => return Err(error),
            Err(error) => {
                tracing::error!(channel = %channel.id, %error, "a channel's secret cannot be opened");
                BTreeMap::new()
            }
        };
        let secrets = definition.secrets.iter().map(|(name, binding)| {
            let secret = opened.get(&binding.secret).cloned();
            (name.clone(), BoundSecret::new(binding.clone(), secret))
        });
        Ok(Arc::new(ChannelContext {
            id: channel.id,
            name: definition.name.clone(),
            url: self.url(channel.id),
            settings: definition.settings.clone(),
            secrets: secrets.collect(),
        }))
    }

    /// Logs once for each version of a channel that its verification is off.
    fn warn_unverified(&self, channel: &Channel) {
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        if warned.insert((channel.id, channel.version)) {
            let (channel, tenant, name) = (channel.id, channel.tenant, &channel.definition.name);
            tracing::warn!(
                %channel, %tenant, %name,
                "verification is switched off: anyone who knows the URL can trigger the agent"
            );
        }
    }
}

impl ActiveChannel {
    /// The subject of its plugins' calls: a request, and what its verifier returned about the sender.
    fn subject(
        &self,
        request: Option<Arc<IncomingRequest>>,
        principal: Option<Arc<str>>,
        request_id: RequestId,
    ) -> Subject {
        Subject {
            request,
            principal,
            channel: Some(Arc::clone(&self.facts)),
            ..Subject::new(self.channel.tenant, self.channel.agent, request_id)
        }
    }

    /// The channel's definition.
    #[must_use]
    pub fn definition(&self) -> &ChannelDefinition {
        &self.channel.definition
    }

    /// The surface that the conversations of its requests belong to.
    #[must_use]
    pub fn thread_surface(&self) -> Surface {
        match self.channel.definition.threads {
            ChannelThreads::Own => self.caller.surface(),
            ChannelThreads::Shared => Surface::Api,
        }
    }

    /// What the channel passes to its plugins.
    #[must_use]
    pub fn facts(&self) -> &Arc<ChannelContext> {
        &self.facts
    }

    /// The tenant that owns the channel.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.channel.tenant
    }
}
