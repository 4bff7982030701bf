//! Manages a tenant's plugins: components, and the grants files that say what they may do.

mod installation;
pub(super) mod versions;

use std::sync::Arc;

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::body::BodyLimits;
use super::super::budget::Sender;
use super::super::error::{ApiError, ErrorBody};
use super::super::extract::PathParams;
use super::super::openapi::Binary;
use super::super::reply::json;
use super::super::responses::{ReadErrors, WriteErrors};
use super::{AdminAuth, AdminState, iso};
use crate::access::AdminCaller;
use crate::ids::PluginName;
use crate::plugins::{COMPONENT_BYTES_MAX, Installed, PluginUnavailable};
use crate::tenants::{InstalledPlugin, Installer};
use installation::Installation;
use versions::SignerAnswer;

/// How long the transfer of a component may take.
const COMPONENT_TIME_MAX: Duration = Duration::from_secs(300);

/// The most bytes of a body besides a component of the maximum size.
const FRAMING_BYTES_MAX: usize = 1 << 20;

/// The longest grants file, in bytes.
const GRANTS_BYTES_MAX: usize = 256 << 10;

/// A plugin of a tenant.
#[derive(Serialize, ToSchema)]
#[schema(as = Plugin)]
struct PluginAnswer {
    name: PluginName,
    /// SHA-256 of the component. Null if the plugin ships with the gateway.
    digest: Option<String>,
    #[schema(format = DateTime)]
    installed_at: Option<String>,
    /// The publisher's name of this version. Null if it was not stated.
    version: Option<String>,
    /// The origin of the component, as stated at its installation: `file`, or a reference with the manifest's digest.
    /// Null if the plugin ships with the gateway.
    provenance: Option<String>,
    /// The signer. Null if the component is not signed, or ships with the gateway.
    signed_by: Option<SignerAnswer>,
    /// The roles that it can be used in. Only in the response to an installation or a rollback.
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<Vec<&'static str>>,
    /// Notes for the operator: what the plugin gets from an existing grants file, which grants are not in force and
    /// why, which grants and settings are missing, and which functions of a foreign component cannot be tools. Only
    /// in the response to an installation or a rollback.
    #[serde(skip_serializing_if = "Option::is_none")]
    notes: Option<Vec<String>>,
}

impl PluginAnswer {
    fn new(plugin: InstalledPlugin) -> Self {
        Self {
            name: plugin.name,
            digest: Some(plugin.digest.to_string()),
            installed_at: iso(Some(plugin.installed_at)),
            version: plugin.version,
            provenance: Some(plugin.provenance.to_string()),
            signed_by: plugin.signed.map(SignerAnswer::new),
            roles: None,
            notes: None,
        }
    }

    fn installed(installed: Installed) -> Self {
        let Installed { plugin, roles, notes } = installed;
        Self { roles: Some(roles), notes: Some(notes), ..Self::new(plugin) }
    }

    fn bundled(name: PluginName) -> Self {
        Self {
            name,
            digest: None,
            installed_at: None,
            version: None,
            provenance: None,
            signed_by: None,
            roles: None,
            notes: None,
        }
    }
}

/// List the plugins of a tenant: its own, and those that ship with the gateway.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/plugins",
    operation_id = "admin_list_plugins", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id")),
    responses((status = 200, body = Vec<PluginAnswer>), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
) -> Result<Response, ApiError> {
    let own = state.store.plugins(admin.tenant()).await?;
    let bundled = crate::plugins::bundled().filter(|name| !own.iter().any(|p| p.name == *name));
    let bundled: Vec<_> = bundled.map(PluginAnswer::bundled).collect();
    let own = own.into_iter().map(PluginAnswer::new);
    Ok(json(StatusCode::OK, &own.chain(bundled).collect::<Vec<_>>()))
}

/// Install a component as the current version of the plugin with this name.
///
/// The component is compiled and checked first.
#[utoipa::path(put, path = "/admin/tenants/{tenant}/plugins/{name}",
    operation_id = "admin_install_plugin", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The plugin's name")),
    request_body(content = Installation, content_type = "multipart/form-data"),
    responses((status = 200, body = PluginAnswer), WriteErrors,
              (status = 429, body = ErrorBody, description = "The tenant has too many installations in progress.")),
    security(("admin_key" = [])))]
pub(super) async fn install(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let name = name(&path_params)?;
    let busy = || {
        let detail = "two installations of the tenant are under way and take long; try again later";
        ApiError::caller(429, detail).retry_after(1)
    };
    // Acquired before the component is read, which may be large.
    let permit = state.plugins.install_permit(admin.tenant()).await.ok_or_else(busy)?;
    let (mut head, body) = request.into_parts();
    let component_bytes_max = usize::try_from(COMPONENT_BYTES_MAX).unwrap_or(usize::MAX);
    let limits =
        BodyLimits::new(component_bytes_max.saturating_add(FRAMING_BYTES_MAX), COMPONENT_TIME_MAX);
    let sender = Sender::from_head(&head);
    let body = state.bodies.read_within(limits, sender, &mut head, body).await?;
    let by = if admin.is_operator() { Installer::Operator } else { Installer::Admin };
    let (offered, grants) = installation::read_installation(&head.headers, body, by).await?;
    // The component stays in memory while it waits for a permit to be compiled, and while it is compiled.
    let mut charge = state.bodies.charge(sender);
    charge.grow_to(offered.component.len())?;
    if grants.is_some() {
        require_operator(&admin)?;
    }
    let plugins = state.plugins.clone();
    // Only this handler waits for it: if the caller disconnects, the compilation ends.
    let prepared = plugins.prepare(admin.tenant(), &name, offered, grants.as_deref()).await;
    let prepared = prepared.map_err(install_error)?;
    // A task of its own, so that a caller that disconnects leaves no installation half done.
    let installing = tokio::spawn(async move {
        let _held = (permit, charge);
        plugins.install_prepared(prepared).await
    });
    let installed = installing.await.map_err(|_| ApiError::host("the installation was cut off"))?;
    Ok(json(StatusCode::OK, &PluginAnswer::installed(installed.map_err(install_error)?)))
}

/// Delete a plugin of a tenant with all its versions.
///
/// Its grants file stays, for a later installation under the same name.
#[utoipa::path(delete, path = "/admin/tenants/{tenant}/plugins/{name}",
    operation_id = "admin_remove_plugin", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The plugin's name")),
    responses((status = 204, description = "Deleted."), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn remove(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    if !state.plugins.remove(admin.tenant(), &name(&path_params)?).await? {
        return Err(ApiError::not_found("Plugin"));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Download the current component of a plugin of a tenant.
///
/// The plugin may be the tenant's own, or one that ships with the gateway.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/plugins/{name}/component",
    operation_id = "admin_read_component", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = Binary, content_type = "application/wasm"), ReadErrors,
              (status = 500, body = ErrorBody, description = "The plugin could not be loaded.")),
    security(("admin_key" = [])))]
pub(super) async fn component(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let component = state.plugins.component(admin.tenant(), &name(&path_params)?).await;
    let component = component.map_err(|error| match error {
        PluginUnavailable::Unknown(_) => ApiError::not_found("Plugin"),
        error => error.into(),
    })?;
    let wasm = HeaderValue::from_static("application/wasm");
    Ok((StatusCode::OK, [(CONTENT_TYPE, wasm)], component).into_response())
}

/// Read what a plugin of a tenant may do: its grants file, as the operator wrote it.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/plugins/{name}/grants",
    operation_id = "admin_read_grants", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = String, content_type = "application/toml"), ReadErrors),
    security(("operator_key" = [])))]
pub(super) async fn grants(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    require_operator(&admin)?;
    let name = installed_name(&state, &admin, &path_params).await?;
    let text = state.plugins.grants_text(admin.tenant(), &name).await?;
    Ok(toml_answer(text))
}

/// Replace the grants file of a plugin of a tenant, which says what it may do.
///
/// The grants take effect within five seconds. If a tenant's admin installed the current component, the file must say
/// which component it is for; otherwise the response is 422, and names the missing line. The response is the file as
/// it is now.
#[utoipa::path(put, path = "/admin/tenants/{tenant}/plugins/{name}/grants",
    operation_id = "admin_replace_grants", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The plugin's name")),
    request_body(content((String = "application/toml"), (String = "text/plain"))),
    responses((status = 200, body = String, content_type = "application/toml"), WriteErrors),
    security(("operator_key" = [])))]
pub(super) async fn replace_grants(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    require_operator(&admin)?;
    let name = installed_name(&state, &admin, &path_params).await?;
    let (mut head, body) = request.into_parts();
    let limits = BodyLimits::new(GRANTS_BYTES_MAX, Duration::from_secs(30));
    let body = state.bodies.read_within(limits, Sender::from_head(&head), &mut head, body).await?;
    let text = String::from_utf8(body.into())
        .map_err(|_| ApiError::caller(400, "the body is not valid UTF-8"))?;
    state.plugins.put_grants(admin.tenant(), &name, &text).await.map_err(install_error)?;
    Ok(toml_answer(text))
}

fn name(path_params: &PathParams) -> Result<PluginName, ApiError> {
    path_params.id("name", "Plugin")
}

/// Maps an error to 422 if the caller's submission caused it, else to an error of the gateway.
fn install_error(error: PluginUnavailable) -> ApiError {
    if error.is_the_callers() {
        return ApiError::caller(422, error.to_string());
    }
    ApiError::from(error)
}

fn require_operator(admin: &AdminCaller) -> Result<(), ApiError> {
    if admin.is_operator() {
        return Ok(());
    }
    Err(ApiError::caller(403, "what a plugin may do is for an operator to say"))
}

async fn installed_name(
    state: &AdminState,
    admin: &AdminCaller,
    path_params: &PathParams,
) -> Result<PluginName, ApiError> {
    let name = name(path_params)?;
    if !state.plugins.is_installed(admin.tenant(), &name).await? {
        return Err(ApiError::not_found("Plugin"));
    }
    Ok(name)
}

fn toml_answer(text: String) -> Response {
    let toml = HeaderValue::from_static("application/toml");
    (StatusCode::OK, [(CONTENT_TYPE, toml)], text).into_response()
}
