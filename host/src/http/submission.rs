//! Submits resolved calls and waits for their tasks, for the surfaces that start runs. Conflicting idempotency keys
//! are rejected, and every response names its task.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use super::layers::record_task;
use super::task_headers::TaskHeaders;
use crate::intake::AgentCall;
use crate::runs::{Conflict, Runs, Submission};
use crate::tasks::Task;

/// Submits calls and waits for their tasks.
#[derive(Debug, Clone)]
pub(super) struct Submitter {
    pub(super) runs: Runs,
    /// Maximum time that a synchronous caller waits.
    pub(super) sync_wait_max: Duration,
    /// Ends all waits when cancelled.
    pub(super) shutdown_deadline: CancellationToken,
}

impl Submitter {
    /// Submits a call. `waits` says whether its caller waits for the task to end.
    ///
    /// # Errors
    /// If the call cannot be stored; 422 if its idempotency key was used with a different request; 409 if the caller
    /// waits and the original request is still running.
    pub(super) async fn submit(
        &self,
        call: AgentCall,
        waits: bool,
    ) -> Result<Submission, ApiError> {
        let submission = self.runs.submit(call, waits).await?;
        record_task(submission.task);
        match submission.conflict(&self.runs, waits).await? {
            None => Ok(submission),
            Some(Conflict::OtherRequest) => {
                let detail = "this Idempotency-Key was used before with a different request";
                Err(ApiError::caller(422, detail))
            }
            Some(Conflict::StillRunning) => {
                let error = ApiError::caller(409, "the original request is still running");
                // Says where the result of the original request will be.
                let headers = TaskHeaders::location_only(&submission);
                Err(error.retry_after(1).about_task(headers))
            }
        }
    }

    /// Returns the task of an accepted call once it has ended, or its current state once the wait is over.
    ///
    /// # Errors
    /// If the store cannot be read; 404 if the task was deleted in the meantime. The response still names the task.
    pub(super) async fn wait(&self, submission: &mut Submission) -> Result<Task, ApiError> {
        let limit = submission.wanted.prefer.effective_wait(self.sync_wait_max);
        let waited = submission.wait(&self.runs, limit, &self.shutdown_deadline).await;
        let headers = TaskHeaders::from_submission(submission);
        let task =
            waited.map_err(|error| ApiError::from(error).not_retryable().about_task(headers))?;
        task.ok_or_else(|| ApiError::not_found("Task").about_task(headers))
    }
}
