//! Turns a resolved call into an accepted task. This is the only place that does so, for every surface.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Follower, Runs};
use crate::ids::{RequestId, TaskId};
use crate::intake::{AgentCall, ChannelArrival};
use crate::request::stored::StoredHead;
use crate::request::{IncomingRequest, ResponseOptions};
use crate::store::StoreError;
use crate::tasks::{Accepted, NewTask, StoredRequest, Task};
use crate::tenants::Agent;

/// Why a call did not become a task.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The conversation could not be read from the store; nothing was stored.
    #[error(transparent)]
    Reading(StoreError),
    /// The tokens of the user cannot be sealed; nothing was stored.
    #[error("the tokens of the user cannot be sealed: {0}")]
    Sealing(std::io::Error),
    /// The store failed to accept the task; it is unknown whether it is stored.
    #[error(transparent)]
    Accepting(StoreError),
}

/// Why an idempotency key cannot be answered (CONTRACT D6, X24).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// The key was used before with a different request.
    OtherRequest,
    /// The original request is still running, and this caller would have to wait for it.
    StillRunning,
}

/// An accepted call.
#[derive(Debug)]
pub struct Submission {
    /// Its task, or the task of the original request with the same key.
    pub task: TaskId,
    /// `None` if the task is new; otherwise whether the original request was the same.
    pub replayed: Option<bool>,
    /// Whether the key is the provider's own delivery id.
    pub by_provider: bool,
    /// The agent that the task is for.
    pub agent: Arc<Agent>,
    /// How to respond.
    pub wanted: ResponseOptions,
    /// For plugins that shape the response.
    pub request_id: RequestId,
    /// The request, if it arrived by a channel, whose replier may read it. Its bytes are charged to the sender while
    /// this is held.
    pub request: Option<Arc<IncomingRequest>>,
    /// The channel that the request arrived by, if any.
    pub channel: Option<ChannelArrival>,
    /// Follows the task, if the caller waits.
    follower: Option<Follower>,
}

impl Runs {
    /// Accepts a call: its task is durable when this returns, and a worker is woken. The user's tokens wait for the run
    /// in memory, and sealed in the store. `waits` states whether the caller will call [`Submission::wait`].
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit(
        &self,
        mut call: AgentCall,
        waits: bool,
    ) -> Result<Submission, SubmitError> {
        // The id of an earlier task of the same surface stands for that task's conversation.
        if let Some(thread) = &call.thread
            && let Ok(earlier) = thread.as_str().parse::<TaskId>()
        {
            let (tenant, agent) = (call.caller.tenant(), call.caller.agent().id);
            let named = self.store.thread_of(tenant, agent, call.thread_surface, earlier).await;
            if let Some(Some(named)) = named.map_err(SubmitError::Reading)? {
                call.thread = named.parse().ok().or(call.thread);
            }
        }
        let agent = Arc::clone(call.caller.agent());
        let by_provider = call.idempotency.as_ref().is_some_and(|claim| claim.key.is_of_delivery());
        let head = StoredHead::from_request(&call.request);
        let head = match &call.channel {
            Some(by) => head.by_channel(&by.facts.url, by.principal.as_deref()),
            None => head,
        };
        let id = TaskId::random();
        let sealed_tokens = match call.user_tokens.is_empty() {
            true => None,
            false => {
                let json = call.user_tokens.to_json();
                let sealed = self.tokens_key.seal(id.as_bytes(), json.as_bytes());
                Some(sealed.map_err(SubmitError::Sealing)?)
            }
        };
        let task = NewTask {
            id,
            tenant: agent.tenant,
            agent: agent.id,
            thread: call.thread,
            thread_surface: call.thread_surface,
            source: call.source,
            input: call.input,
            mapping: call.mapping,
            idempotency: call.idempotency,
            request: StoredRequest {
                channel: call.channel.as_ref().map(|channel| channel.facts.id),
                head: head.to_json(),
                body: call.request.body.clone(),
            },
            deliver: call.channel.as_ref().is_some_and(|channel| channel.deliver),
            sealed_tokens,
        };
        // Only a channel's replier needs the request's bytes after the task is stored.
        let request = call.channel.is_some().then_some(call.request);
        let follower = waits.then(|| self.registry.follow(id));
        if !call.user_tokens.is_empty() {
            // Before the task is stored, because a worker may claim it immediately after.
            self.tokens.insert(id, call.user_tokens);
        }
        let accepted = self.store.accept(task).await;
        if matches!(accepted, Ok(Accepted::New)) {
            self.wake.notify_one();
        } else {
            self.tokens.invalidate(&id);
        }
        let (task, replayed) = match accepted.map_err(SubmitError::Accepting)? {
            Accepted::New => (id, None),
            Accepted::Replayed { original, same_request } => (original, Some(same_request)),
        };
        Ok(Submission {
            task,
            replayed,
            by_provider,
            agent,
            wanted: call.response_options,
            request_id: call.request_id,
            request,
            channel: call.channel,
            follower,
        })
    }
}

impl Submission {
    /// Follows the task, if it is new and its caller said that it waits.
    pub fn follower(&mut self) -> Option<&mut Follower> {
        self.follower.as_mut().filter(|_| self.replayed.is_none())
    }

    /// Returns why the idempotency key cannot be answered, if so. `waits` is as in [`Runs::submit`].
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn conflict(&self, runs: &Runs, waits: bool) -> Result<Option<Conflict>, StoreError> {
        match self.replayed {
            Some(false) => Ok(Some(Conflict::OtherRequest)),
            Some(true) if waits => {
                let task = runs.store.task(self.agent.tenant, self.task).await?;
                let is_open = task.is_some_and(|task| !task.status.is_final());
                Ok(is_open.then_some(Conflict::StillRunning))
            }
            None | Some(true) => Ok(None),
        }
    }

    /// Waits until the task has ended, `limit` has passed or `shutdown_deadline` is cancelled, and returns the task as
    /// it is then. `None` if it was deleted in the meantime.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn wait(
        &mut self,
        runs: &Runs,
        limit: Duration,
        shutdown_deadline: &CancellationToken,
    ) -> Result<Option<Task>, StoreError> {
        if let Some(follower) = self.follower() {
            // Either way, the task's state is read from the store.
            tokio::select! {
                _ = tokio::time::timeout(limit, follower.ended()) => {}
                // The run continues after the next start; the response tells its caller where to poll for it.
                () = shutdown_deadline.cancelled() => {}
            }
        }
        runs.store.task(self.agent.tenant, self.task).await
    }
}
