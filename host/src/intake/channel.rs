//! Requests by a channel, let in already: what its mapper makes of them.

use std::sync::Arc;

use super::params::Sources;
use super::{
    AgentCall, AnswerWanted, Arrival, ByChannel, IntakeError, Mapping, MappingResult, Prefer,
    Resolved, idempotency, map_with, user,
};
use crate::access::channels::{LetIn, OpenChannel};
use crate::ids::{IdempotencyKey, ThreadId};
use crate::plugins::Plugins;
use crate::request::Payload;
use crate::sandbox::Subject;
use crate::tasks::{IdempotencyClaim, Input};
use crate::tenants::ChannelAnswer;

/// Resolves a request that the channel's verifier has let in. `arrival` holds no credentials any more.
///
/// # Errors
/// [`IntakeError`]; no task exists then.
pub async fn resolve_channel(
    plugins: &Plugins,
    channel: &OpenChannel,
    let_in: LetIn,
    arrival: &Arrival,
) -> Result<Resolved, IntakeError> {
    let caller = let_in.caller;
    let definition = channel.definition();
    let mapper = definition.mapper.as_ref().or(caller.agent().definition.mapper.as_ref());
    let mapping = match mapper {
        None => Mapping::default(),
        Some(name) => {
            let subject = Subject {
                request: Some(Arc::clone(&arrival.incoming)),
                channel: Some(Arc::clone(channel.facts())),
                principal: let_in.principal.clone(),
                ..Subject::of(caller.tenant(), caller.agent().id, arrival.request_id)
            };
            match map_with(plugins, name, subject, None).await? {
                MappingResult::Answered(resolved) => return Ok(resolved),
                MappingResult::Mapped(mapping) => mapping,
            }
        }
    };
    let surface = caller.surface();
    let sent = idempotency(arrival, surface)?;
    // The id of a delivery, and a key, are believed where somebody has verified who says so. Where nobody
    // has, all senders are one: a stranger who guesses an id could use it up, or be given the task of the
    // sender whose it is.
    let claim = match mapping.delivery_id {
        _ if !let_in.verified => None,
        Some(id) => {
            let key = IdempotencyKey::of_delivery(channel.facts().id, &id);
            // The provider says that it is the same delivery; its bytes may differ (a retry counter).
            Some(IdempotencyClaim { surface, key, fingerprint: [0; 32] })
        }
        None => sent,
    };
    let nothing = Payload::empty();
    let sources = Sources { query: &[], payload: &nothing, mapped: &mapping.params };
    let thread = sources.text("task_id")?.map(|text| text.parse::<ThreadId>()).transpose();
    let prompt = sources.text("prompt")?;
    // An agent is never run on a body that nobody could read: a mapper may have read its bytes.
    let is_read = mapper.is_some() && (mapping.context.is_some() || prompt.is_some());
    if let Some(unreadable) = arrival.incoming.unreadable.as_ref().filter(|_| !is_read) {
        return Err(unreadable.clone().into());
    }
    let payload = mapping.context.as_ref().unwrap_or(&arrival.incoming.payload);
    Ok(Resolved::Run(Box::new(AgentCall {
        idempotency: claim,
        thread_surface: channel.thread_surface(),
        caller,
        input: Input { prompt, payload: payload.text().to_owned(), user: user(&sources)? },
        thread: thread.map_err(|error| IntakeError::bad(&error.to_string()))?,
        wanted: AnswerWanted {
            asynchronous: definition.answer != ChannelAnswer::Wait,
            prefer: Prefer::of(&arrival.incoming.headers),
            ..AnswerWanted::default()
        },
        mapping: mapping.trace,
        user_tokens: arrival.user_tokens.clone(),
        source: "webhook",
        request_id: arrival.request_id,
        request: Arc::clone(&arrival.incoming),
        channel: Some(ByChannel {
            facts: Arc::clone(channel.facts()),
            principal: let_in.principal,
            deliver: definition.answer == ChannelAnswer::Deliver,
        }),
    })))
}
