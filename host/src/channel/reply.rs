//! Responds in the provider's own format while the provider waits.

use std::sync::Arc;

use super::{ActiveChannel, ChannelError};
use crate::answer::{PostRunRecorder, plugin_call_event, task_subject};
use crate::ids::{PluginName, RequestId};
use crate::plugins::Plugins;
use crate::request::IncomingRequest;
use crate::sandbox::{HttpReply, Subject};
use crate::tasks::Task;
use crate::tenants::Agent;

/// The subject of a replier's response.
#[derive(Debug)]
pub struct ReplySubject<'a> {
    /// The agent that the channel triggered.
    pub agent: &'a Agent,
    /// The agent's task in its current state.
    pub task: &'a Task,
    /// The request, without credentials.
    pub request: Option<Arc<IncomingRequest>>,
    /// What the verifier returned about the sender, as JSON.
    pub principal: Option<Arc<str>>,
    /// For logs and plugins.
    pub request_id: RequestId,
}

impl ActiveChannel {
    /// Has the replier write the response to a request. If the task has ended, the call is recorded in its trace.
    ///
    /// # Errors
    /// [`ChannelError`]; the task is unchanged.
    pub async fn reply(
        &self,
        plugins: &Plugins,
        post_run: &PostRunRecorder,
        replier: &PluginName,
        about: ReplySubject<'_>,
    ) -> Result<HttpReply, ChannelError> {
        let ReplySubject { agent, task, request, principal, request_id } = about;
        let Subject { task: shown, .. } = task_subject(agent, task, request_id);
        let subject = Subject { task: shown, ..self.subject(request, principal, request_id) };
        let binding = plugins.binding(agent.tenant, replier).await?;
        let mut replied = binding.reply(subject).await;
        // An acknowledgement is sent before the task has ended and is not recorded.
        if task.status.is_final() {
            post_run.record_in_background(
                task.tenant,
                task.id,
                plugin_call_event("reply", &binding, &mut replied),
            );
        }
        replied.value.map_err(|error| ChannelError::Plugin(replier.clone(), error))
    }
}
