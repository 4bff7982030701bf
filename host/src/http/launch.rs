//! From a resolved call to an accepted task, for every surface that starts one: the caller who waits, the
//! one who does not, and the one who has asked before.

use std::sync::Arc;

use axum::response::Response;
use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::Handles;
use super::error::ApiError;
use crate::ids::TaskId;
use crate::intake::AgentCall;
use crate::queue::Follower;
use crate::request::stored::StoredHead;
use crate::request::{AnswerWanted, Prefer};
use crate::tasks::{Accepted, NewTask, Status, StoredRequest, Task};
use crate::tenants::Agent;

/// An accepted call.
pub(super) struct Launched {
    /// Its task, or the one that had the key first.
    pub(super) task: TaskId,
    /// The task's end, for a caller who waits.
    follower: Option<Follower>,
    /// None: the task is new. Else whether the earlier request was the same.
    pub(super) replayed: Option<bool>,
    /// Whose task it is.
    pub(super) agent: Arc<Agent>,
    /// How the answer is wanted.
    pub(super) wanted: AnswerWanted,
    /// For plugins that shape the answer.
    pub(super) request_id: crate::ids::RequestId,
}

/// Accepts a call: its task is durable when this returns. `waits` says whether its caller will
/// [`Launched::wait`].
pub(super) async fn launch(
    handles: &Handles,
    mut call: AgentCall,
    waits: bool,
) -> Result<Launched, ApiError> {
    // The id of an earlier task of the same surface names the conversation that this task belongs to.
    if let Some(thread) = &call.thread
        && let Ok(earlier) = thread.as_str().parse::<TaskId>()
    {
        let (tenant, agent) = (call.caller.tenant(), call.caller.agent().id);
        let named = handles.store.thread_of(tenant, agent, call.thread_surface, earlier).await?;
        if let Some(Some(named)) = named {
            call.thread = named.parse().ok().or(call.thread);
        }
    }
    let agent = Arc::clone(call.caller.agent());
    let body = call.request.body.clone();
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
            body,
        },
        deliver: call.channel.as_ref().is_some_and(|channel| channel.deliver),
    };
    let id = task.id;
    let follower = waits.then(|| handles.queue.follow(id));
    let accepted = handles.queue.accept(task, call.user_tokens).await;
    let accepted = accepted.map_err(|error| ApiError::from(error).while_accepting())?;
    let (task, replayed) = match accepted {
        Accepted::New => (id, None),
        Accepted::Replayed { original, same_request } => (original, Some(same_request)),
    };
    Ok(Launched {
        task,
        follower,
        replayed,
        agent,
        wanted: call.wanted,
        request_id: call.request_id,
    })
}

impl Launched {
    /// Refuses what an idempotency key cannot answer: another request under it (422), and one whose
    /// original still runs while its caller waits (409). CONTRACT D6, X24.
    pub(super) async fn refuse_conflicts(
        &self,
        handles: &Handles,
        waits: bool,
    ) -> Result<(), ApiError> {
        match self.replayed {
            None => Ok(()),
            Some(false) => {
                let detail = "this Idempotency-Key was used before with a different request";
                Err(ApiError::caller(422, detail))
            }
            Some(true) if waits => {
                let task = handles.store.task(self.agent.tenant, self.task).await?;
                let open = |task: Task| matches!(task.status, Status::Pending | Status::Executing);
                if task.is_some_and(open) {
                    let error = ApiError::caller(409, "the original request is still running");
                    return Err(error.retry_after(1));
                }
                Ok(())
            }
            Some(true) => Ok(()),
        }
    }

    /// The task once it has ended, or as it is when the caller has waited long enough.
    pub(super) async fn wait(&mut self, handles: &Handles) -> Result<Task, ApiError> {
        if let (None, Some(follower)) = (self.replayed, &mut self.follower) {
            let limit = self.wanted.prefer.wait_of(handles.settings.sync_wait_max);
            // Whether it has ended is read from the store either way.
            tokio::select! {
                _ = tokio::time::timeout(limit, follower.ended()) => {}
                // The run goes on after the next start; its caller learns where to look for it.
                () = handles.hurry.cancelled() => {}
            }
        }
        let task = handles.store.task(self.agent.tenant, self.task).await;
        let task = task.map_err(|error| ApiError::from(error).after_the_run())?;
        // Somebody has deleted it meanwhile.
        task.ok_or_else(|| ApiError::not_found("Task"))
    }

    /// Says where the task is, and whether it is an earlier one (CONTRACT X21, D6).
    pub(super) fn mark(&self, mut response: Response) -> Response {
        let headers = response.headers_mut();
        mark_task(headers, self.task);
        if self.replayed.is_some() {
            set(headers, "idempotent-replayed", "true");
        }
        if self.replayed == Some(false) {
            set(headers, "idempotency-mismatch", "true");
        }
        response
    }

    /// Says which preference of the waiting was applied (RFC 7240 section 3).
    pub(super) fn mark_preference(&self, handles: &Handles, mut response: Response) -> Response {
        let prefer: Prefer = self.wanted.prefer;
        if let Some(applied) = prefer.applied(handles.settings.sync_wait_max) {
            set(response.headers_mut(), "preference-applied", &applied);
        }
        response
    }
}

/// Where a task can be found.
pub(super) fn mark_task(headers: &mut HeaderMap, id: TaskId) {
    set(headers, "x-task-id", &id.to_string());
    if let Ok(value) = HeaderValue::try_from(format!("/v1/tasks/{id}")) {
        headers.insert(LOCATION, value);
    }
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}
