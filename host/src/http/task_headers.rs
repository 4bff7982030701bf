//! Headers that name the task that a response is about.

use std::time::Duration;

use axum::response::Response;
use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::ids::TaskId;
use crate::runs::Submission;

/// The task that a response is about, and whether an earlier request started it (CONTRACT X21, D6).
#[derive(Debug, Clone, Copy)]
pub(super) struct TaskHeaders {
    task: TaskId,
    /// See [`Submission::replayed`].
    replayed: Option<bool>,
    /// See [`Submission::by_provider`].
    by_provider: bool,
}

impl TaskHeaders {
    /// The headers of an accepted call.
    pub(super) fn from_submission(submission: &Submission) -> Self {
        let Submission { task, replayed, by_provider, .. } = *submission;
        Self { task, replayed, by_provider }
    }

    /// The task's id and location only.
    pub(super) fn location_only(submission: &Submission) -> Self {
        Self { replayed: None, ..Self::from_submission(submission) }
    }

    /// Sets the headers of a response.
    pub(super) fn set(self, headers: &mut HeaderMap) {
        set(headers, "x-task-id", &self.task.to_string());
        if let Ok(value) = HeaderValue::try_from(format!("/v1/tasks/{}", self.task)) {
            headers.insert(LOCATION, value);
        }
        if self.replayed.is_some() {
            set(headers, "idempotent-replayed", "true");
            if self.by_provider {
                set(headers, "x-dedupe-source", "provider");
            }
        }
        if self.replayed == Some(false) {
            set(headers, "idempotency-mismatch", "true");
        }
    }
}

/// Sets the headers that say where the task is, and whether an earlier request started it.
pub(super) fn set_task_headers(submission: &Submission, mut response: Response) -> Response {
    TaskHeaders::from_submission(submission).set(response.headers_mut());
    response
}

/// The same for a caller who may have waited, with the preference about waiting that was applied (RFC 7240
/// section 3).
pub(super) fn set_task_headers_after_wait(
    submission: &Submission,
    wait_max: Duration,
    response: Response,
) -> Response {
    let mut response = set_task_headers(submission, response);
    if let Some(applied) = submission.wanted.prefer.applied(wait_max) {
        set(response.headers_mut(), "preference-applied", &applied);
    }
    response
}

/// Sets a header, unless the value is not valid in one.
fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}
