//! Headers that say which task an answer is about.

use http::header::LOCATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::ids::TaskId;
use crate::runs::Submission;

/// Which task an answer is about, and whether an earlier request had started it (CONTRACT X21, D6).
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    task: TaskId,
    /// See [`Submission::replayed`].
    replayed: Option<bool>,
    /// Whether it was the provider's id of a delivery that told so.
    by_provider: bool,
}

impl Marks {
    /// Those of an accepted call.
    pub(super) fn of(submission: &Submission) -> Self {
        let Submission { task, replayed, by_provider, .. } = *submission;
        Self { task, replayed, by_provider }
    }

    /// Where the task is, and no more.
    pub(super) fn where_it_is(submission: &Submission) -> Self {
        Self { replayed: None, ..Self::of(submission) }
    }

    /// Writes them into the headers of an answer.
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

/// Sets a header to a text.
pub(super) fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}
