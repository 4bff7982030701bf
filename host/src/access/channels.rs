//! Callers who come by a channel: proved by the plugin that verifies the provider's signature.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Method};
use moka::sync::Cache;

use super::{Caller, Denied, enabled, remembered};
use crate::clock::Timestamp;
use crate::ids::{ChannelId, PluginName, RequestId, TenantId};
use crate::plugins::{PluginUnavailable, Plugins};
use crate::request::credentials;
use crate::request::credentials::is_api_key;
use crate::request::{IncomingRequest, Payload};
use crate::sandbox::{BoundSecret, ChannelFacts, PluginError, Subject};
use crate::secrets::SecretVersions;
use crate::store::{Store, StoreError};
use crate::tasks::Surface;
use crate::tenants::{Channel, ChannelDefinition, ChannelThreads, Verification};
use crate::vault::{Vault, VaultError};

/// Channels whose refusals are remembered; of one beyond that the log is told anew.
const SAMPLED_CHANNELS_MAX: u64 = 10_000;

/// A secret shorter than this is not looked for in a request.
const SECRET_BYTES_MIN: usize = 6;

/// Why a request by a channel is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Unverified {
    /// The plugin said no, or was stopped.
    #[error("plugin {0}: {1}")]
    Plugin(PluginName, PluginError),
    /// The plugin cannot be had.
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
    open: Cache<ChannelId, Arc<OpenChannel>>,
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
    /// Handed out to whom the verifier lets in.
    caller: Caller,
}

/// A request that was let in.
#[derive(Debug)]
pub struct LetIn {
    /// Proof of access to the channel's agent.
    pub caller: Caller,
    /// What the verifier said of the sender, as JSON. None where nobody verified.
    pub principal: Option<Arc<str>>,
    /// Whether a plugin has verified it: only then does a delivery's id, or an idempotency key, say which
    /// sender's request it is.
    pub verified: bool,
}

impl Channels {
    /// The channels in this store.
    #[must_use]
    pub fn new(store: Store, vault: Vault, public_url: &str) -> Self {
        let told = Arc::default();
        let refusals = Cache::builder().max_capacity(SAMPLED_CHANNELS_MAX).build();
        Self { store, vault, public_url: public_url.into(), open: remembered(), told, refusals }
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

    /// Forgets what is believed: for whoever has changed something that must hold at once.
    pub fn forget(&self) {
        self.open.invalidate_all();
    }

    /// A channel that takes requests. None where there is none, or it is switched off.
    ///
    /// # Errors
    /// [`Denied::Disabled`] where its agent takes no tasks, [`Denied::Store`].
    pub async fn open(&self, id: ChannelId) -> Result<Option<Arc<OpenChannel>>, Denied> {
        if let Some(channel) = self.open.get(&id) {
            return Ok(Some(channel));
        }
        let channel = self.store.channel(id).await?.filter(|channel| channel.definition.enabled);
        let Some(channel) = channel else { return Ok(None) };
        let Some(agent) = self.store.agent(channel.tenant, channel.agent).await? else {
            return Ok(None);
        };
        let caller = enabled(agent, Surface::Channel(id))?;
        let facts = self.facts(&channel).await?;
        if channel.definition.verifier == Verification::Off {
            self.tell(&channel);
        }
        let channel = Arc::new(OpenChannel { channel, facts, caller });
        self.open.insert(id, Arc::clone(&channel));
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
                "verification is switched off: whoever knows the URL can trigger the agent"
            );
        }
    }
}

impl OpenChannel {
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

    /// Whether the channel's verifier can be asked at all: for whoever would read a body for it first.
    ///
    /// # Errors
    /// [`Unverified`], as [`OpenChannel::verify`] would give it.
    pub async fn check_verifier(&self, plugins: &Plugins) -> Result<(), Unverified> {
        let Verification::By(name) = &self.channel.definition.verifier else { return Ok(()) };
        let binding = plugins.binding(self.channel.tenant, name).await?;
        let admitted = binding.check_admission();
        admitted.map_err(|refusal| Unverified::Plugin(name.clone(), PluginError::Refusal(refusal)))
    }

    /// Has the channel's verifier look at a request, with every header that it came with.
    ///
    /// # Errors
    /// [`Unverified`]; the request is to be refused then.
    pub async fn verify(
        &self,
        plugins: &Plugins,
        incoming: Arc<IncomingRequest>,
        request_id: RequestId,
    ) -> Result<LetIn, Unverified> {
        let caller = self.caller.clone();
        let Verification::By(name) = &self.channel.definition.verifier else {
            return Ok(LetIn { caller, principal: None, verified: false });
        };
        let binding = plugins.binding(self.channel.tenant, name).await?;
        let subject = Subject {
            request: Some(incoming),
            channel: Some(Arc::clone(&self.facts)),
            ..Subject::of(self.channel.tenant, self.channel.agent, request_id)
        };
        let called = binding.verify(subject).await;
        let principal = called.value.map_err(|error| Unverified::Plugin(name.clone(), error))?;
        let principal = serde_json::json!({
            "id": principal.id,
            "attributes": principal.attributes,
        });
        Ok(LetIn { caller, principal: Some(principal.to_string().into()), verified: true })
    }

    /// The request without credentials, which a verifier alone gets to see: neither the usual headers, nor any header or query parameter
    /// that holds one of the channel's secrets. It is what mappers see, and what is kept.
    #[must_use]
    pub fn without_credentials(&self, incoming: Arc<IncomingRequest>) -> Arc<IncomingRequest> {
        let versions = self.facts.secrets.values().filter_map(BoundSecret::versions);
        let secrets: Vec<&[u8]> = versions
            .flat_map(SecretVersions::all)
            .map(<[u8]>::trim_ascii)
            .filter(|secret| secret.len() >= SECRET_BYTES_MIN)
            .collect();
        let tells =
            |text: &[u8]| secrets.iter().any(|secret| memchr::memmem::find(text, secret).is_some());
        let mut headers = HeaderMap::with_capacity(incoming.headers.len());
        for (name, value) in &incoming.headers {
            if !credentials::HEADERS.contains(&name.as_str()) && !tells(value.as_bytes()) {
                headers.append(name.clone(), value.clone());
            }
        }
        // A key of the gateway has no business here, and is not kept either.
        let tells_pair = |pair: &str| {
            let name = decoded(pair.split('=').next().unwrap_or_default());
            is_api_key(&String::from_utf8_lossy(&name)) || tells(&decoded(pair))
        };
        let query_tells = incoming.query.split('&').any(tells_pair);
        if headers.len() == incoming.headers.len() && !query_tells {
            return incoming;
        }
        let kept = incoming.query.split('&').filter(|pair| !tells_pair(pair));
        let query = kept.collect::<Vec<_>>().join("&");
        // Of a request without a body the query is the payload, too.
        let is_payload = query_tells && incoming.body.is_empty() && incoming.method == Method::GET;
        let payload = match incoming.payload.fields() {
            Some(fields) if is_payload => {
                let kept: Vec<_> = fields
                    .filter(|(name, _)| !is_api_key(name) && !tells(name.as_bytes()))
                    .filter_map(|(name, value)| {
                        Some((name.to_owned(), serde_json::from_str::<String>(value).ok()?))
                    })
                    .filter(|(_, value)| !tells(value.as_bytes()))
                    .collect();
                Payload::of_fields(kept)
            }
            _ => incoming.payload.clone(),
        };
        Arc::new(IncomingRequest {
            method: incoming.method.clone(),
            path: incoming.path.clone(),
            query,
            headers,
            body: incoming.body.clone(),
            payload,
            unreadable: incoming.unreadable.clone(),
        })
    }
}

/// A pair of the query, decoded.
fn decoded(pair: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(&pair.replace('+', " ")).collect()
}
