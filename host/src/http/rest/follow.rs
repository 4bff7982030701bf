//! What happens in a task as server-sent events: live while it runs here, and the same from the trace for
//! whoever comes later.

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

use super::super::error::{ApiError, ErrorBody};
use super::super::extract::{ByKey, Named};
use super::super::responses::ReadErrors;
use super::super::{Handle, Handles};
use super::find;
use crate::answer::event::{SentEvent, TaskEvent};
use crate::ids::{TaskId, TenantId};
use crate::runs::{Follower, STOPPED};
use crate::store::StoreError;
use crate::tasks::{Status, Task};
use crate::trace::log::{RunEvent, replay};

/// How often the store is asked about a task of which nothing is heard: it may run in another process.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Events that wait for a client who reads slowly. The run does not wait for him.
const EVENTS_WAITING_MAX: usize = 16;

/// What happens in a task, from its beginning on whenever this is asked, up to its end. Each event has an id: whoever
/// asks again with `last-event-id`, as browsers do, is told what came after it, and with the id of the last one
/// gets 204, which ends their asking.
#[utoipa::path(get, path = "/{organization}/agent-execution/{id}/events",
    operation_id = "follow_task", tag = "tasks",
    params(("organization" = String, Path, description = "The key's organization"),
           ("id" = String, Path, description = "The task's id"),
           ("last-event-id" = Option<String>, Header, description = "The id of the last event that was received")),
    responses((status = 204, description = "The last event that was received is the end"),
              (status = 200, content_type = "text/event-stream", body = SentEvent,
               description = "`data:` lines, each a TaskEvent; the last one is `task_finished`"),
              (status = 429, body = ErrorBody, description = "The organization has too many streams open"),
              ReadErrors),
    security(("api_key" = [])))]
pub(super) async fn events(
    State(handles): Handle,
    ByKey(tenant): ByKey,
    named: Named,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let organization: TenantId = named.id("organization", "Task")?;
    if organization != tenant.tenant() {
        return Err(ApiError::not_found("Task"));
    }
    let task = find(&handles, tenant.tenant(), named.text("id")).await?;
    let after = headers.get(LAST_EVENT_ID).and_then(|id| id.to_str().ok());
    if after == Some(END) && task.status.is_final() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let after = after.and_then(|id| id.parse().ok());
    stream(handles, tenant.tenant(), task.id, after)
}

/// The header in which browsers say which event they were told last.
const LAST_EVENT_ID: &str = "last-event-id";

/// The id of the last event.
const END: &str = "end";

/// The id of any other event: which attempt at the run it is of, and its place in what is told of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventId {
    attempt: u32,
    place: usize,
}

/// Places in what is told of an attempt. What happened in it comes behind these.
const CREATED: usize = 1;
const BEGUN: usize = 2;

impl EventId {
    /// Whether whoever was told this event was told that one, too.
    fn comes_after(self, other: Self) -> bool {
        other.place == CREATED || (self.attempt == other.attempt && self.place >= other.place)
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.attempt, self.place)
    }
}

impl FromStr for EventId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (attempt, place) = text.split_once('-').ok_or(())?;
        let (attempt, place) = (attempt.parse().map_err(drop)?, place.parse().map_err(drop)?);
        Ok(Self { attempt, place })
    }
}

/// The events of a task as an answer, those after this one where one is named.
///
/// # Errors
/// 429 where the tenant has as many streams open as it may.
pub(super) fn stream(
    handles: Arc<Handles>,
    tenant: TenantId,
    task: TaskId,
    after: Option<EventId>,
) -> Result<Response, ApiError> {
    let most = handles.settings.streams_per_tenant_max;
    let place = handles.streams.enter(tenant, most).ok_or_else(|| {
        let detail =
            format!("{most} event streams are open; the task can be read, or followed later");
        ApiError::caller(429, detail).retry_after(1)
    })?;
    let (events, receiver) = mpsc::channel(EVENTS_WAITING_MAX);
    tokio::spawn(async move {
        let _place = place;
        let follower = handles.runs.follow(task);
        let (told, begun) = (0, false);
        let telling = EventStream { handles, tenant, task, follower, events, after, told, begun };
        if let Err(error) = telling.tell().await {
            tracing::warn!(%task, %error, "an event stream broke off");
        }
    });
    let stream = futures::stream::unfold(receiver, |mut receiver| async {
        let event = receiver.recv().await?;
        Some((Ok::<_, Infallible>(event), receiver))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()).into_response())
}

/// A stream that is being told.
struct EventStream {
    handles: Arc<Handles>,
    tenant: TenantId,
    task: TaskId,
    follower: Follower,
    events: mpsc::Sender<sse::Event>,
    /// The event that was told before.
    after: Option<EventId>,
    /// Moments of the attempt of now that were told.
    told: usize,
    begun: bool,
}

/// The client has hung up.
struct Gone;

impl EventStream {
    async fn tell(mut self) -> Result<(), StoreError> {
        let Some(mut task) = self.handles.store.task(self.tenant, self.task).await? else {
            return Ok(());
        };
        if self.send(&task, CREATED, TaskEvent::created(&task)).await.is_err() {
            return Ok(());
        }
        loop {
            if task.status.is_final() {
                let _gone = self.tell_end(&task).await?;
                return Ok(());
            }
            if task.status == Status::Executing && self.tell_begun(&task).await.is_err() {
                return Ok(());
            }
            tokio::select! {
                () = self.follower.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.events.closed() => return Ok(()),
                // Whoever asks again is told everything by the next start.
                () = self.handles.hurry.cancelled() => return Ok(()),
            }
            let moments = self.follower.take();
            let Some(now) = self.handles.store.task(self.tenant, self.task).await? else {
                let _gone = self.tell_deleted(task, moments).await;
                return Ok(());
            };
            task = now;
            if self.tell_moments(&task, moments).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn tell_begun(&mut self, task: &Task) -> Result<(), Gone> {
        if std::mem::replace(&mut self.begun, true) {
            return Ok(());
        }
        self.send(task, BEGUN, TaskEvent::begun(task)).await
    }

    async fn tell_moments(&mut self, task: &Task, moments: Vec<RunEvent>) -> Result<(), Gone> {
        for moment in moments {
            if moment == RunEvent::AttemptStarted {
                self.told = 0;
            } else {
                self.told += 1;
            }
            self.tell_begun(task).await?;
            if let Some(event) = TaskEvent::of(task, &moment) {
                self.send(task, BEGUN + self.told, event).await?;
            }
        }
        Ok(())
    }

    /// What the trace has and was not told yet, and the end.
    async fn tell_end(&mut self, task: &Task) -> Result<Result<(), Gone>, StoreError> {
        let steps = self.handles.store.steps(task).await?;
        let rest: Vec<RunEvent> = replay(steps).into_iter().skip(self.told).collect();
        if task.started_at.is_some() && self.tell_begun(task).await.is_err() {
            return Ok(Err(Gone));
        }
        if self.tell_moments(task, rest).await.is_err() {
            return Ok(Err(Gone));
        }
        Ok(self.send_end(task).await)
    }

    /// The end of a task that is not there any more: it was stopped before it was deleted.
    async fn tell_deleted(&mut self, mut task: Task, moments: Vec<RunEvent>) -> Result<(), Gone> {
        self.tell_moments(&task, moments).await?;
        task.status = Status::Stopped;
        task.result = Some(STOPPED.to_owned());
        task.finished_at = Some(self.handles.clock.now());
        self.send_end(&task).await
    }

    async fn send(&self, task: &Task, place: usize, event: TaskEvent) -> Result<(), Gone> {
        let id = EventId { attempt: task.attempts, place };
        if self.after.is_some_and(|after| after.comes_after(id)) {
            return Ok(());
        }
        self.send_as(&id.to_string(), &event).await
    }

    async fn send_end(&self, task: &Task) -> Result<(), Gone> {
        self.send_as(END, &TaskEvent::finished(task)).await
    }

    async fn send_as(&self, id: &str, event: &TaskEvent) -> Result<(), Gone> {
        let data = serde_json::to_string(event).unwrap_or_default();
        self.events.send(sse::Event::default().id(id).data(data)).await.map_err(|_| Gone)
    }
}
