//! From a resolved call to an accepted task: the one place where a call becomes a task, whatever surface it came
//! in by.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Follower, Runs};
use crate::ids::{RequestId, TaskId};
use crate::intake::{AgentCall, ByChannel};
use crate::request::stored::StoredHead;
use crate::request::{AnswerWanted, IncomingRequest};
use crate::store::StoreError;
use crate::tasks::{Accepted, NewTask, Status, StoredRequest, Task};
use crate::tenants::Agent;

/// Why a call became no task.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The store could not be asked about the conversation; nothing was stored.
    #[error(transparent)]
    Reading(StoreError),
    /// The store could not take the task; whether it is stored is not known.
    #[error(transparent)]
    Accepting(StoreError),
}

/// What an idempotency key cannot answer (CONTRACT D6, X24).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conflict {
    /// The key was used before with a different request.
    OtherRequest,
    /// The original request still runs, and its caller would wait for it.
    StillRunning,
}

/// An accepted call.
#[derive(Debug)]
pub struct Submission {
    /// Its task, or the one that had the key first.
    pub task: TaskId,
    /// None: the task is new. Else whether the earlier request was the same.
    pub replayed: Option<bool>,
    /// Whether the key is the provider's own id of a delivery.
    pub by_provider: bool,
    /// Whose task it is.
    pub agent: Arc<Agent>,
    /// How the answer is wanted.
    pub wanted: AnswerWanted,
    /// For plugins that shape the answer.
    pub request_id: RequestId,
    /// The request, where it came in by a channel, whose replier may look at it. Its bytes count for their sender
    /// as long as it is held.
    pub request: Option<Arc<IncomingRequest>>,
    /// How it came in, where that was by a channel.
    pub channel: Option<ByChannel>,
    /// The task's end, for a caller who waits.
    follower: Option<Follower>,
}

impl Runs {
    /// Accepts a call: its task is durable when this returns. `waits` says whether its caller will
    /// [`Submission::wait`].
    ///
    /// # Errors
    /// [`SubmitError`].
    pub async fn submit(
        &self,
        mut call: AgentCall,
        waits: bool,
    ) -> Result<Submission, SubmitError> {
        // The id of an earlier task of the same surface names the conversation that this task belongs to.
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
        let head = StoredHead::of(&call.request);
        let head = match &call.channel {
            Some(by) => head.by_channel(&by.facts.url, by.principal.as_deref()),
            None => head,
        };
        let task = NewTask {
            id: TaskId::random(),
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
        };
        // Nobody else needs the request's bytes once the task is stored.
        let request = call.channel.is_some().then_some(call.request);
        let id = task.id;
        let follower = waits.then(|| self.follow(id));
        let accepted = self.accept(task, call.user_tokens).await;
        let (task, replayed) = match accepted.map_err(SubmitError::Accepting)? {
            Accepted::New => (id, None),
            Accepted::Replayed { original, same_request } => (original, Some(same_request)),
        };
        Ok(Submission {
            task,
            replayed,
            by_provider,
            agent,
            wanted: call.wanted,
            request_id: call.request_id,
            request,
            channel: call.channel,
            follower,
        })
    }
}

impl Submission {
    /// What its idempotency key cannot answer, if it is so. `waits` as in [`Runs::submit`].
    ///
    /// # Errors
    /// When the store could not be asked.
    pub async fn conflict(&self, runs: &Runs, waits: bool) -> Result<Option<Conflict>, StoreError> {
        match self.replayed {
            Some(false) => Ok(Some(Conflict::OtherRequest)),
            Some(true) if waits => {
                let task = runs.store.task(self.agent.tenant, self.task).await?;
                let is_open = task
                    .is_some_and(|task| matches!(task.status, Status::Pending | Status::Executing));
                Ok(is_open.then_some(Conflict::StillRunning))
            }
            None | Some(true) => Ok(None),
        }
    }

    /// The task once it has ended, or as it is when `limit` is over or `hurry` comes. None where it was deleted
    /// meanwhile.
    ///
    /// # Errors
    /// When the store could not be asked.
    pub async fn wait(
        &mut self,
        runs: &Runs,
        limit: Duration,
        hurry: &CancellationToken,
    ) -> Result<Option<Task>, StoreError> {
        if let (None, Some(follower)) = (self.replayed, &mut self.follower) {
            // Whether it has ended is read from the store either way.
            tokio::select! {
                _ = tokio::time::timeout(limit, follower.ended()) => {}
                // The run goes on after the next start; its caller learns where to look for it.
                () = hurry.cancelled() => {}
            }
        }
        runs.store.task(self.agent.tenant, self.task).await
    }
}
