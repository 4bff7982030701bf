//! Approvals of a tenant, for its admins and for operators.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::Request;

use super::super::approvals::{self, ApprovalsQuery, Comment};
use super::super::error::ApiError;
use super::super::extract::{PathParams, QueryParams};
use super::super::responses::{ReadErrors, WriteErrors};
use super::{AdminAuth, AdminState};
use crate::access::AdminCaller;
use crate::answer::approval::ApprovalAnswer;
use crate::approval::DecidedBy;
use crate::ids::TenantId;

/// List the newest approvals of a tenant: tool calls that a person decides about.
///
/// At most 100 are listed.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/approvals",
    operation_id = "admin_list_approvals", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"), ApprovalsQuery),
    responses((status = 200, body = Vec<ApprovalAnswer>), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    QueryParams(query): QueryParams<ApprovalsQuery>,
) -> Result<Response, ApiError> {
    approvals::list(&state.store, &state.approval_links, admin.tenant(), query).await
}

/// Approve a tool call. Its task goes on.
///
/// The first decision counts: if there was one before, or the time is up, the response is 409.
#[utoipa::path(post, path = "/admin/tenants/{tenant}/approvals/{approval}/approve",
    operation_id = "admin_approve", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("approval" = String, Path, description = "The approval's id")), request_body = Comment,
    responses((status = 200, body = ApprovalAnswer), WriteErrors), security(("admin_key" = [])))]
pub(super) async fn approve(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    approvals::decide(&state.runs, &state.bodies, by(admin), &path_params, true, request).await
}

/// Deny a tool call. Its task goes on without it.
///
/// The first decision counts: if there was one before, or the time is up, the response is 409.
#[utoipa::path(post, path = "/admin/tenants/{tenant}/approvals/{approval}/deny",
    operation_id = "admin_deny", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("approval" = String, Path, description = "The approval's id")), request_body = Comment,
    responses((status = 200, body = ApprovalAnswer), WriteErrors), security(("admin_key" = [])))]
pub(super) async fn deny(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    approvals::decide(&state.runs, &state.bodies, by(admin), &path_params, false, request).await
}

fn by(admin: AdminCaller) -> (TenantId, DecidedBy) {
    let by = if admin.is_operator() { DecidedBy::Operator } else { DecidedBy::Admin };
    (admin.tenant(), by)
}
