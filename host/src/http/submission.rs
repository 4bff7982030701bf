//! Submitting a resolved call and waiting for its task, as all surfaces that start runs do it: conflicts of
//! idempotency keys are refused, and every answer says which task it is about.

use std::time::Duration;

use axum::response::Response;
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::marks::{Marks, set};
use crate::intake::AgentCall;
use crate::runs::{Conflict, Runs, Submission};
use crate::tasks::Task;

/// Submits calls and waits for their tasks.
#[derive(Debug, Clone)]
pub(super) struct Submitter {
    pub(super) runs: Runs,
    /// How long a synchronous caller waits at most.
    pub(super) sync_wait_max: Duration,
    /// Ends all waiting.
    pub(super) shutdown_deadline: CancellationToken,
}

impl Submitter {
    /// Accepts a call. `waits` says whether its caller will [`Self::wait`].
    ///
    /// # Errors
    /// Where it could not be stored, and where its idempotency key cannot answer it.
    pub(super) async fn submit(
        &self,
        call: AgentCall,
        waits: bool,
    ) -> Result<Submission, ApiError> {
        let submission = self.runs.submit(call, waits).await?;
        tracing::Span::current().record("task", tracing::field::display(submission.task));
        match submission.conflict(&self.runs, waits).await? {
            None => Ok(submission),
            Some(Conflict::OtherRequest) => {
                let detail = "this Idempotency-Key was used before with a different request";
                Err(ApiError::caller(422, detail))
            }
            Some(Conflict::StillRunning) => {
                let error = ApiError::caller(409, "the original request is still running");
                // Where to look for the answer of the one that is still running.
                let marks = Marks::where_it_is(&submission);
                Err(error.retry_after(1).about_task(marks))
            }
        }
    }

    /// The task of an accepted call once it has ended, or as it is when its caller has waited long enough.
    ///
    /// # Errors
    /// Where the store could not be asked, or the task was deleted meanwhile. The caller still learns which task it was.
    pub(super) async fn wait(&self, submission: &mut Submission) -> Result<Task, ApiError> {
        let limit = submission.wanted.prefer.effective_wait(self.sync_wait_max);
        let waited = submission.wait(&self.runs, limit, &self.shutdown_deadline).await;
        let marks = Marks::of(submission);
        let task =
            waited.map_err(|error| ApiError::from(error).after_the_run().about_task(marks))?;
        task.ok_or_else(|| ApiError::not_found("Task").about_task(marks))
    }

    /// Says which preference of the waiting was applied (RFC 7240 section 3).
    pub(super) fn mark_preference(
        &self,
        submission: &Submission,
        mut response: Response,
    ) -> Response {
        if let Some(applied) = submission.wanted.prefer.applied(self.sync_wait_max) {
            set(response.headers_mut(), "preference-applied", &applied);
        }
        response
    }
}

/// Says where the task is, and whether it is an earlier one.
pub(super) fn mark(submission: &Submission, mut response: Response) -> Response {
    Marks::of(submission).set(response.headers_mut());
    response
}
