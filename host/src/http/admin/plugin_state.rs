//! How a plugin of a tenant is doing: its calls, what they cost, and whether it is cut off.

use std::sync::Arc;

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::super::error::{ApiError, ErrorBody};
use super::super::extract::Named;
use super::super::reply::json;
use super::super::responses::ReadErrors;
use super::{AdminState, ByAdmin};
use crate::access::AdminCaller;
use crate::ids::PluginName;
use crate::plugins::PluginUnavailable;
use crate::sandbox::{Binding, StatsSnapshot};

/// A plugin of a tenant, and how it is doing in this gateway.
#[derive(Serialize, ToSchema)]
struct PluginState {
    name: PluginName,
    /// SHA-256 of the component.
    digest: String,
    /// What it can be used as.
    roles: Vec<&'static str>,
    /// The interfaces that it imports.
    imports: Vec<String>,
    /// Which of its grants are not in force and why, which it needs and does not have, and which functions of a
    /// component from elsewhere are no tools: a sentence each.
    notes: Vec<String>,
    /// Its calls since the gateway began.
    calls: Calls,
    /// What they cost, together.
    cost: Costs,
    /// Outgoing requests that no rule allows, sent because the grants only count them.
    egress_counted: u64,
    /// Why it is cut off. Null: it is not.
    quarantine: Option<Quarantined>,
}

/// Calls by how they ended.
#[derive(Serialize, ToSchema)]
struct Calls {
    /// Under way.
    in_flight: u64,
    /// Those that gave a value.
    answered: u64,
    /// Those in which the plugin said no.
    failed: u64,
    /// Those that the gateway ended or did not begin, by reason.
    refused: BTreeMap<&'static str, u64>,
}

/// What calls cost.
#[derive(Serialize, ToSchema)]
struct Costs {
    /// Their time, waiting included, in microseconds.
    micros: u64,
    /// Their computing time, in microseconds.
    cpu_micros: u64,
    /// The largest memory of one, in bytes.
    memory_bytes_peak: u64,
}

/// A plugin that is cut off because it kept failing.
#[derive(Serialize, ToSchema)]
struct Quarantined {
    /// What its last failure was.
    reason: String,
    /// When one call is let through to try it.
    #[schema(format = DateTime)]
    until: String,
}

impl PluginState {
    fn of(binding: &Binding) -> Self {
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

/// A plugin of a tenant, its own or one that ships with the gateway: its roles, its calls and what they cost
/// since the gateway began, and whether it is cut off.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/plugins/{name}",
    operation_id = "admin_read_plugin", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = PluginState), ReadErrors,
              (status = 500, body = ErrorBody, description = "The plugin cannot be had")),
    security(("admin_key" = [])))]
pub(super) async fn read(
    State(state): State<Arc<AdminState>>,
    ByAdmin(admin): ByAdmin,
    named: Named,
) -> Result<Response, ApiError> {
    let binding = binding(&state, admin, &named).await?;
    Ok(json(StatusCode::OK, &PluginState::of(&binding)))
}

/// Ends the quarantine of a plugin: its next calls are let through. One that is not cut off stays as it is.
#[utoipa::path(post, path = "/admin/tenants/{tenant}/plugins/{name}/release",
    operation_id = "admin_release_plugin", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = PluginState), ReadErrors,
              (status = 500, body = ErrorBody, description = "The plugin cannot be had")),
    security(("admin_key" = [])))]
pub(super) async fn release(
    State(state): State<Arc<AdminState>>,
    ByAdmin(admin): ByAdmin,
    named: Named,
) -> Result<Response, ApiError> {
    let binding = binding(&state, admin, &named).await?;
    binding.stats().release();
    Ok(json(StatusCode::OK, &PluginState::of(&binding)))
}

async fn binding(
    state: &AdminState,
    admin: AdminCaller,
    named: &Named,
) -> Result<std::sync::Arc<Binding>, ApiError> {
    let name: PluginName = named.id("name", "Plugin")?;
    state.plugins.binding(admin.tenant(), &name).await.map_err(|error| match error {
        PluginUnavailable::Unknown(_) => ApiError::not_found("Plugin"),
        error => error.into(),
    })
}
