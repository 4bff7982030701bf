//! The state of a tenant's plugin: its calls, what they cost, and whether it is quarantined.

use std::sync::Arc;

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::error::{ApiError, ErrorBody};
use super::super::extract::PathParams;
use super::super::reply::json;
use super::super::responses::ReadErrors;
use super::{AdminAuth, AdminState};
use crate::access::AdminCaller;
use crate::ids::PluginName;
use crate::plugins::PluginUnavailable;
use crate::sandbox::{Binding, StatsSnapshot};

/// A plugin of a tenant, and its state in this gateway.
#[derive(Serialize, ToSchema)]
struct PluginState {
    name: PluginName,
    /// SHA-256 of the component.
    digest: String,
    /// The roles that it can be used in.
    roles: Vec<&'static str>,
    /// The interfaces that it imports.
    imports: Vec<String>,
    /// Notes for the operator, a sentence each: why grants are not in force, which grants are missing, which
    /// functions of a foreign component cannot be tools, and which memory limit cannot work as it is set.
    notes: Vec<String>,
    /// Its calls since the gateway started.
    calls: Calls,
    /// What these calls cost.
    cost: Costs,
    /// Outgoing requests that no rule allows, sent because the grants only count them.
    egress_counted: u64,
    /// Why and until when it is quarantined. Null if it is not.
    quarantine: Option<Quarantined>,
}

/// Calls by outcome.
#[derive(Serialize, ToSchema)]
struct Calls {
    /// Calls in progress.
    in_flight: u64,
    /// Calls that returned a value.
    answered: u64,
    /// Calls in which the plugin returned a failure.
    failed: u64,
    /// Calls that the gateway ended or did not start, by reason.
    refused: BTreeMap<&'static str, u64>,
}

/// The cost of calls.
#[derive(Serialize, ToSchema)]
struct Costs {
    /// Their total time, including waiting, in microseconds.
    micros: u64,
    /// Their total computing time, in microseconds.
    cpu_micros: u64,
    /// The peak memory of a single call, in bytes.
    memory_bytes_peak: u64,
}

/// The quarantine of a plugin that has failed repeatedly.
#[derive(Serialize, ToSchema)]
struct Quarantined {
    /// The plugin's last failure.
    reason: String,
    /// When one call is admitted as a probe.
    #[schema(format = DateTime)]
    until: String,
}

impl PluginState {
    fn from_binding(binding: &Binding) -> Self {
        let snapshot: StatsSnapshot = binding.stats().snapshot();
        Self {
            name: binding.name().clone(),
            digest: binding.digest_text().to_owned(),
            roles: binding.role_names(),
            imports: binding.imports(),
            notes: binding.notes(),
            calls: Calls {
                in_flight: snapshot.in_flight,
                answered: snapshot.answered,
                failed: snapshot.failed,
                refused: snapshot.refused.into_iter().filter(|(_, count)| *count > 0).collect(),
            },
            cost: Costs {
                micros: snapshot.micros,
                cpu_micros: snapshot.cpu_micros,
                memory_bytes_peak: snapshot.memory_bytes_peak,
            },
            egress_counted: snapshot.egress_counted,
            quarantine: snapshot.quarantine.map(|quarantine| Quarantined {
                reason: quarantine.reason,
                until: quarantine.until.iso(),
            }),
        }
    }
}

/// Read the state of a plugin of a tenant.
///
/// The plugin may be the tenant's own, or one that ships with the gateway. The state has its roles, its calls and
/// what they cost since the gateway started, and whether it is quarantined.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/plugins/{name}",
    operation_id = "admin_read_plugin", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = PluginState), ReadErrors,
              (status = 500, body = ErrorBody, description = "The plugin could not be loaded.")),
    security(("admin_key" = [])))]
pub(super) async fn read(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let binding = binding(&state, admin, &path_params).await?;
    Ok(json(StatusCode::OK, &PluginState::from_binding(&binding)))
}

/// End the quarantine of a plugin, so that its next calls are admitted.
///
/// A plugin that is not quarantined does not change.
#[utoipa::path(post, path = "/admin/tenants/{tenant}/plugins/{name}/release",
    operation_id = "admin_release_plugin", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = PluginState), ReadErrors,
              (status = 500, body = ErrorBody, description = "The plugin could not be loaded.")),
    security(("admin_key" = [])))]
pub(super) async fn release(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let binding = binding(&state, admin, &path_params).await?;
    binding.stats().release();
    Ok(json(StatusCode::OK, &PluginState::from_binding(&binding)))
}

async fn binding(
    state: &AdminState,
    admin: AdminCaller,
    path_params: &PathParams,
) -> Result<std::sync::Arc<Binding>, ApiError> {
    let name: PluginName = path_params.id("name", "Plugin")?;
    state.plugins.binding(admin.tenant(), &name).await.map_err(|error| match error {
        PluginUnavailable::Unknown(_) => ApiError::not_found("Plugin"),
        error => error.into(),
    })
}
