//! Channels: where providers send their webhooks. One request goes through `verify` (is it the provider's?),
//! `scrub` (its credentials are taken out), `map` (what is asked) and, where the channel has a replier, `reply`
//! (the provider's own format) or, once the run has ended, `deliver`.

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
use crate::sandbox::{BoundSecret, ChannelFacts, PluginError, Subject};
use crate::store::{Stamp, Store, StoreError};
use crate::tasks::Surface;
use crate::tenants::{Channel, ChannelDefinition, ChannelThreads, Verification};
use crate::vault::{Vault, VaultError};
pub use deliver::{DeliverError, Delivery};
pub use reply::ReplySubject;
pub use verify::Verified;

/// Most channels cached.
const OPEN_CHANNELS_MAX: u64 = 10_000;

/// Channels whose refusals are remembered; of one beyond that the log is told anew.
const SAMPLED_CHANNELS_MAX: u64 = 10_000;

/// Why a plugin of a channel gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// It said no, or was stopped.
    #[error("plugin {0}: {1}")]
    Plugin(PluginName, PluginError),
    /// It cannot be had.
    #[error(transparent)]
    Unavailable(#[from] PluginUnavailable),
}

/// The channels of all tenants.
#[derive(Debug, Clone)]
pub struct Channels {
    store: Store,
    vault: Vault,
    /// The base of their URLs, without a slash at its end.
    public_url: Arc<str>,
    open: Cache<ChannelId, (Arc<OpenChannel>, Stamp)>,
    /// Channels without verification that the log has been told of, by id and version.
    told: Arc<Mutex<HashSet<(ChannelId, u32)>>>,
    /// What the log has been told of requests that channels refused.
    refusals: Cache<ChannelId, Arc<Mutex<Sampling>>>,
}

/// Of the requests that a channel refused, those that the log has been told of.
#[derive(Debug, Default)]
struct Sampling {
    /// None: of none yet.
    last: Option<Timestamp>,
    /// How many there were since then.
    unlogged: u64,
}

/// How long the log hears no more of requests that a channel refused, after one of them.
const SAMPLED_EVERY: Duration = Duration::from_secs(60);

/// A channel that takes requests.
#[derive(Debug)]
pub struct OpenChannel {
    channel: Channel,
    facts: Arc<ChannelFacts>,
    /// Handed out for requests that the verifier accepts.
    caller: Caller,
}

impl Channels {
    /// The channels in this store.
    #[must_use]
    pub fn new(store: Store, vault: Vault, public_url: &str) -> Self {
        let told = Arc::default();
        let refusals = Cache::builder().max_capacity(SAMPLED_CHANNELS_MAX).build();
        Self {
            store,
            vault,
            public_url: public_url.into(),
            open: Cache::new(OPEN_CHANNELS_MAX),
            told,
            refusals,
        }
    }

    /// Whether the log is to be told of a request that this channel has refused, and of how many it has not
    /// been told before.
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

    /// A channel that takes requests. None where there is none, or it is switched off.
    ///
    /// # Errors
    /// [`Denied::Disabled`] where its agent takes no tasks, [`Denied::Store`].
    pub async fn open(&self, id: ChannelId) -> Result<Option<Arc<OpenChannel>>, Denied> {
        let changes = self.store.changes();
        if let Some((channel, stamp)) = self.open.get(&id)
            && changes.holds(Some(channel.tenant()), stamp)
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
            self.tell(&channel);
        }
        let channel = Arc::new(OpenChannel { channel, facts, caller });
        if let Some(stamp) = changes.stamp(Some(channel.tenant()), before) {
            self.open.insert(id, (Arc::clone(&channel), stamp));
        }
        Ok(Some(channel))
    }

    /// What a channel gives to its plugins. A secret that cannot be opened is one that the tenant does
    /// not have: what needs it fails closed.
    ///
    /// # Errors
    /// When the store could not be asked.
    pub async fn facts(&self, channel: &Channel) -> Result<Arc<ChannelFacts>, StoreError> {
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
        Ok(Arc::new(ChannelFacts {
            id: channel.id,
            name: definition.name.clone(),
            url: self.url(channel.id),
            settings: definition.settings.clone(),
            secrets: secrets.collect(),
        }))
    }

    /// Tells the log once that a channel lets everybody in.
    fn tell(&self, channel: &Channel) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.insert((channel.id, channel.version)) {
            let (channel, tenant, name) = (channel.id, channel.tenant, &channel.definition.name);
            tracing::warn!(
                %channel, %tenant, %name,
                "verification is switched off: anyone who knows the URL can trigger the agent"
            );
        }
    }
}

impl OpenChannel {
    /// What its plugins are called about: a request by it, and what its verifier said of the sender.
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
            ..Subject::of(self.channel.tenant, self.channel.agent, request_id)
        }
    }

    /// How it is described.
    #[must_use]
    pub fn definition(&self) -> &ChannelDefinition {
        &self.channel.definition
    }

    /// The surface whose conversations its requests continue.
    #[must_use]
    pub fn thread_surface(&self) -> Surface {
        match self.channel.definition.threads {
            ChannelThreads::Own => self.caller.surface(),
            ChannelThreads::Shared => Surface::Api,
        }
    }

    /// What it gives to its plugins.
    #[must_use]
    pub fn facts(&self) -> &Arc<ChannelFacts> {
        &self.facts
    }

    /// Whose it is.
    #[must_use]
    pub fn tenant(&self) -> TenantId {
        self.channel.tenant
    }
}
