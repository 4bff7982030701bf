//! Manages the models that a tenant brings along, with keys among its own secrets.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{Request, StatusCode};
use secrecy::SecretString;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::budget::Sender;
use super::super::error::ApiError;
use super::super::extract::PathParams;
use super::super::reply::json;
use super::super::responses::{ReadErrors, WriteErrors};
use super::agents::parse;
use super::{AdminAuth, AdminState};
use crate::agent::check_model_address;
use crate::ids::{ModelName, TenantId};
use crate::settings::check_model;
use crate::tenants::{Installer, ModelDefinition, TenantModel};

/// The largest definition, in bytes.
const DEFINITION_BYTES_MAX: usize = 16 << 10;

/// A model of a tenant.
#[derive(Serialize, ToSchema)]
#[schema(as = Model)]
struct ModelAnswer {
    /// The name that agents use.
    name: ModelName,
    /// The kind of key that set it: `operator` or `admin`.
    set_by: &'static str,
    #[schema(format = DateTime)]
    updated_at: String,
    definition: ModelDefinition,
}

impl ModelAnswer {
    fn new(model: TenantModel) -> Self {
        Self {
            name: model.name,
            set_by: model.set_by.as_str(),
            updated_at: model.updated_at.iso(),
            definition: model.definition,
        }
    }
}

/// List the models of a tenant, by name.
///
/// Those of the gateway's settings, which agents of all tenants can use, are not among them.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/models",
    operation_id = "admin_list_models", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id")),
    responses((status = 200, body = Vec<ModelAnswer>), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
) -> Result<Response, ApiError> {
    let models = state.store.models(admin.tenant()).await?;
    let models: Vec<ModelAnswer> = models.into_iter().map(ModelAnswer::new).collect();
    Ok(json(StatusCode::OK, &models))
}

/// Store a model, or replace the tenant's model with this name. The body is JSON or TOML.
///
/// Its key is one of the tenant's secrets, which must allow the use `send`. A model that a tenant's admin sets has an HTTPS
/// address on the public internet, and gets no secret that an operator has set. Runs use it from their next start on; it
/// takes precedence over a model of the settings with the same name.
#[utoipa::path(put, path = "/admin/tenants/{tenant}/models/{name}",
    operation_id = "admin_replace_model", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The model's name")),
    request_body = ModelDefinition,
    responses((status = 200, body = ModelAnswer), WriteErrors), security(("admin_key" = [])))]
pub(super) async fn replace(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
    request: Request<axum::body::Body>,
) -> Result<Response, ApiError> {
    let name = path_params.text("name").unwrap_or_default().parse::<ModelName>();
    let name = name.map_err(|error| ApiError::caller(422, error.to_string()))?;
    let (mut head, body) = request.into_parts();
    let body = state.bodies.read_body(Sender::from_head(&head), &mut head, body).await?;
    if body.len() > DEFINITION_BYTES_MAX {
        return Err(ApiError::caller(413, "a model is defined in at most 16 KiB"));
    }
    let definition: ModelDefinition = parse(&head.headers, body, "a model")?;
    let by = if admin.is_operator() { Installer::Operator } else { Installer::Admin };
    check(&state, admin.tenant(), &name, &definition, by).await?;
    state.store.put_model(admin.tenant(), &name, &definition, by).await?;
    let models = state.store.models(admin.tenant()).await?;
    let stored = models.into_iter().find(|model| model.name == name);
    let stored = stored.ok_or_else(|| ApiError::not_found("Model"))?;
    Ok(json(StatusCode::OK, &ModelAnswer::new(stored)))
}

/// Delete a model of a tenant.
///
/// Runs of agents that use it fail from then on, unless the settings have a model with this name.
#[utoipa::path(delete, path = "/admin/tenants/{tenant}/models/{name}",
    operation_id = "admin_remove_model", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The model's name")),
    responses((status = 204, description = "Deleted."), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn remove(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let name: ModelName = path_params.id("name", "Model")?;
    if !state.store.delete_model(admin.tenant(), &name).await? {
        return Err(ApiError::not_found("Model"));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Checks a definition like a model of the settings, and that an admin's model has a public address.
async fn check(
    state: &AdminState,
    tenant: TenantId,
    name: &ModelName,
    definition: &ModelDefinition,
    by: Installer,
) -> Result<(), ApiError> {
    let mut models = (*state.models).clone();
    for model in state.store.models(tenant).await? {
        let settings = model.definition.settings(SecretString::default());
        models.insert(model.name.to_string(), settings);
    }
    let settings = definition.settings(SecretString::default());
    models.insert(name.to_string(), settings.clone());
    check_model(name.as_str(), &settings, &models)
        .map_err(|error| ApiError::caller(422, error.to_string()))?;
    check_model_address(definition, by).map_err(|why| ApiError::caller(422, why))
}
