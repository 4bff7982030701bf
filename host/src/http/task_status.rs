//! `GET /api/task_status?task_id=`: DocsGPT-compatible polling (CONTRACT D4). The id is the capability.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use http::StatusCode;

use super::Handle;
use super::error::ApiError;
use super::webhook::json_answer;
use crate::{answer, intake};

/// `GET /api/task_status`.
pub(super) async fn read(
    State(handles): Handle,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = query.unwrap_or_default();
    let pairs = intake::decode_query(&query).map_err(ApiError::from);
    let pairs = pairs.map_err(ApiError::shaped_as_docsgpt)?;
    let id = pairs.into_iter().find(|(name, id)| name == "task_id" && !id.is_empty());
    let (_, id) =
        id.ok_or_else(|| ApiError::caller(400, "Task ID is required").shaped_as_docsgpt())?;
    let found = match id.parse() {
        Ok(id) => handles.store.task_with_steps_by_id(id).await,
        // What cannot be an id reads like one that is not known.
        Err(_) => Ok(None),
    };
    let found = found.map_err(|error| ApiError::from(error).shaped_as_docsgpt())?;
    Ok(json_answer(StatusCode::OK, answer::task_status(found.as_ref()).to_string()))
}
