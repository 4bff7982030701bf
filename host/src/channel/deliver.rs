//! Delivers the answer to the provider in its own format, after the run has ended.

use std::sync::Arc;

use super::Channels;
use crate::answer::{plugin_call_event, task_subject};
use crate::ids::{PluginName, RequestId};
use crate::plugins::{PluginUnavailable, Plugins};
use crate::request::stored::{self, StoredHead};
use crate::sandbox::{PluginError, Subject};
use crate::store::StoreError;
use crate::tasks::{StoredRequest, Task};
use crate::tenants::{Agent, Channel};
use crate::trace::Event;

/// Why an answer could not be delivered.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// The request that the answer belongs to can no longer be read.
    #[error("its request cannot be read any more")]
    RequestUnreadable,
    /// The replier is not available.
    #[error(transparent)]
    Unavailable(#[from] PluginUnavailable),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// An answer for a replier to deliver.
#[derive(Debug)]
pub struct Delivery<'a> {
    /// The channel that the request arrived by.
    pub channel: &'a Channel,
    /// Its replier.
    pub replier: &'a PluginName,
    /// The agent.
    pub agent: &'a Agent,
    /// The finished task.
    pub task: &'a Task,
    /// The stored request.
    pub request: StoredRequest,
}

impl Channels {
    /// Has the channel's replier deliver the answer of a task. Returns the result, and the call for the task's trace.
    ///
    /// # Errors
    /// [`DeliverError`] if the replier could not be called.
    pub async fn deliver(
        &self,
        plugins: &Plugins,
        delivery: Delivery<'_>,
    ) -> Result<(Result<(), PluginError>, Event), DeliverError> {
        let Delivery { channel, replier, agent, task, request } = delivery;
        let head: StoredHead =
            serde_json::from_str(&request.head).map_err(|_| DeliverError::RequestUnreadable)?;
        let principal = head.principal.as_ref().map(|principal| principal.to_string().into());
        let subject = Subject {
            request: Some(Arc::new(stored::restore(&head, request.body, true).await)),
            channel: Some(self.facts(channel).await?),
            principal,
            ..task_subject(agent, task, RequestId::next())
        };
        let binding = plugins.binding(channel.tenant, replier).await?;
        let mut delivered = binding.deliver(subject).await;
        let event = plugin_call_event("deliver", &binding, &mut delivered);
        Ok((delivered.value, event))
    }
}
