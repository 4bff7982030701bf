//! Manages a tenant's secrets, which its plugins and channels use, and which are never shown again.

use std::sync::Arc;

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{Request, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use super::super::body::BodyLimits;
use super::super::budget::Sender;
use super::super::error::ApiError;
use super::super::extract::PathParams;
use super::super::reply::json;
use super::super::responses::{ReadErrors, WriteErrors};
use super::{AdminAuth, AdminState};
use crate::ids::SecretName;
use crate::secrets::{SECRET_BYTES_MAX, SecretUses};
use crate::tenants::Installer;
use crate::vault::{self, SecretFacts, VaultError};

/// The longest body, in bytes: JSON may escape each byte of a value as six (`\u0041`).
const BODY_BYTES_MAX: usize = 6 * SECRET_BYTES_MAX + 1_024;

/// A secret, without its value.
#[derive(Serialize, ToSchema)]
#[schema(as = Secret)]
struct SecretAnswer {
    name: SecretName,
    /// Whether the previous value is still accepted.
    rotating: bool,
    /// What it may be used for, by every channel and plugin that binds it.
    #[serde(rename = "use")]
    uses: SecretUses,
    /// The kind of key that set these uses: `operator` or `admin`. Omitted if that was not recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    set_by: Option<&'static str>,
    #[schema(format = DateTime)]
    updated_at: String,
}

impl SecretAnswer {
    fn new(secret: SecretFacts) -> Self {
        Self {
            name: secret.name,
            rotating: secret.rotating,
            uses: secret.uses,
            set_by: secret.set_by.map(Installer::as_str),
            updated_at: secret.updated_at.iso(),
        }
    }
}

/// A secret to store.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSecret {
    /// Its value: a text of 1 to 16,384 bytes.
    #[schema(value_type = String, min_length = 1, max_length = 16384, write_only)]
    value: SecretString,
    /// Whether the previous value is accepted until the next change.
    #[serde(default)]
    rotate: bool,
    /// What it may be used for, by every channel and plugin that binds it. If omitted, an existing secret keeps its
    /// uses, and a new one gets all but `sign`.
    #[serde(default, rename = "use")]
    uses: Option<SecretUses>,
}

/// List the secrets of a tenant, by name.
///
/// Their values are never shown.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/secrets",
    operation_id = "admin_list_secrets", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id")),
    responses((status = 200, body = Vec<SecretAnswer>), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
) -> Result<Response, ApiError> {
    let secrets = state.vault.list(admin.tenant()).await?;
    let secrets: Vec<_> = secrets.into_iter().map(SecretAnswer::new).collect();
    Ok(json(StatusCode::OK, &secrets))
}

/// Store a secret, or replace the value of the secret with this name.
///
/// Channels and plugins use it from their next call on, within its allowed uses. A tenant's admin may narrow the uses
/// that an operator has set, but not widen them: 403.
#[utoipa::path(put, path = "/admin/tenants/{tenant}/secrets/{name}",
    operation_id = "admin_replace_secret", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The secret's name")),
    request_body = NewSecret,
    responses((status = 200, body = SecretAnswer), WriteErrors), security(("admin_key" = [])))]
pub(super) async fn replace(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let name: SecretName = path_params.id("name", "Secret")?;
    let secret = read_secret(&state, request).await?;
    let value = Zeroizing::new(secret.value.expose_secret().as_bytes().to_vec());
    let by = if admin.is_operator() { Installer::Operator } else { Installer::Admin };
    let new = vault::NewSecret { value, rotate: secret.rotate, uses: secret.uses, by };
    state.vault.put(admin.tenant(), &name, new).await?;
    let secrets = state.vault.list(admin.tenant()).await?;
    let stored = secrets.into_iter().find(|secret| secret.name == name);
    let stored = stored.ok_or_else(|| ApiError::not_found("Secret"))?;
    Ok(json(StatusCode::OK, &SecretAnswer::new(stored)))
}

/// Delete a secret.
///
/// Channels and plugins that need it fail from their next call on.
#[utoipa::path(delete, path = "/admin/tenants/{tenant}/secrets/{name}",
    operation_id = "admin_remove_secret", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The secret's name")),
    responses((status = 204, description = "Deleted."), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn remove(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let name: SecretName = path_params.id("name", "Secret")?;
    if !state.vault.delete(admin.tenant(), &name).await? {
        return Err(ApiError::not_found("Secret"));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Reads the body. Errors do not quote it, since the value of the secret may be in the wrong place.
async fn read_secret(state: &AdminState, request: Request<Body>) -> Result<NewSecret, ApiError> {
    let (mut head, body) = request.into_parts();
    let limits = BodyLimits::new(BODY_BYTES_MAX, Duration::from_secs(30));
    let body = state.bodies.read_within(limits, Sender::from_head(&head), &mut head, body).await?;
    let body = Zeroizing::new(Vec::from(body));
    // serde also accepts an array as a struct, with the fields in order.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(ApiError::caller(422, INVALID_BODY));
    }
    serde_json::from_slice(&body).map_err(|error| match error.classify() {
        serde_json::error::Category::Data => ApiError::caller(422, INVALID_BODY),
        _ => ApiError::caller(400, "the body is not valid JSON"),
    })
}

/// The error for a body of another shape.
const INVALID_BODY: &str = r#"the body is not as documented: {"value": a text, "rotate": true or false or left out, "use": a list of "verify", "compare", "sign" and "send", or left out}"#;

impl From<VaultError> for ApiError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::Size => Self::caller(422, error.to_string()),
            VaultError::UsesOfOperator(..) => Self::caller(403, error.to_string()),
            VaultError::Store(error) => error.into(),
            VaultError::Broken(..) | VaultError::Sealing(_) => {
                tracing::error!(%error, "a secret cannot be used");
                Self::host(error.to_string())
            }
        }
    }
}
