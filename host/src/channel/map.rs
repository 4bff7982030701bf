//! Resolves a channel's request with the mapper of the channel, or else of its agent.

use std::sync::Arc;

use super::{ActiveChannel, Verified};
use crate::ids::IdempotencyKey;
use crate::intake::{
    AgentCall, Arrival, ChannelArrival, IntakeError, Mapping, MappingResult, Resolution, map_with,
};
use crate::plugins::Plugins;
use crate::request::{Prefer, ResponseOptions};
use crate::tasks::IdempotencyClaim;
use crate::tenants::ChannelAnswer;

impl ActiveChannel {
    /// Resolves a verified request. `arrival` must no longer hold credentials.
    ///
    /// # Errors
    /// [`IntakeError`]; no task has been created then.
    pub async fn map(
        &self,
        plugins: &Plugins,
        verified: Verified,
        arrival: &Arrival,
    ) -> Result<Resolution, IntakeError> {
        let Verified { caller, principal, verified } = verified;
        let definition = self.definition();
        let mapper = definition.mapper.as_ref().or(caller.agent().definition.mapper.as_ref());
        let mapping = match mapper {
            None => Mapping::default(),
            Some(name) => {
                let incoming = Some(Arc::clone(&arrival.incoming));
                let subject = self.subject(incoming, principal.clone(), arrival.request_id);
                match map_with(plugins, name, subject, None).await? {
                    MappingResult::Answered(resolved) => return Ok(resolved),
                    MappingResult::Mapped(mapping) => mapping,
                }
            }
        };
        let (delivery, has_context) = (mapping.delivery_id.clone(), mapping.context.is_some());
        let options = ResponseOptions {
            asynchronous: definition.answer != ChannelAnswer::Wait,
            prefer: Prefer::from_headers(&arrival.incoming.headers),
            ..ResponseOptions::default()
        };
        let request = mapping.into_request(arrival, options)?;
        // An agent never runs on an unreadable body, unless the mapper may have read its bytes and set a prompt or
        // context.
        let is_read = mapper.is_some() && (has_context || request.input.prompt.is_some());
        if let Some(unreadable) = arrival.incoming.unreadable.as_ref().filter(|_| !is_read) {
            return Err(unreadable.clone().into());
        }
        let call = AgentCall::new(caller, arrival, request)?;
        // A delivery id or a key is trusted only after verification. Without verification all senders look alike: a
        // stranger who guesses an id could use it up, or get the task of the sender that the id belongs to.
        let idempotency = match delivery {
            _ if !verified => None,
            Some(id) => {
                let key = IdempotencyKey::of_delivery(self.facts().id, &id);
                let surface = call.caller.surface();
                // The provider declares it to be the same delivery; its bytes may differ, for example in a retry
                // counter.
                Some(IdempotencyClaim { surface, key, fingerprint: [0; 32] })
            }
            None => call.idempotency,
        };
        let channel = ChannelArrival {
            facts: Arc::clone(self.facts()),
            principal,
            deliver: definition.answer == ChannelAnswer::Deliver,
        };
        Ok(Resolution::Run(Box::new(AgentCall {
            idempotency,
            thread_surface: self.thread_surface(),
            channel: Some(channel),
            ..call
        })))
    }
}
