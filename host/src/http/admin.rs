//! The admin API: an operator manages every tenant's resources, a tenant's admin only that tenant's. The `wardgate`
//! commands call these routes like any other client.

mod agents;
mod approvals;
mod channels;
mod keys;
mod mcp_servers;
mod models;
mod plugin_state;
mod plugins;
mod secrets;
mod tasks;
mod tenants;
mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{FromRef as _, FromRequestParts};
use http::request::Parts;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::body::BodyReader;
use super::budget::AuthenticatedTenant;
use super::error::ApiError;
use super::extract::{PathParams, header_key};
use super::layers::record_tenant;
use super::state::HttpState;
use crate::access::approval_links::ApprovalLinks;
use crate::access::webhooks::Webhooks;
use crate::access::{Access, AdminCaller, OperatorCaller};
use crate::channel::Channels;
use crate::clock::{Clock, Timestamp};
use crate::mcp::McpServers;
use crate::plugins::Plugins;
use crate::runs::Runs;
use crate::settings::ModelSettings;
use crate::store::Store;
use crate::vault::Vault;

/// The services that the admin routes use.
#[derive(Debug)]
pub(super) struct AdminState {
    pub(super) access: Access,
    pub(super) bodies: BodyReader,
    pub(super) plugins: Plugins,
    pub(super) store: Store,
    pub(super) runs: Runs,
    pub(super) channels: Channels,
    pub(super) vault: Vault,
    pub(super) mcp: McpServers,
    pub(super) webhooks: Webhooks,
    pub(super) approval_links: ApprovalLinks,
    /// The models of the settings, which all agents may use.
    pub(super) models: Arc<BTreeMap<String, ModelSettings>>,
    pub(super) clock: Clock,
}

/// All admin routes.
pub(super) fn router() -> OpenApiRouter<HttpState> {
    OpenApiRouter::new()
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::read))
        .routes(routes!(keys::list_operators, keys::create_operators))
        .routes(routes!(keys::revoke_operators))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::revoke))
        .routes(routes!(agents::list, agents::create))
        .routes(routes!(agents::read, agents::replace))
        .routes(routes!(agents::enable))
        .routes(routes!(agents::disable))
        .routes(routes!(agents::webhook, agents::revoke_webhook))
        .routes(routes!(agents::rotate_webhook))
        .routes(routes!(plugins::list))
        .routes(routes!(plugins::install, plugins::remove, plugin_state::read))
        .routes(routes!(plugin_state::release))
        .routes(routes!(plugins::grants, plugins::replace_grants))
        .routes(routes!(plugins::component))
        .routes(routes!(channels::list))
        .routes(routes!(channels::read, channels::replace, channels::remove))
        .routes(routes!(channels::deliveries))
        .routes(routes!(channels::redeliver))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::replace, secrets::remove))
        .routes(routes!(plugins::versions::list))
        .routes(routes!(plugins::versions::roll_back))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::read, tasks::remove))
        .routes(routes!(tasks::stop))
        .routes(routes!(tasks::recording))
        .routes(routes!(approvals::list))
        .routes(routes!(approvals::approve))
        .routes(routes!(approvals::deny))
        .routes(routes!(usage::list))
        .routes(routes!(mcp_servers::list))
        .routes(routes!(mcp_servers::replace, mcp_servers::remove))
        .routes(routes!(mcp_servers::tools))
        .routes(routes!(models::list))
        .routes(routes!(models::replace, models::remove))
}

/// Proof that the caller may manage the tenant in the path, as its admin or as an operator.
struct AdminAuth(AdminCaller);

impl FromRequestParts<HttpState> for AdminAuth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, ApiError> {
        let key = header_key(&parts.headers)?;
        let Ok(path_params) = PathParams::from_request_parts(parts, state).await;
        let Ok(tenant) = path_params.id("tenant", "Tenant") else {
            // Only an operator may learn that the tenant does not exist.
            state.access().operator(key.as_deref()).await?;
            return Err(ApiError::not_found("Tenant"));
        };
        let admin = state.access().admin(key.as_deref(), tenant).await?;
        if admin.is_operator() && Store::from_ref(state).tenant(tenant).await?.is_none() {
            return Err(ApiError::not_found("Tenant"));
        }
        record_tenant(tenant);
        parts.extensions.insert(AuthenticatedTenant(tenant));
        Ok(Self(admin))
    }
}

/// Proof that the caller is an operator.
struct OperatorAuth;

impl FromRequestParts<HttpState> for OperatorAuth {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &HttpState) -> Result<Self, ApiError> {
        let key = header_key(&parts.headers)?;
        // It carries no data that a handler needs.
        let _: OperatorCaller = state.access().operator(key.as_deref()).await?;
        Ok(Self)
    }
}

fn iso(at: Option<Timestamp>) -> Option<String> {
    at.map(Timestamp::iso)
}
