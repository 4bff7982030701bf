//! Approvals, for the keys of a tenant.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::Request;

use super::super::approvals::{self, ApprovalsQuery, Comment};
use super::super::error::ApiError;
use super::super::extract::{PathParams, QueryParams, TenantAuth};
use super::super::responses::{ReadErrors, WriteErrors};
use super::RestState;
use crate::answer::approval::ApprovalAnswer;
use crate::approval::DecidedBy;

/// List the newest approvals of the key's organization: tool calls that a person decides about.
///
/// At most 100 are listed.
#[utoipa::path(get, path = "/v1/approvals",
    operation_id = "list_approvals", tag = "approvals", params(ApprovalsQuery),
    responses((status = 200, body = Vec<ApprovalAnswer>), ReadErrors), security(("api_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    QueryParams(query): QueryParams<ApprovalsQuery>,
) -> Result<Response, ApiError> {
    approvals::list(&state.store, &state.approval_links, tenant.tenant(), query).await
}

/// Approve a tool call. Its task goes on.
///
/// The first decision counts: if there was one before, or the time is up, the response is 409.
#[utoipa::path(post, path = "/v1/approvals/{approval}/approve",
    operation_id = "approve", tag = "approvals",
    params(("approval" = String, Path, description = "The approval's id")), request_body = Comment,
    responses((status = 200, body = ApprovalAnswer), WriteErrors), security(("api_key" = [])))]
pub(super) async fn approve(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let by = (tenant.tenant(), DecidedBy::Key);
    approvals::decide(&state.runs, &state.bodies, by, &path_params, true, request).await
}

/// Deny a tool call. Its task goes on without it.
///
/// The first decision counts: if there was one before, or the time is up, the response is 409.
#[utoipa::path(post, path = "/v1/approvals/{approval}/deny",
    operation_id = "deny", tag = "approvals",
    params(("approval" = String, Path, description = "The approval's id")), request_body = Comment,
    responses((status = 200, body = ApprovalAnswer), WriteErrors), security(("api_key" = [])))]
pub(super) async fn deny(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let by = (tenant.tenant(), DecidedBy::Key);
    approvals::decide(&state.runs, &state.bodies, by, &path_params, false, request).await
}
