//! A task's progress as server-sent events: live while the task runs in this process, and replayed from the trace for
//! later clients.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, StatusCode};
use tokio::sync::mpsc;

use super::super::concurrency::Streams;
use super::super::error::{ApiError, ErrorBody};
use super::super::extract::{PathParams, TenantAuth};
use super::super::responses::ReadErrors;
use super::{RestState, find};
use crate::access::approval_links::ApprovalLinks;
use crate::answer::event::{SentEvent, TaskEvent};
use crate::clock::{Clock, Timestamp};
use crate::ids::{ApprovalId, TaskId, TenantId};
use crate::runs::{Follower, Runs, STOPPED};
use crate::store::{Store, StoreError};
use crate::tasks::{Status, Task};
use crate::trace::log::{RunEvent, replay};
use tokio_util::sync::CancellationToken;

/// How often to poll the store for a task without new events: it may run in another process.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The most events buffered for a client that reads slowly. The run does not wait for the client.
const EVENTS_WAITING_MAX: usize = 16;

/// Follow a task as server-sent events.
///
/// The stream starts with the beginning of the task, whenever it is opened, and ends with the task. Each event has an
/// id. A client that reconnects with the id of the last event that it received in `last-event-id`, as browsers do by
/// themselves, gets the events after that one, or all events of the current attempt if the run has been restarted
/// since. With the id of the final event it gets 204, which makes a browser stop reconnecting.
#[utoipa::path(get, path = "/{organization}/agent-execution/{id}/events",
    operation_id = "follow_task", tag = "tasks",
    params(("organization" = String, Path, description = "The key's organization"),
           ("id" = String, Path, description = "The task's id"),
           ("last-event-id" = Option<String>, Header, description = "The id of the last event that was received")),
    responses((status = 204, description = "The stream has ended: the last event that the client received was the final one."),
              (status = 200, content_type = "text/event-stream", body = SentEvent,
               description = "Server-sent events; each `data` field is a `TaskEvent`. The last one is `task_finished`."),
              (status = 429, body = ErrorBody, description = "The organization has too many event streams open."),
              ReadErrors),
    security(("api_key" = [])))]
pub(super) async fn events(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    path_params: PathParams,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let organization: TenantId = path_params.id("organization", "Task")?;
    if organization != tenant.tenant() {
        return Err(ApiError::not_found("Task"));
    }
    let task = find(&state.store, tenant.tenant(), path_params.text("id")).await?;
    let after = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    if after == Some(FINAL_EVENT_ID) && task.status.is_final() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let after = after.and_then(|id| id.parse().ok());
    state.events.open(tenant.tenant(), task.id, after)
}

/// The header in which browsers send the id of the last event that they received.
const LAST_EVENT_ID: &str = "last-event-id";

/// The id of the final event.
const FINAL_EVENT_ID: &str = "end";

/// The id of every other event: the attempt at the run that it belongs to, and its position in that attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventId {
    attempt: u32,
    index: usize,
    /// For a part of a text: where the part ends in the text, in bytes.
    text_end: usize,
}

/// The positions of the first events of an attempt. The events of the run follow them.
const CREATED_INDEX: usize = 1;
const STARTED_INDEX: usize = 2;

impl EventId {
    /// How much of the text at this position a client has that received this event. None if it has all of it.
    fn received_of_text(self, attempt: u32, index: usize) -> Option<usize> {
        if self.attempt != attempt || self.index < index {
            return Some(0);
        }
        (self.index == index).then_some(self.text_end)
    }

    /// Whether a client that has received this event has received the other one too.
    fn includes(self, other: Self) -> bool {
        // A part of a text comes before the event at its position.
        let last = if self.text_end > 0 { self.index.saturating_sub(1) } else { self.index };
        other.index == CREATED_INDEX || (self.attempt == other.attempt && last >= other.index)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.attempt, self.index)?;
        if self.text_end > 0 { write!(f, ".{}", self.text_end) } else { Ok(()) }
    }
}

impl FromStr for EventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (attempt, index) = text.split_once('-').ok_or(())?;
        let (index, text_end) = index.split_once('.').unwrap_or((index, "0"));
        let (attempt, index) = (attempt.parse().map_err(drop)?, index.parse().map_err(drop)?);
        Ok(Self { attempt, index, text_end: text_end.parse().map_err(drop)? })
    }
}

/// Opens event streams of tasks.
#[derive(Debug, Clone)]
pub(in super::super) struct EventStreams {
    pub(in super::super) store: Store,
    pub(in super::super) runs: Runs,
    pub(in super::super) clock: Clock,
    pub(in super::super) approval_links: ApprovalLinks,
    /// The streams that are open, counted for each tenant.
    pub(in super::super) limit: Streams,
    /// Ends all streams.
    pub(in super::super) shutdown_deadline: CancellationToken,
}

impl EventStreams {
    /// Returns the events of a task as a response: all of them, or those after this one.
    ///
    /// # Errors
    /// If the tenant has as many streams open as it may: 429.
    pub(super) fn open(
        &self,
        tenant: TenantId,
        task: TaskId,
        after: Option<EventId>,
    ) -> Result<Response, ApiError> {
        let permit = self.limit.acquire(tenant).ok_or_else(|| {
            let max = self.limit.per_key_max();
            let detail =
                format!("{max} event streams are open; the task can be read, or followed later");
            ApiError::caller(429, detail).retry_after(1)
        })?;
        let (events, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
        let streams = self.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let follower = streams.runs.follow(task);
            let (sent, text_end, started) = (0, 0, false);
            let announced = HashSet::new();
            let stream = EventStream {
                streams,
                tenant,
                task,
                follower,
                events,
                after,
                sent,
                text_end,
                started,
                announced,
            };
            if let Err(error) = stream.send_all().await {
                tracing::warn!(%task, %error, "an event stream broke off");
            }
        });
        let stream = futures::stream::unfold(receiver, |mut receiver| async {
            let event = receiver.recv().await?;
            Some((Ok::<_, Infallible>(event), receiver))
        });
        Ok(Sse::new(stream).keep_alive(KeepAlive::default()).into_response())
    }
}

/// An open event stream.
struct EventStream {
    streams: EventStreams,
    tenant: TenantId,
    task: TaskId,
    follower: Follower,
    events: mpsc::Sender<sse::Event>,
    /// The last event that the client has received.
    after: Option<EventId>,
    /// How many run events of the current attempt have been processed, including those that are not sent to clients,
    /// without parts of texts.
    sent: usize,
    /// How much of the current turn's text has been processed, in bytes.
    text_end: usize,
    /// Whether the event of the task's start (`task_updated`) has been reached.
    started: bool,
    /// The approvals that the client has been told of.
    announced: HashSet<ApprovalId>,
}

/// The client has disconnected.
struct Disconnected;

impl EventStream {
    async fn send_all(mut self) -> Result<(), StoreError> {
        let Some(mut task) = self.streams.store.task(self.tenant, self.task).await? else {
            return Ok(());
        };
        if self.send(&task, CREATED_INDEX, TaskEvent::created(&task)).await.is_err() {
            return Ok(());
        }
        loop {
            if task.status.is_final() {
                let _gone = self.finish(&task).await?;
                return Ok(());
            }
            let has_started = matches!(task.status, Status::Executing | Status::Paused);
            if has_started && self.send_started(&task).await.is_err() {
                return Ok(());
            }
            if task.status == Status::Paused && self.announce_approvals(&task).await?.is_err() {
                return Ok(());
            }
            tokio::select! {
                () = self.follower.changed() => {}
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = self.events.closed() => return Ok(()),
                // A client that reconnects after the restart receives everything that it has missed.
                () = self.streams.shutdown_deadline.cancelled() => return Ok(()),
            }
            let run_events = self.follower.take();
            if self.started && !run_events.is_empty() && run_events.iter().all(RunEvent::is_of_text)
            {
                // A text comes in many parts, which say nothing new about the task.
                if self.send_run_events(&task, run_events).await.is_err() {
                    return Ok(());
                }
                continue;
            }
            let Some(now) = self.streams.store.task(self.tenant, self.task).await? else {
                let _gone = self.finish_deleted(task, run_events).await;
                return Ok(());
            };
            task = now;
            if self.send_run_events(&task, run_events).await.is_err() {
                return Ok(());
            }
        }
    }

    /// Sends the approvals that the task waits for. They are read from the store, since the run has ended that asked.
    async fn announce_approvals(
        &mut self,
        task: &Task,
    ) -> Result<Result<(), Disconnected>, StoreError> {
        for approval in self.streams.store.approvals_of_task(task).await? {
            if approval.decided.is_some() || !self.announced.insert(approval.id) {
                continue;
            }
            let event = TaskEvent::approval(task, &approval, &self.streams.approval_links);
            let data = serde_json::to_string(&event).unwrap_or_default();
            if self.events.send(sse::Event::default().data(data)).await.is_err() {
                return Ok(Err(Disconnected));
            }
        }
        Ok(Ok(()))
    }

    async fn send_started(&mut self, task: &Task) -> Result<(), Disconnected> {
        if std::mem::replace(&mut self.started, true) {
            return Ok(());
        }
        self.send(task, STARTED_INDEX, TaskEvent::started(task)).await
    }

    async fn send_run_events(
        &mut self,
        task: &Task,
        run_events: Vec<RunEvent>,
    ) -> Result<(), Disconnected> {
        for event in run_events {
            match &event {
                RunEvent::TextPart { at, text } => {
                    self.send_started(task).await?;
                    self.send_text(task, *at, text).await?;
                    continue;
                }
                RunEvent::AttemptStarted => (self.sent, self.text_end) = (0, 0),
                _ => (self.sent, self.text_end) = (self.sent + 1, 0),
            }
            self.send_started(task).await?;
            if let Some(task_event) = TaskEvent::from_run_event(task, &event) {
                self.send(task, STARTED_INDEX + self.sent, task_event).await?;
            }
        }
        Ok(())
    }

    /// Sends a part of the text of the turn that comes next, as far as the client does not have it.
    async fn send_text(
        &mut self,
        task: &Task,
        at: Timestamp,
        part: &str,
    ) -> Result<(), Disconnected> {
        let begin = self.text_end;
        self.text_end += part.len();
        let index = STARTED_INDEX + self.sent + 1;
        let received = match self.after {
            Some(after) => after.received_of_text(task.attempts, index),
            None => Some(0),
        };
        let new = received.map(|received| match part.get(received.saturating_sub(begin)..) {
            Some(new) => new,
            None if received >= self.text_end => "",
            // An id that was never sent.
            None => part,
        });
        match new {
            Some(new) if !new.is_empty() => {
                let id = EventId { attempt: task.attempts, index, text_end: self.text_end };
                self.after = Some(id);
                self.send_as(&id.to_string(), &TaskEvent::text(task, at, new)).await
            }
            _ => Ok(()),
        }
    }

    /// Sends the rest of the trace, and the final event.
    async fn finish(&mut self, task: &Task) -> Result<Result<(), Disconnected>, StoreError> {
        let steps = self.streams.store.steps(task).await?;
        let rest = rest_of(replay(steps), self.sent, self.text_end);
        if task.started_at.is_some() && self.send_started(task).await.is_err() {
            return Ok(Err(Disconnected));
        }
        if self.send_run_events(task, rest).await.is_err() {
            return Ok(Err(Disconnected));
        }
        Ok(self.send_end(task).await)
    }

    /// Sends the final event of a task that has been deleted meanwhile. A deletion stops the task first.
    async fn finish_deleted(
        &mut self,
        mut task: Task,
        run_events: Vec<RunEvent>,
    ) -> Result<(), Disconnected> {
        self.send_run_events(&task, run_events).await?;
        task.status = Status::Stopped;
        task.result = Some(STOPPED.to_owned());
        task.finished_at = Some(self.streams.clock.now());
        self.send_end(&task).await
    }

    async fn send(
        &mut self,
        task: &Task,
        index: usize,
        event: TaskEvent,
    ) -> Result<(), Disconnected> {
        let id = EventId { attempt: task.attempts, index, text_end: 0 };
        if self.after.is_some_and(|after| after.includes(id)) {
            return Ok(());
        }
        // A run that goes on after a pause goes through the same events once more.
        self.after = Some(id);
        self.send_as(&id.to_string(), &event).await
    }

    async fn send_end(&self, task: &Task) -> Result<(), Disconnected> {
        self.send_as(FINAL_EVENT_ID, &TaskEvent::finished(task)).await
    }

    async fn send_as(&self, id: &str, event: &TaskEvent) -> Result<(), Disconnected> {
        let data = serde_json::to_string(event).unwrap_or_default();
        self.events.send(sse::Event::default().id(id).data(data)).await.map_err(|_| Disconnected)
    }
}

/// The events after this many that are not parts of texts, and after this much of the text that comes next.
fn rest_of(mut events: Vec<RunEvent>, sent: usize, text_end: usize) -> Vec<RunEvent> {
    let mut passed = 0;
    events.retain(|event| {
        let is_passed = passed < sent;
        passed += usize::from(!event.is_of_text());
        !is_passed
    });
    if let Some(RunEvent::TextPart { text, .. }) = events.first_mut() {
        *text = text.get(text_end..).unwrap_or_default().to_owned();
    }
    events
}
