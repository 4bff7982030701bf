//! Verifies that a request comes from the provider. The channel's verifier sees all of its headers.

use std::sync::Arc;

use super::{ActiveChannel, ChannelError};
use crate::access::Caller;
use crate::ids::RequestId;
use crate::plugins::Plugins;
use crate::request::IncomingRequest;
use crate::sandbox::PluginError;
use crate::tenants::Verification;

/// A request that the channel accepts.
#[derive(Debug)]
pub struct Verified {
    /// Proof of access to the channel's agent.
    pub caller: Caller,
    /// What the verifier returned about the sender, as JSON. `None` if verification is off.
    pub principal: Option<Arc<str>>,
    /// Whether a plugin has verified the request. Only then does a delivery id or an idempotency key identify the
    /// sender's request.
    pub verified: bool,
}

impl ActiveChannel {
    /// Checks that the channel's verifier can be called, before the caller reads a body for it.
    ///
    /// # Errors
    /// [`ChannelError`], as [`ActiveChannel::verify`] would return it.
    pub async fn check_verifier(&self, plugins: &Plugins) -> Result<(), ChannelError> {
        let Verification::By(name) = &self.channel.definition.verifier else { return Ok(()) };
        let binding = plugins.binding(self.channel.tenant, name).await?;
        let admitted = binding.check_admission();
        admitted
            .map_err(|refusal| ChannelError::Plugin(name.clone(), PluginError::Refusal(refusal)))
    }

    /// Verifies a request with the channel's verifier, which sees all of its headers.
    ///
    /// # Errors
    /// [`ChannelError`]; the request must be rejected then.
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
