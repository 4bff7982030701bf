//! The answer in the provider's own format, while the provider waits for it.

use std::sync::Arc;

use super::{ChannelError, OpenChannel};
use crate::answer::{PostRunRecorder, about_task, called_about};
use crate::ids::{PluginName, RequestId};
use crate::plugins::Plugins;
use crate::request::IncomingRequest;
use crate::sandbox::{HttpReply, Subject};
use crate::tasks::Task;
use crate::tenants::Agent;

/// What a replier is asked about.
#[derive(Debug)]
pub struct ReplySubject<'a> {
    /// The agent that the channel triggered.
    pub agent: &'a Agent,
    /// Its task, as far as it is.
    pub task: &'a Task,
    /// The request, without credentials.
    pub request: Option<Arc<IncomingRequest>>,
    /// What the verifier said of the sender, as JSON.
    pub principal: Option<Arc<str>>,
    /// For logs and plugins.
    pub request_id: RequestId,
}

impl OpenChannel {
    /// Asks this replier for the answer to a request. Where the task has ended the call becomes a part of its trace.
    ///
    /// # Errors
    /// [`ChannelError`]; the task is as it was.
    pub async fn reply(
        &self,
        plugins: &Plugins,
        post_run: &PostRunRecorder,
        replier: &PluginName,
        about: ReplySubject<'_>,
    ) -> Result<HttpReply, ChannelError> {
        let ReplySubject { agent, task, request, principal, request_id } = about;
        let Subject { task: shown, .. } = about_task(agent, task, request_id);
        let subject = Subject { task: shown, ..self.subject(request, principal, request_id) };
        let binding = plugins.binding(agent.tenant, replier).await?;
        let mut replied = binding.reply(subject).await;
        // An acknowledgement is not about the task's end.
        if task.status.is_final() {
            post_run.note(task.tenant, task.id, called_about("reply", &binding, &mut replied));
        }
        replied.value.map_err(|error| ChannelError::Plugin(replier.clone(), error))
    }
}
