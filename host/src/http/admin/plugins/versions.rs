//! Lists the versions of a tenant's plugin, and rolls back to one of them.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::super::error::ApiError;
use super::super::super::extract::{JsonBody, PathParams};
use super::super::super::reply::json;
use super::super::super::responses::{ReadErrors, WriteErrors};
use super::super::{AdminAuth, AdminState, iso};
use super::{PluginAnswer, install_error, name};
use crate::ids::PluginDigest;
use crate::plugins::{RollBackError, key_id};
use crate::tenants::{Installer, PluginVersion, VerifiedSignature};

/// The signer of a component.
#[derive(Serialize, ToSchema)]
#[schema(as = Signer)]
pub(super) struct SignerAnswer {
    /// The name that the key had in the settings when the component was installed.
    name: String,
    /// The id of the key, as minisign prints it.
    key_id: String,
    /// The trusted comment, which is signed together with the component.
    trusted_comment: String,
}

impl SignerAnswer {
    pub(super) fn new(signed: VerifiedSignature) -> Self {
        Self {
            name: signed.signer,
            key_id: key_id(&signed.key).unwrap_or_default(),
            trusted_comment: signed.trusted_comment,
        }
    }
}

/// A version of a plugin.
#[derive(Serialize, ToSchema)]
#[schema(as = PluginVersion)]
struct VersionAnswer {
    /// SHA-256 of the component.
    digest: String,
    /// The publisher's name of the version. Null if it was not stated.
    version: Option<String>,
    #[schema(format = DateTime)]
    installed_at: Option<String>,
    /// The kind of key that installed it: `operator` if an operator has ever installed these bytes under this name,
    /// else `admin`. Null if it was installed before this was recorded.
    installed_by: Option<&'static str>,
    /// The origin of the component, as stated at its installation: `file`, or a reference with the manifest's digest.
    provenance: String,
    /// The signer. Null if the component is not signed.
    signed_by: Option<SignerAnswer>,
    /// Whether it is the version in use.
    current: bool,
    /// Whether a rollback skips it: it was rolled back from, and another version has been installed since.
    skipped: bool,
}

impl From<PluginVersion> for VersionAnswer {
    fn from(version: PluginVersion) -> Self {
        let plugin = version.plugin;
        Self {
            digest: plugin.digest.to_string(),
            version: plugin.version,
            installed_at: iso(Some(plugin.installed_at)),
            installed_by: plugin.installed_by.map(Installer::as_str),
            provenance: plugin.provenance.to_string(),
            signed_by: plugin.signed.map(SignerAnswer::new),
            current: version.is_current,
            skipped: version.is_skipped,
        }
    }
}

/// List the stored versions of a tenant's plugin, the most recent installation first.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/plugins/{name}/versions",
    operation_id = "admin_list_plugin_versions", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = Vec<VersionAnswer>), ReadErrors), security(("admin_key" = [])))]
pub(in super::super) async fn list(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let versions = state.plugins.versions(admin.tenant(), &name(&path_params)?).await?;
    if versions.is_empty() {
        return Err(ApiError::not_found("Plugin"));
    }
    let versions: Vec<_> = versions.into_iter().map(VersionAnswer::from).collect();
    Ok(json(StatusCode::OK, &versions))
}

/// The target of a rollback.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct Rollback {
    /// The digest of a stored version, earlier or later. If omitted, the version that was installed before the
    /// current one, skipping those that were rolled back from.
    #[serde(default)]
    to: Option<String>,
}

/// Make another version of a plugin current, by default the one installed before.
///
/// The grants file does not change, and is in force for the components that it is for.
#[utoipa::path(post, path = "/admin/tenants/{tenant}/plugins/{name}/rollback",
    operation_id = "admin_roll_back_plugin", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The plugin's name")),
    request_body = Rollback,
    responses((status = 200, body = PluginAnswer), WriteErrors), security(("admin_key" = [])))]
pub(in super::super) async fn roll_back(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
    JsonBody(rollback): JsonBody<Rollback>,
) -> Result<Response, ApiError> {
    let name = name(&path_params)?;
    let to = rollback.to.as_deref().map(str::parse::<PluginDigest>).transpose();
    let to = to.map_err(|error| ApiError::caller(422, error.to_string()))?;
    let rolled_back = state.plugins.roll_back(admin.tenant(), &name, to).await;
    let installed = rolled_back.map_err(|error| match error {
        RollBackError::NotInstalled => ApiError::not_found("Plugin"),
        RollBackError::UnknownVersion => ApiError::not_found("Plugin version"),
        RollBackError::NoEarlier => ApiError::caller(409, error.to_string()),
        RollBackError::Unavailable(error) => install_error(error),
    })?;
    Ok(json(StatusCode::OK, &PluginAnswer::installed(installed)))
}
