//! The xpander-compatible REST API (CONTRACT section 2): each route under `/v1`, again without the prefix, and under
//! the names that xpander's SDK uses. All of them share one implementation.

mod agents;
mod approvals;
pub(super) mod follow;
mod invoke;
pub(super) mod tasks;

use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::aliases::Aliases;
use super::body::BodyReader;
use super::concurrency::Operations;
use super::error::ApiError;
use super::state::HttpState;
use super::submission::Submitter;
use crate::access::Access;
use crate::access::approval_links::ApprovalLinks;
use crate::ids::{TaskId, TenantId, ThreadId};
use crate::plugins::Plugins;
use crate::runs::Runs;
use crate::store::Store;
use crate::tasks::Task;
use follow::EventStreams;

/// Maximum number of items on a page, and the default.
const PER_PAGE_MAX: u32 = 100;
const PER_PAGE: u32 = 20;

/// The services that the REST routes use.
#[derive(Debug)]
pub(super) struct RestState {
    pub(super) access: Access,
    pub(super) bodies: BodyReader,
    pub(super) plugins: Plugins,
    pub(super) store: Store,
    pub(super) runs: Runs,
    pub(super) submitter: Submitter,
    pub(super) events: EventStreams,
    pub(super) operations: Operations,
    pub(super) approval_links: ApprovalLinks,
    /// The base of URLs in responses, without a trailing slash.
    pub(super) public_url: String,
    pub(super) shutdown_deadline: CancellationToken,
}

/// All REST routes.
pub(super) fn router() -> OpenApiRouter<HttpState> {
    let documented = OpenApiRouter::new()
        .routes(routes!(agents::list))
        .routes(routes!(agents::read))
        .routes(routes!(invoke::invoke_sync))
        .routes(routes!(invoke::invoke_async))
        .routes(routes!(invoke::invoke_stream))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::read, tasks::remove))
        .routes(routes!(tasks::stop))
        .routes(routes!(tasks::thread))
        .routes(routes!(tasks::full_thread))
        .routes(routes!(approvals::list))
        .routes(routes!(approvals::approve))
        .routes(routes!(approvals::deny))
        .routes(routes!(agents::list_array))
        .routes(routes!(agents::call_tool))
        .routes(routes!(tasks::history))
        .routes(routes!(tasks::update))
        .routes(routes!(tasks::activity))
        .routes(routes!(follow::events));
    Aliases::new(documented)
        .without_prefix("/v1/agents", get(agents::list))
        .without_prefix("/v1/agents/{id}", get(agents::read))
        .without_prefix("/v1/agents/{id}/invoke", post(invoke::invoke_sync))
        .without_prefix("/v1/agents/{id}/invoke/async", post(invoke::invoke_async))
        .without_prefix("/v1/agents/{id}/invoke/stream", post(invoke::invoke_stream))
        .without_prefix("/v1/tasks", get(tasks::list))
        .without_prefix("/v1/tasks/{id}", get(tasks::read).delete(tasks::remove))
        .without_prefix("/v1/tasks/{id}/stop", post(tasks::stop))
        .without_prefix("/v1/tasks/{id}/thread", get(tasks::thread))
        .without_prefix("/v1/tasks/{id}/thread/full", get(tasks::full_thread))
        .alias(
            "/v1/agents/{id}/invoke-async",
            "/v1/agents/{id}/invoke/async",
            post(invoke::invoke_async),
        )
        .alias(
            "/v1/agents/{id}/invoke-stream",
            "/v1/agents/{id}/invoke/stream",
            post(invoke::invoke_stream),
        )
        .without_prefix("/v1/agents/{id}/invoke-async", post(invoke::invoke_async))
        .without_prefix("/v1/agents/{id}/invoke-stream", post(invoke::invoke_stream))
        .alias(
            "/v1/agents/{id}/operations/{tool}",
            "/agents/{id}/operations/{tool}",
            post(agents::call_tool),
        )
        .method_alias("/agent-execution/{id}", "post", ("/v1/agents/{id}/invoke/async", "post"))
        .method_alias("/agent-execution/{id}", "delete", ("/v1/tasks/{id}/stop", "post"))
        .route("/agent-execution/{id}", post(invoke::invoke_async).delete(tasks::stop))
        .method_alias("/agent-execution/{id}/status", "get", ("/v1/tasks/{id}", "get"))
        .route("/agent-execution/{id}/status", get(tasks::read))
        .into_router()
}

/// Finds a tenant's task by its id, or by the name of an API thread, which stands for the thread's newest task:
/// xpander calls a thread a task. Threads of channels are not found by name, because the channel's senders choose the
/// name.
///
/// # Errors
/// If the store cannot be read; 404 if there is no such task.
pub(super) async fn find(
    store: &Store,
    tenant: TenantId,
    name: Option<&str>,
) -> Result<Task, ApiError> {
    let not_found = || ApiError::not_found("Task");
    let name = name.ok_or_else(not_found)?;
    if let Ok(id) = name.parse::<TaskId>()
        && let Some(task) = store.task(tenant, id).await?
    {
        return Ok(task);
    }
    let thread: ThreadId = name.parse().map_err(|_| not_found())?;
    let id = store.newest_in_thread(tenant, &thread).await?.ok_or_else(not_found)?;
    store.task(tenant, id).await?.ok_or_else(not_found)
}

/// Validates the number and length of a page, or returns their defaults.
///
/// # Errors
/// 422 if one is out of range.
fn page(page: Option<u32>, per_page: Option<u32>) -> Result<(u32, u32), ApiError> {
    let (page, per_page) = (page.unwrap_or(1), per_page.unwrap_or(PER_PAGE));
    if page == 0 {
        return Err(ApiError::caller(422, "page begins at 1"));
    }
    if !(1..=PER_PAGE_MAX).contains(&per_page) {
        return Err(ApiError::caller(422, format!("per_page can be 1 to {PER_PAGE_MAX}")));
    }
    Ok((page, per_page))
}
