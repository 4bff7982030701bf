//! What a request comes to: the channel's mapper, or its agent's, says what is asked of the agent.

use std::sync::Arc;

use super::{OpenChannel, Verified};
use crate::ids::IdempotencyKey;
use crate::intake::{
    AgentCall, Arrival, ByChannel, IntakeError, Mapping, MappingResult, Resolved, map_with,
};
use crate::plugins::Plugins;
use crate::request::{AnswerWanted, Prefer};
use crate::tasks::IdempotencyClaim;
use crate::tenants::ChannelAnswer;

impl OpenChannel {
    /// Resolves a request that the channel takes. `arrival` holds no credentials any more.
    ///
    /// # Errors
    /// [`IntakeError`]; no task exists then.
    pub async fn map(
        &self,
        plugins: &Plugins,
        verified: Verified,
        arrival: &Arrival,
    ) -> Result<Resolved, IntakeError> {
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
        let wanted = AnswerWanted {
            asynchronous: definition.answer != ChannelAnswer::Wait,
            prefer: Prefer::of(&arrival.incoming.headers),
            ..AnswerWanted::default()
        };
        let asked = mapping.asked(arrival, wanted)?;
        // An agent is never run on a body that nobody could read: a mapper may have read its bytes.
        let is_read = mapper.is_some() && (has_context || asked.input.prompt.is_some());
        if let Some(unreadable) = arrival.incoming.unreadable.as_ref().filter(|_| !is_read) {
            return Err(unreadable.clone().into());
        }
        let call = AgentCall::new(caller, arrival, asked)?;
        // The id of a delivery, and a key, are believed where somebody has verified who says so. Where nobody
        // has, all senders are one: a stranger who guesses an id could use it up, or be given the task of the
        // sender whose it is.
        let idempotency = match delivery {
            _ if !verified => None,
            Some(id) => {
                let key = IdempotencyKey::of_delivery(self.facts().id, &id);
                let surface = call.caller.surface();
                // The provider says that it is the same delivery; its bytes may differ (a retry counter).
                Some(IdempotencyClaim { surface, key, fingerprint: [0; 32] })
            }
            None => call.idempotency,
        };
        let channel = ByChannel {
            facts: Arc::clone(self.facts()),
            principal,
            deliver: definition.answer == ChannelAnswer::Deliver,
        };
        Ok(Resolved::Run(Box::new(AgentCall {
            idempotency,
            thread_surface: self.thread_surface(),
            channel: Some(channel),
            ..call
        })))
    }
}
