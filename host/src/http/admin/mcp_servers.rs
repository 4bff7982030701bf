//! Manages the MCP servers whose tools a tenant's agents may call, with keys among the tenant's secrets.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::{Request, StatusCode};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::super::budget::Sender;
use super::super::error::{ApiError, ErrorBody};
use super::super::extract::PathParams;
use super::super::reply::json;
use super::super::responses::{ReadErrors, WriteErrors};
use super::agents::parse;
use super::{AdminAuth, AdminState};
use crate::agent::qualified_tool_name;
use crate::ids::{McpServerName, TenantId};
use crate::mcp::{McpError, check_definition};
use crate::tenants::{Installer, McpServerDefinition, TenantMcpServer};

/// The largest definition, in bytes.
const DEFINITION_BYTES_MAX: usize = 16 << 10;

/// An MCP server of a tenant.
#[derive(Serialize, ToSchema)]
#[schema(as = McpServer)]
struct McpServerAnswer {
    /// The name that agents use, which is the id of the graph item.
    name: McpServerName,
    /// The kind of key that set it: `operator` or `admin`.
    set_by: &'static str,
    #[schema(format = DateTime)]
    updated_at: String,
    definition: McpServerDefinition,
}

impl McpServerAnswer {
    fn new(server: TenantMcpServer) -> Self {
        Self {
            name: server.name,
            set_by: server.set_by.as_str(),
            updated_at: server.updated_at.iso(),
            definition: server.definition,
        }
    }
}

/// List the MCP servers of a tenant, by name.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/mcp-servers",
    operation_id = "admin_list_mcp_servers", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id")),
    responses((status = 200, body = Vec<McpServerAnswer>), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
) -> Result<Response, ApiError> {
    let servers = state.store.mcp_servers(admin.tenant()).await?;
    let servers: Vec<McpServerAnswer> = servers.into_iter().map(McpServerAnswer::new).collect();
    Ok(json(StatusCode::OK, &servers))
}

/// Store an MCP server, or replace the tenant's server with this name. The body is JSON or TOML.
///
/// Its keys are among the tenant's secrets, which must allow the use `send`. A server that a tenant's admin sets has an
/// HTTPS address on the public internet, and gets no secret that an operator has set. Runs use it from their next start on.
#[utoipa::path(put, path = "/admin/tenants/{tenant}/mcp-servers/{name}",
    operation_id = "admin_replace_mcp_server", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The server's name")),
    request_body = McpServerDefinition,
    responses((status = 200, body = McpServerAnswer), WriteErrors), security(("admin_key" = [])))]
pub(super) async fn replace(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
    request: Request<axum::body::Body>,
) -> Result<Response, ApiError> {
    let name = path_params.text("name").unwrap_or_default().parse::<McpServerName>();
    let name = name.map_err(|error| ApiError::caller(422, error.to_string()))?;
    let (mut head, body) = request.into_parts();
    let body = state.bodies.read_body(Sender::from_head(&head), &mut head, body).await?;
    if body.len() > DEFINITION_BYTES_MAX {
        return Err(ApiError::caller(413, "an MCP server is defined in at most 16 KiB"));
    }
    let definition: McpServerDefinition = parse(&head.headers, body, "an MCP server")?;
    let by = if admin.is_operator() { Installer::Operator } else { Installer::Admin };
    check_definition(&definition, by).map_err(|why| ApiError::caller(422, why))?;
    state.store.put_mcp_server(admin.tenant(), &name, &definition, by).await?;
    let servers = state.store.mcp_servers(admin.tenant()).await?;
    let stored = servers.into_iter().find(|server| server.name == name);
    let stored = stored.ok_or_else(|| ApiError::not_found("MCP server"))?;
    Ok(json(StatusCode::OK, &McpServerAnswer::new(stored)))
}

/// Delete an MCP server of a tenant.
///
/// Runs of agents that use it go on without its tools from then on.
#[utoipa::path(delete, path = "/admin/tenants/{tenant}/mcp-servers/{name}",
    operation_id = "admin_remove_mcp_server", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The server's name")),
    responses((status = 204, description = "Deleted."), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn remove(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let name: McpServerName = path_params.id("name", "MCP server")?;
    if !state.store.delete_mcp_server(admin.tenant(), &name).await? {
        return Err(ApiError::not_found("MCP server"));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// What an MCP server has.
#[derive(Serialize, ToSchema)]
struct McpTools {
    tools: Vec<McpToolAnswer>,
    /// What is left out, one sentence each.
    notes: Vec<String>,
}

/// A tool of an MCP server.
#[derive(Serialize, ToSchema)]
#[schema(as = McpTool)]
struct McpToolAnswer {
    /// The name that models see, and by which `tool_policies` name it.
    name: String,
    /// The name at the server, for `allowed_tools`.
    own_name: String,
    /// For `tool_policies`.
    digest: String,
    description: String,
    /// JSON Schema of its arguments.
    #[schema(value_type = Object)]
    parameters: Value,
}

/// Connect to an MCP server and list its tools.
///
/// After reviewing what a tool does, put its digest into the `tool_policies` of the agent.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/mcp-servers/{name}/tools",
    operation_id = "admin_list_mcp_tools", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("name" = String, Path, description = "The server's name")),
    responses((status = 200, body = McpTools),
              (status = 502, body = ErrorBody, description = "The server cannot be used; `detail` says why."),
              ReadErrors), security(("admin_key" = [])))]
pub(super) async fn tools(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let name: McpServerName = path_params.id("name", "MCP server")?;
    let listed = listed(&state, admin.tenant(), &name).await.map_err(|error| match error {
        McpError::Missing => ApiError::not_found("MCP server"),
        McpError::Store => ApiError::unavailable(error.to_string()),
        error => ApiError::upstream(format!("the MCP server {name}: {error}")),
    })?;
    Ok(json(StatusCode::OK, &listed))
}

async fn listed(
    state: &AdminState,
    tenant: TenantId,
    name: &McpServerName,
) -> Result<McpTools, McpError> {
    let session = state.mcp.session(tenant, name, None).await?;
    let listed = session.tools(None).await?;
    let tools = listed.tools.into_iter().map(|tool| McpToolAnswer {
        name: qualified_tool_name(name.as_str(), &tool.name),
        digest: tool.digest(),
        own_name: tool.name,
        description: tool.description,
        parameters: tool.input_schema,
    });
    Ok(McpTools { tools: tools.collect(), notes: listed.notes })
}
