//! Whether a request comes from the provider: the channel's verifier looks at it, with every header that it came
//! with.

use std::sync::Arc;

use super::{ChannelError, OpenChannel};
use crate::access::Caller;
use crate::ids::RequestId;
use crate::plugins::Plugins;
use crate::request::IncomingRequest;
use crate::sandbox::PluginError;
use crate::tenants::Verification;

/// A request that the channel takes.
#[derive(Debug)]
pub struct Verified {
    /// Proof of access to the channel's agent.
    pub caller: Caller,
    /// What the verifier said of the sender, as JSON. None where nobody verified.
    pub principal: Option<Arc<str>>,
    /// Whether a plugin has verified it: only then does a delivery's id, or an idempotency key, say which
    /// sender's request it is.
    pub verified: bool,
}

impl OpenChannel {
    /// Whether the channel's verifier can be asked at all: for whoever would read a body for it first.
    ///
    /// # Errors
    /// [`ChannelError`], as [`OpenChannel::verify`] would give it.
    pub async fn check_verifier(&self, plugins: &Plugins) -> Result<(), ChannelError> {
        let Verification::By(name) = &self.channel.definition.verifier else { return Ok(()) };
        let binding = plugins.binding(self.channel.tenant, name).await?;
        let admitted = binding.check_admission();
        admitted
            .map_err(|refusal| ChannelError::Plugin(name.clone(), PluginError::Refusal(refusal)))
    }

    /// Has the channel's verifier look at a request, with every header that it came with.
    ///
    /// # Errors
    /// [`ChannelError`]; the request is to be refused then.
    pub async fn verify(
        &self,
        plugins: &Plugins,
        incoming: Arc<IncomingRequest>,
        request_id: RequestId,
    ) -> Result<Verified, ChannelError> {
        let caller = self.caller.clone();
        let Verification::By(name) = &self.channel.definition.verifier else {
            return Ok(Verified { caller, principal: None, verified: false });
        };
        let binding = plugins.binding(self.channel.tenant, name).await?;
        let subject = self.subject(Some(incoming), None, request_id);
        let called = binding.verify(subject).await;
        let principal = called.value.map_err(|error| ChannelError::Plugin(name.clone(), error))?;
        let principal = serde_json::json!({
            "id": principal.id,
            "attributes": principal.attributes,
        });
        Ok(Verified { caller, principal: Some(principal.to_string().into()), verified: true })
    }
}
