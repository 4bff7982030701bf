//! Manages API keys, which are shown once, stored as hashes, and valid until they expire or are revoked.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::error::ApiError;
use super::super::extract::{JsonBody, PathParams};
use super::super::reply::json;
use super::super::responses::{ReadErrors, WriteErrors};
use super::{AdminAuth, AdminState, OperatorAuth, iso};
use crate::clock::Timestamp;
use crate::ids::{KeyId, TenantId};
use crate::secrets::PlainSecret;
use crate::tenants::{Key, KeyHolder, NewKey};

/// The longest name of a key, in characters.
const NAME_CHARS_MAX: usize = 200;

/// The record of a key.
#[derive(Serialize, ToSchema)]
#[schema(as = Key)]
struct KeyAnswer {
    /// The id by which the key is revoked. It reveals nothing about the key.
    id: KeyId,
    /// What it is for.
    name: String,
    role: KeyRole,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    #[schema(format = DateTime)]
    revoked_at: Option<String>,
    /// The key itself, in the response to its creation only.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

/// What a key allows its holder to do.
#[derive(Clone, Copy, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum KeyRole {
    /// Call agents, and read, stop and delete tasks.
    #[default]
    Caller,
    /// The same, and manage the resources of the tenant.
    Admin,
    /// Operate the gateway.
    Operator,
}

/// A key to create.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyAsked {
    /// What it is for, in at most 200 characters.
    #[serde(default)]
    #[schema(max_length = 200)]
    name: String,
    /// For a tenant's key `caller` (the default) or `admin`. For an operator's key it can be omitted.
    #[serde(default)]
    role: Option<KeyRole>,
    /// When it expires: an RFC 3339 time in the future. If omitted, it does not expire.
    #[serde(default)]
    #[schema(format = DateTime)]
    expires_at: Option<String>,
}

impl KeyAnswer {
    fn new(key: Key) -> Self {
        let role = match key.holder {
            KeyHolder::Tenant(_) => KeyRole::Caller,
            KeyHolder::Admin(_) => KeyRole::Admin,
            KeyHolder::Operator => KeyRole::Operator,
        };
        Self {
            id: key.id,
            name: key.name,
            role,
            created_at: key.created_at.iso(),
            expires_at: iso(key.expires_at),
            revoked_at: iso(key.revoked_at),
            key: None,
        }
    }
}

/// List the keys of a tenant, oldest first.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/keys",
    operation_id = "admin_list_keys", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id")),
    responses((status = 200, body = Vec<KeyAnswer>), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
) -> Result<Response, ApiError> {
    list_keys(&state, Some(admin.tenant())).await
}

/// Create a key of a tenant.
///
/// The key is shown in this response only.
#[utoipa::path(post, path = "/admin/tenants/{tenant}/keys",
    operation_id = "admin_create_key", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id")), request_body = KeyAsked,
    responses((status = 201, body = KeyAnswer), WriteErrors), security(("admin_key" = [])))]
pub(super) async fn create(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    JsonBody(asked): JsonBody<KeyAsked>,
) -> Result<Response, ApiError> {
    let holder = match asked.role.unwrap_or_default() {
        KeyRole::Caller => KeyHolder::Tenant(admin.tenant()),
        KeyRole::Admin => KeyHolder::Admin(admin.tenant()),
        KeyRole::Operator => {
            return Err(ApiError::caller(422, "a tenant's key is of the role caller or admin"));
        }
    };
    let secret = PlainSecret::random_api_key().map_err(|_| ApiError::host("no randomness"))?;
    create_key(&state, holder, asked, &secret).await
}

/// Revoke a key of a tenant, with immediate effect.
#[utoipa::path(delete, path = "/admin/tenants/{tenant}/keys/{key}",
    operation_id = "admin_revoke_key", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("key" = String, Path, description = "The key's id")),
    responses((status = 204, description = "Deleted."), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn revoke(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    revoke_key(&state, Some(admin.tenant()), &path_params).await
}

/// List the operators' keys, oldest first.
///
/// The data folder's own operator key is not in the list.
#[utoipa::path(get, path = "/admin/operator-keys",
    operation_id = "admin_list_operator_keys", tag = "admin",
    responses((status = 200, body = Vec<KeyAnswer>), ReadErrors), security(("operator_key" = [])))]
pub(super) async fn list_operators(
    State(state): State<Arc<AdminState>>,
    _operator: OperatorAuth,
) -> Result<Response, ApiError> {
    list_keys(&state, None).await
}

/// Create an operator's key.
///
/// The key is shown in this response only.
#[utoipa::path(post, path = "/admin/operator-keys",
    operation_id = "admin_create_operator_key", tag = "admin", request_body = KeyAsked,
    responses((status = 201, body = KeyAnswer), WriteErrors), security(("operator_key" = [])))]
pub(super) async fn create_operators(
    State(state): State<Arc<AdminState>>,
    _operator: OperatorAuth,
    JsonBody(asked): JsonBody<KeyAsked>,
) -> Result<Response, ApiError> {
    if !matches!(asked.role, None | Some(KeyRole::Operator)) {
        return Err(ApiError::caller(422, "an operator's key is of the role operator"));
    }
    let secret = PlainSecret::random_operator_key().map_err(|_| ApiError::host("no randomness"))?;
    create_key(&state, KeyHolder::Operator, asked, &secret).await
}

/// Revoke an operator's key, with immediate effect.
#[utoipa::path(delete, path = "/admin/operator-keys/{key}",
    operation_id = "admin_revoke_operator_key", tag = "admin",
    params(("key" = String, Path, description = "The key's id")),
    responses((status = 204, description = "Deleted."), ReadErrors), security(("operator_key" = [])))]
pub(super) async fn revoke_operators(
    State(state): State<Arc<AdminState>>,
    _operator: OperatorAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    revoke_key(&state, None, &path_params).await
}

async fn list_keys(state: &AdminState, tenant: Option<TenantId>) -> Result<Response, ApiError> {
    let keys = state.store.keys(tenant).await?;
    let answer: Vec<_> = keys.into_iter().map(KeyAnswer::new).collect();
    Ok(json(StatusCode::OK, &answer))
}

async fn create_key(
    state: &AdminState,
    holder: KeyHolder,
    asked: KeyAsked,
    secret: &PlainSecret,
) -> Result<Response, ApiError> {
    if asked.name.chars().count() > NAME_CHARS_MAX {
        return Err(ApiError::caller(422, "name is longer than 200 characters"));
    }
    if asked.name.chars().any(char::is_control) {
        return Err(ApiError::caller(422, "name holds a control character"));
    }
    let now = state.clock.now();
    let expires_at = asked.expires_at.as_deref().map(|text| {
        let at = Timestamp::parse_rfc3339(text).filter(|at| *at > now);
        at.ok_or_else(|| ApiError::caller(422, "expires_at is not an RFC 3339 time in the future"))
    });
    let expires_at = expires_at.transpose()?;
    let id = KeyId::random();
    let (hash, name) = (secret.hash(), asked.name);
    let key = NewKey { id, hash, holder, name: name.clone(), expires_at };
    state.store.put_key(key).await?;
    let key = Key { id, holder, name, created_at: now, expires_at, revoked_at: None };
    let answer = KeyAnswer { key: Some(secret.reveal().to_owned()), ..KeyAnswer::new(key) };
    Ok(json(StatusCode::CREATED, &answer))
}

async fn revoke_key(
    state: &AdminState,
    tenant: Option<TenantId>,
    path_params: &PathParams,
) -> Result<Response, ApiError> {
    let key: KeyId = path_params.id("key", "Key")?;
    if !state.store.revoke_key(tenant, key).await? {
        return Err(ApiError::not_found("Key"));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}
