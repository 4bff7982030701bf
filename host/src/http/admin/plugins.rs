//! Plugins of a tenant: components, and the files that say what they may do.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::body::{self, BodyLimits};
use super::super::error::ApiError;
use super::super::extract::{Named, json};
use super::super::responses::{ReadErrors, WriteErrors};
use super::super::{Handle, Handles};
use super::{ByAdmin, iso};
use crate::access::AdminCaller;
use crate::ids::PluginName;
use crate::plugins::COMPONENT_BYTES_MAX;

/// How long a component may take to arrive.
const COMPONENT_TIME_MAX: Duration = Duration::from_secs(300);

/// What a body has besides a component of the largest size.
const FRAMING_BYTES_MAX: usize = 1 << 20;

/// Longest grants file.
const GRANTS_BYTES_MAX: usize = 256 << 10;

/// A plugin of a tenant.
#[derive(Serialize, ToSchema)]
#[schema(as = Plugin)]
struct PluginAnswer {
    name: PluginName,
    /// SHA-256 of the component. Null: it ships with the gateway.
    digest: Option<String>,
    #[schema(format = DateTime)]
    installed_at: Option<String>,
    /// What it can be used as; in the answer to its installation.
    #[serde(skip_serializing_if = "Option::is_none")]
    roles: Option<Vec<&'static str>>,
}

/// The plugins of a tenant: its own, and those that ship with the gateway.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/plugins",
    operation_id = "admin_list_plugins", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id")),
    responses((status = 200, body = Vec<PluginAnswer>), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn list(
    State(handles): Handle,
    ByAdmin(admin): ByAdmin,
) -> Result<Response, ApiError> {
    let own = handles.store.plugins(admin.tenant()).await?;
    let bundled = crate::plugins::bundled().filter(|name| !own.iter().any(|p| p.name == *name));
    let bundled: Vec<_> = bundled
        .map(|name| PluginAnswer { name, digest: None, installed_at: None, roles: None })
        .collect();
    let own = own.into_iter().map(|plugin| PluginAnswer {
        name: plugin.name,
        digest: Some(plugin.digest.to_string()),
        installed_at: iso(Some(plugin.installed_at)),
        roles: None,
    });
    Ok(json(StatusCode::OK, &own.chain(bundled).collect::<Vec<_>>()))
}

/// The parts of an installation.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documentation: the parts are read one by one")]
pub(super) struct Installation {
    /// The component.
    #[schema(value_type = String, format = Binary)]
    component: Vec<u8>,
    /// What it may do: a TOML file. An operator's to say; left out, what is granted already stays.
    grants: Option<String>,
}

/// Installs a component under a name, or replaces the one of that name. It is compiled and checked first.
#[utoipa::path(put, path = "/admin/tenants/{tenant}/plugins/{name}",
    operation_id = "admin_install_plugin", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The plugin's name")),
    request_body(content = Installation, content_type = "multipart/form-data"),
    responses((status = 200, body = PluginAnswer), WriteErrors), security(("admin_key" = [])))]
pub(super) async fn install(
    State(handles): Handle,
    ByAdmin(admin): ByAdmin,
    named: Named,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let name = name(&named)?;
    let (head, body) = request.into_parts();
    let most = usize::try_from(COMPONENT_BYTES_MAX).unwrap_or(usize::MAX);
    let limits = BodyLimits::new(most.saturating_add(FRAMING_BYTES_MAX), COMPONENT_TIME_MAX);
    let body = body::read(&head.headers, body, limits).await?;
    let (component, grants) = parts(&head.headers, body).await?;
    if grants.is_some() {
        may_grant(&admin)?;
    }
    let installed =
        handles.plugins.install(admin.tenant(), &name, component, grants.as_deref()).await;
    let (plugin, roles) = installed.map_err(|error| match error {
        crate::plugins::PluginUnavailable::Store(error) => ApiError::from(error),
        wrong if wrong.is_the_callers() => ApiError::caller(422, wrong.to_string()),
        ours => ApiError::from(ours),
    })?;
    let answer = PluginAnswer {
        name: plugin.name,
        digest: Some(plugin.digest.to_string()),
        installed_at: iso(Some(plugin.installed_at)),
        roles: Some(roles),
    };
    Ok(json(StatusCode::OK, &answer))
}

/// Forgets a plugin of a tenant. What it was granted stays in its file, for whoever installs it again.
#[utoipa::path(delete, path = "/admin/tenants/{tenant}/plugins/{name}",
    operation_id = "admin_remove_plugin", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The plugin's name")),
    responses((status = 204, description = "It is gone"), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn remove(
    State(handles): Handle,
    ByAdmin(admin): ByAdmin,
    named: Named,
) -> Result<Response, ApiError> {
    if !handles.plugins.remove(admin.tenant(), &name(&named)?).await? {
        return Err(ApiError::not_found("Plugin"));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What a plugin of a tenant may do, as the operator wrote it.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/plugins/{name}/grants",
    operation_id = "admin_read_grants", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = String, content_type = "application/toml"), ReadErrors),
    security(("operator_key" = [])))]
pub(super) async fn grants(
    State(handles): Handle,
    ByAdmin(admin): ByAdmin,
    named: Named,
) -> Result<Response, ApiError> {
    may_grant(&admin)?;
    let name = installed(&handles, &admin, &named).await?;
    let text = handles.plugins.grants_text(admin.tenant(), &name)?;
    Ok(toml_answer(text))
}

/// Says what a plugin of a tenant may do. It holds within five seconds.
#[utoipa::path(put, path = "/admin/tenants/{tenant}/plugins/{name}/grants",
    operation_id = "admin_replace_grants", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The plugin's name")),
    request_body(content((String = "application/toml"), (String = "text/plain"))),
    responses((status = 200, body = String, content_type = "application/toml"), WriteErrors),
    security(("operator_key" = [])))]
pub(super) async fn replace_grants(
    State(handles): Handle,
    ByAdmin(admin): ByAdmin,
    named: Named,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    may_grant(&admin)?;
    let name = installed(&handles, &admin, &named).await?;
    let (head, body) = request.into_parts();
    let limits = BodyLimits::new(GRANTS_BYTES_MAX, Duration::from_secs(30));
    let body = body::read(&head.headers, body, limits).await?;
    let text = String::from_utf8(body.into())
        .map_err(|_| ApiError::caller(400, "the body is not valid UTF-8"))?;
    handles.plugins.put_grants(admin.tenant(), &name, &text).map_err(|error| {
        if error.is_the_callers() {
            ApiError::caller(422, error.to_string())
        } else {
            ApiError::from(error)
        }
    })?;
    Ok(toml_answer(text))
}

fn name(named: &Named) -> Result<PluginName, ApiError> {
    named.id("name", "Plugin")
}

fn may_grant(admin: &AdminCaller) -> Result<(), ApiError> {
    if admin.is_operator() {
        return Ok(());
    }
    Err(ApiError::caller(403, "what a plugin may do is for an operator to say"))
}

async fn installed(
    handles: &Handles,
    admin: &AdminCaller,
    named: &Named,
) -> Result<PluginName, ApiError> {
    let name = name(named)?;
    if !handles.plugins.is_installed(admin.tenant(), &name).await? {
        return Err(ApiError::not_found("Plugin"));
    }
    Ok(name)
}

fn toml_answer(text: String) -> Response {
    let toml = HeaderValue::from_static("application/toml");
    (StatusCode::OK, [(CONTENT_TYPE, toml)], text).into_response()
}

/// The component, and the grants where there are any.
async fn parts(headers: &HeaderMap, body: Bytes) -> Result<(Vec<u8>, Option<String>), ApiError> {
    let bad = |error: multer::Error| {
        ApiError::caller(400, format!("the body is not valid multipart/form-data: {error}"))
    };
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = multer::parse_boundary(content_type.unwrap_or_default()).map_err(bad)?;
    let whole = futures::stream::once(async move { Ok::<_, Infallible>(body) });
    let mut multipart = multer::Multipart::new(whole, boundary);
    let (mut component, mut grants) = (None, None);
    while let Some(part) = multipart.next_field().await.map_err(bad)? {
        match part.name() {
            Some("component") => component = Some(part.bytes().await.map_err(bad)?.to_vec()),
            Some("grants") => grants = Some(part.text().await.map_err(bad)?),
            _ => return Err(ApiError::caller(422, "the parts are component and grants")),
        }
    }
    let component =
        component.ok_or_else(|| ApiError::caller(422, "the part component is missing"))?;
    Ok((component, grants))
}
