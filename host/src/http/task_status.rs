//! `GET /api/task_status?task_id=`: DocsGPT-compatible polling (CONTRACT D4). The id is the capability.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use http::StatusCode;

use super::error::{ApiError, RefusalBody};
use super::reply::json_answer;
use crate::answer;
use crate::intake;
use crate::store::Store;

/// The status of a triggered task.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "documentation: the answer is written as JSON")]
pub(super) struct TaskStatus {
    status: Progress,
    /// On `SUCCESS`, the answer, nested as in DocsGPT's API; on `FAILURE`, a sentence.
    #[schema(value_type = serde_json::Value)]
    result: Option<serde_json::Value>,
}

/// The progress of a task.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "UPPERCASE")]
#[expect(dead_code, reason = "documentation: the answer is written as JSON")]
enum Progress {
    Pending,
    Started,
    Success,
    Failure,
}

/// The task to read.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "documentation: the query is read by hand, for errors in DocsGPT's shape"
)]
pub(super) struct StatusQuery {
    /// The id from the response to the trigger.
    task_id: String,
}

/// Read the status of a triggered task.
///
/// An unknown id has the status `PENDING`.
#[utoipa::path(get, path = "/api/task_status",
    operation_id = "read_task_status", tag = "DocsGPT", params(StatusQuery),
    responses((status = 200, body = TaskStatus),
              (status = 400, body = RefusalBody, description = "`task_id` is missing."),
              (status = 503, body = RefusalBody, description = "The store is temporarily unavailable.")),
    security(()))]
pub(super) async fn read(
    State(store): State<Store>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = query.unwrap_or_default();
    let pairs = intake::decode_query(&query).map_err(ApiError::from);
    let pairs = pairs.map_err(ApiError::shaped_as_docsgpt)?;
    let id = pairs.into_iter().find(|(name, id)| name == "task_id" && !id.is_empty());
    let (_, id) =
        id.ok_or_else(|| ApiError::caller(400, "Task ID is required").shaped_as_docsgpt())?;
    let found = match id.parse() {
        Ok(id) => store.task_with_steps_by_id(id).await,
        // An invalid id is treated like an unknown one.
        Err(_) => Ok(None),
    };
    let found = found.map_err(|error| ApiError::from(error).shaped_as_docsgpt())?;
    Ok(json_answer(StatusCode::OK, answer::docsgpt::task_status(found.as_ref()).to_string()))
}
