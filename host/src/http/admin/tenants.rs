//! Manages tenants: operators create and list them, and an admin reads its own.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::error::ApiError;
use super::super::extract::{JsonBody, header_key};
use super::super::reply::json;
use super::super::responses::{ReadErrors, WriteErrors};
use super::{AdminAuth, AdminState, OperatorAuth};
use crate::ids::{Name, TenantId};
use crate::tenants::Tenant;

/// A tenant.
#[derive(Serialize, ToSchema)]
#[schema(as = Tenant)]
struct TenantAnswer {
    /// The tenant's id, which is `organization_id` in the API for callers.
    id: TenantId,
    name: Name,
    #[schema(format = DateTime)]
    created_at: String,
}

impl TenantAnswer {
    fn new(tenant: Tenant) -> Self {
        Self { id: tenant.id, name: tenant.name, created_at: tenant.created_at.iso() }
    }
}

/// List the tenants that the key manages, by name.
///
/// An operator's key manages all tenants, an admin's key its own.
#[utoipa::path(get, path = "/admin/tenants", operation_id = "admin_list_tenants", tag = "admin",
    responses((status = 200, body = Vec<TenantAnswer>), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let key = header_key(&headers)?;
    let tenants = match state.access.admin_scope(key.as_deref()).await? {
        None => state.store.tenants().await?,
        Some(own) => state.store.tenant(own.tenant()).await?.into_iter().collect(),
    };
    let answer: Vec<_> = tenants.into_iter().map(TenantAnswer::new).collect();
    Ok(json(StatusCode::OK, &answer))
}

/// A tenant to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTenant {
    /// The name, of 1 to 128 bytes. It is unique among the tenants.
    name: Name,
}

/// Create a tenant.
///
/// If the name is taken, the response is 409.
#[utoipa::path(post, path = "/admin/tenants",
    operation_id = "admin_create_tenant", tag = "admin", request_body = NewTenant,
    responses((status = 201, body = TenantAnswer), WriteErrors), security(("operator_key" = [])))]
pub(super) async fn create(
    State(state): State<Arc<AdminState>>,
    _operator: OperatorAuth,
    JsonBody(new): JsonBody<NewTenant>,
) -> Result<Response, ApiError> {
    let id = TenantId::random();
    state.store.create_tenant(id, &new.name).await?;
    answer(&state, id, StatusCode::CREATED).await
}

/// Read a tenant.
#[utoipa::path(get, path = "/admin/tenants/{tenant}",
    operation_id = "admin_read_tenant", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id")),
    responses((status = 200, body = TenantAnswer), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn read(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
) -> Result<Response, ApiError> {
    answer(&state, admin.tenant(), StatusCode::OK).await
}

async fn answer(
    state: &AdminState,
    id: TenantId,
    status: StatusCode,
) -> Result<Response, ApiError> {
    let tenant = state.store.tenant(id).await?;
    let tenant = tenant.ok_or_else(|| ApiError::not_found("Tenant"))?;
    Ok(json(status, &TenantAnswer::new(tenant)))
}
