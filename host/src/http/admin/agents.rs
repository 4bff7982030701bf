//! Manages a tenant's agents: their definitions, with `if-match` against lost updates, whether they are enabled, and
//! their webhooks.

use std::sync::Arc;

use std::collections::HashSet;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, IF_MATCH};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::super::body;
use super::super::budget::Sender;
use super::super::error::ApiError;
use super::super::extract::{PathParams, QueryParams};
use super::super::reply::json;
use super::super::responses::{ReadErrors, WriteErrors};
use super::{AdminAuth, AdminState};
use crate::agent::check_output_schema;
use crate::ids::{AgentId, Name, PluginName, TenantId};
use crate::secrets::PlainSecret;
use crate::tenants::{Agent, AgentDefinition, AgentMcpServer, ApprovalRules, Precondition};

/// The longest system prompt, and the longest description, of an agent.
const INSTRUCTIONS_BYTES_MAX: usize = 256 << 10;
/// The most arguments of tools that get an idempotency key, and the longest name of one or of its tool, in bytes.
const KEY_ARGUMENTS_MAX: usize = 100;
const KEY_ARGUMENT_BYTES_MAX: usize = 256;

/// The most MCP servers of an agent.
const MCP_SERVERS_MAX: usize = 16;
/// The most policies about tools.
const POLICIES_MAX: usize = 1000;

const DESCRIPTION_BYTES_MAX: usize = 4 << 10;

/// An agent, as its owner manages it.
#[derive(Serialize, ToSchema)]
struct ManagedAgent {
    id: AgentId,
    /// The tenant that owns it.
    tenant: TenantId,
    /// Increases with each change of the definition. The header `etag` holds the same number.
    version: u32,
    /// Whether it accepts new tasks.
    enabled: bool,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    definition: AgentDefinition,
}

/// Filters a list of agents.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AgentsQuery {
    /// Only the agent with this name.
    name: Option<String>,
}

/// List the agents of a tenant, oldest first.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/agents",
    operation_id = "admin_list_agents", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"), AgentsQuery),
    responses((status = 200, body = Vec<ManagedAgent>), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    QueryParams(query): QueryParams<AgentsQuery>,
) -> Result<Response, ApiError> {
    let agents = match query.name {
        None => state.store.agents(admin.tenant()).await?,
        Some(name) => match name.parse::<Name>() {
            Ok(name) => {
                state.store.agent_by_name(admin.tenant(), &name).await?.into_iter().collect()
            }
            // A text that is not a valid name matches no agent.
            Err(_) => Vec::new(),
        },
    };
    let answer: Vec<_> = agents.into_iter().map(ManagedAgent::new).collect();
    Ok(json(StatusCode::OK, &answer))
}

/// Create an agent.
///
/// The definition is JSON, or TOML with `content-type: application/toml`. If another agent of the tenant has the
/// name, the response is 409.
#[utoipa::path(post, path = "/admin/tenants/{tenant}/agents",
    operation_id = "admin_create_agent", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id")),
    request_body(content((AgentDefinition = "application/json"), (String = "application/toml"))),
    responses((status = 201, body = ManagedAgent), WriteErrors), security(("admin_key" = [])))]
pub(super) async fn create(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (_, definition) = definition(&state, admin.tenant(), request).await?;
    let (tenant, id) = (admin.tenant(), AgentId::random());
    state.store.put_agent(tenant, id, &definition, Precondition::Absent).await?;
    // The token is created with the agent, so that its webhook works before the URL is first read.
    state.webhooks.token(tenant, id).await?;
    answer(&state, tenant, id, StatusCode::CREATED).await
}

/// Read an agent.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/agents/{agent}",
    operation_id = "admin_read_agent", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("agent" = String, Path, description = "The agent's id")),
    responses((status = 200, body = ManagedAgent), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn read(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    answer(&state, admin.tenant(), path_params.id("agent", "Agent")?, StatusCode::OK).await
}

/// Replace the definition of an agent.
///
/// The definition is JSON, or TOML with `content-type: application/toml`. With the version that was read in
/// `if-match`, the request is refused with 412 if the agent has been changed since. A definition without a difference
/// changes nothing.
#[utoipa::path(put, path = "/admin/tenants/{tenant}/agents/{agent}",
    operation_id = "admin_replace_agent", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("agent" = String, Path, description = "The agent's id"),
           ("if-match" = Option<String>, Header, description = "The version that was read, quoted")),
    request_body(content((AgentDefinition = "application/json"), (String = "application/toml"))),
    responses((status = 200, body = ManagedAgent), WriteErrors), security(("admin_key" = [])))]
pub(super) async fn replace(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let (tenant, id) = (admin.tenant(), path_params.id("agent", "Agent")?);
    let known = state.store.agent(tenant, id).await?;
    known.ok_or_else(|| ApiError::not_found("Agent"))?;
    let (headers, definition) = definition(&state, tenant, request).await?;
    let precondition = precondition(&headers)?;
    let version = state.store.put_agent(tenant, id, &definition, precondition).await?;
    let agent = state.store.agent(tenant, id).await?;
    let agent = agent.ok_or_else(|| ApiError::not_found("Agent"))?;
    // The version that this request has written, even if another request has written since: a client that took the
    // other version for its own would overwrite it unseen.
    Ok(answer_of(StatusCode::OK, Agent { version, definition, ..agent }))
}

/// Enable an agent, so that it accepts new tasks again.
#[utoipa::path(post, path = "/admin/tenants/{tenant}/agents/{agent}/enable",
    operation_id = "admin_enable_agent", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("agent" = String, Path, description = "The agent's id")),
    responses((status = 200, body = ManagedAgent), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn enable(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    set_enabled(&state, admin.tenant(), &path_params, true).await
}

/// Disable an agent, so that it accepts no new tasks.
///
/// Its callers get 403. Tasks that it has accepted run to their end.
#[utoipa::path(post, path = "/admin/tenants/{tenant}/agents/{agent}/disable",
    operation_id = "admin_disable_agent", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("agent" = String, Path, description = "The agent's id")),
    responses((status = 200, body = ManagedAgent), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn disable(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    set_enabled(&state, admin.tenant(), &path_params, false).await
}

/// An agent's own webhook.
#[derive(Serialize, ToSchema)]
struct WebhookAnswer {
    /// The URL. Anyone who knows it can trigger the agent. Null if it was revoked.
    url: Option<String>,
}

/// Read the URL of an agent's webhook.
#[utoipa::path(get, path = "/admin/tenants/{tenant}/agents/{agent}/webhook",
    operation_id = "admin_read_webhook", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("agent" = String, Path, description = "The agent's id")),
    responses((status = 200, body = WebhookAnswer), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn webhook(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let id = path_params.id("agent", "Agent")?;
    let token = state.webhooks.token(admin.tenant(), id).await?;
    Ok(webhook_answer(&state, token.as_ref()))
}

/// Replace the URL of an agent's webhook.
///
/// The previous URL stops working at once.
#[utoipa::path(post, path = "/admin/tenants/{tenant}/agents/{agent}/webhook/rotate",
    operation_id = "admin_rotate_webhook", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("agent" = String, Path, description = "The agent's id")),
    responses((status = 200, body = WebhookAnswer), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn rotate_webhook(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let token = state.webhooks.rotate(admin.tenant(), path_params.id("agent", "Agent")?).await?;
    Ok(webhook_answer(&state, Some(&token)))
}

/// Revoke the URL of an agent's webhook, with immediate effect.
///
/// Only a rotation creates a new one.
#[utoipa::path(delete, path = "/admin/tenants/{tenant}/agents/{agent}/webhook",
    operation_id = "admin_revoke_webhook", tag = "admin",
    params(("tenant" = String, Path, description = "The tenant's id"),
           ("agent" = String, Path, description = "The agent's id")),
    responses((status = 204, description = "Deleted."), ReadErrors), security(("admin_key" = [])))]
pub(super) async fn revoke_webhook(
    State(state): State<Arc<AdminState>>,
    AdminAuth(admin): AdminAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let id: AgentId = path_params.id("agent", "Agent")?;
    let known = state.store.agent(admin.tenant(), id).await?;
    known.ok_or_else(|| ApiError::not_found("Agent"))?;
    state.store.revoke_webhook(admin.tenant(), id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

impl ManagedAgent {
    fn new(agent: Agent) -> Self {
        Self {
            id: agent.id,
            tenant: agent.tenant,
            version: agent.version,
            enabled: agent.enabled,
            created_at: agent.created_at.iso(),
            updated_at: agent.updated_at.iso(),
            definition: agent.definition,
        }
    }
}

async fn answer(
    state: &AdminState,
    tenant: TenantId,
    id: AgentId,
    status: StatusCode,
) -> Result<Response, ApiError> {
    let agent = state.store.agent(tenant, id).await?;
    let agent = agent.ok_or_else(|| ApiError::not_found("Agent"))?;
    Ok(answer_of(status, agent))
}

fn answer_of(status: StatusCode, agent: Agent) -> Response {
    let tag = HeaderValue::try_from(format!("\"{}\"", agent.version));
    let mut response = json(status, &ManagedAgent::new(agent));
    if let Ok(tag) = tag {
        response.headers_mut().insert(ETAG, tag);
    }
    response
}

fn webhook_answer(state: &AdminState, token: Option<&PlainSecret>) -> Response {
    let url = token.map(|token| state.webhooks.url(token));
    json(StatusCode::OK, &WebhookAnswer { url })
}

async fn set_enabled(
    state: &AdminState,
    tenant: TenantId,
    path_params: &PathParams,
    enabled: bool,
) -> Result<Response, ApiError> {
    let id: AgentId = path_params.id("agent", "Agent")?;
    if !state.store.enable_agent(tenant, id, enabled).await? {
        return Err(ApiError::not_found("Agent"));
    }
    answer(state, tenant, id, StatusCode::OK).await
}

/// Reads a definition, and checks that the model and the plugins that it names exist.
async fn definition(
    state: &AdminState,
    tenant: TenantId,
    request: Request<Body>,
) -> Result<(HeaderMap, AgentDefinition), ApiError> {
    let (mut head, body) = request.into_parts();
    let sender = Sender::from_head(&head);
    let body = state.bodies.read_body(sender, &mut head, body).await?;
    let definition: AgentDefinition = parse(&head.headers, body, "an agent file")?;
    check_has_model(state, tenant, &definition.model).await?;
    check(&definition)?;
    if let Some(schema) = &definition.output_schema
        && let Err(why) = check_output_schema(schema).await
    {
        return Err(ApiError::caller(422, format!("output_schema {why}")));
    }
    let tools = definition.tools.iter().map(|plugin| (plugin, "toolbox"));
    check_has_mcp_servers(state, tenant, &definition).await?;
    let mapper = definition.mapper.iter().map(|plugin| (plugin, "payload-mapper"));
    let getter = definition.getter.iter().map(|plugin| (plugin, "response-getter"));
    for (plugin, role) in tools.chain(mapper).chain(getter) {
        check_role(state, tenant, plugin, role).await?;
    }
    Ok((head.headers, definition))
}

/// Checks that the settings or the tenant have a model of this name.
async fn check_has_model(
    state: &AdminState,
    tenant: TenantId,
    model: &str,
) -> Result<(), ApiError> {
    if model == "offline" || state.models.contains_key(model) {
        return Ok(());
    }
    if state.store.models(tenant).await?.iter().any(|own| own.name.as_str() == model) {
        return Ok(());
    }
    let detail =
        format!("there is no model {model:?}, neither in the gateway's settings nor of the tenant");
    Err(ApiError::caller(422, detail))
}

/// Checks that the tenant has the MCP servers that an agent names, each of them once.
async fn check_has_mcp_servers(
    state: &AdminState,
    tenant: TenantId,
    definition: &AgentDefinition,
) -> Result<(), ApiError> {
    let used = &definition.mcp_servers;
    if used.is_empty() {
        return Ok(());
    }
    if used.len() > MCP_SERVERS_MAX {
        return Err(ApiError::caller(422, "mcp_servers has more than 16 entries"));
    }
    let servers = state.store.mcp_servers(tenant).await?;
    let mut seen = HashSet::new();
    for AgentMcpServer { server, .. } in used {
        let detail = match servers.iter().any(|known| known.name == *server) {
            false => format!("the tenant has no MCP server {server}"),
            true if seen.insert(server) => continue,
            true => format!("mcp_servers names {server} twice"),
        };
        return Err(ApiError::caller(422, detail));
    }
    Ok(())
}

/// Checks that a plugin is installed and has this role.
pub(super) async fn check_role(
    state: &AdminState,
    tenant: TenantId,
    plugin: &PluginName,
    role: &str,
) -> Result<(), ApiError> {
    if !state.plugins.is_installed(tenant, plugin).await? {
        let detail = format!("no plugin {plugin} is installed for this tenant");
        return Err(ApiError::caller(422, detail));
    }
    let binding = state.plugins.binding(tenant, plugin).await?;
    if !binding.role_names().contains(&role) {
        let has = binding.role_names().join(", ");
        let detail = format!("the plugin {plugin} has no role {role}; it has {has}");
        return Err(ApiError::caller(422, detail));
    }
    Ok(())
}

/// Checks what can be checked without the store and without calling a plugin.
fn check(definition: &AgentDefinition) -> Result<(), ApiError> {
    let refuse = |detail: &str| Err(ApiError::caller(422, detail));
    if definition.instructions.len() > INSTRUCTIONS_BYTES_MAX {
        return refuse("instructions is longer than 256 KiB");
    }
    if definition.description.as_ref().is_some_and(|text| text.len() > DESCRIPTION_BYTES_MAX) {
        return refuse("description is longer than 4 KiB");
    }
    if definition.turns_max == Some(0) {
        return refuse("turns_max is 0: an agent without a turn says nothing");
    }
    if definition.output_schema.is_some() && definition.model == "offline" {
        return refuse("output_schema needs a language model, and `offline` is not one");
    }
    let longest =
        definition.idempotency_arguments.iter().map(|(tool, name)| tool.len().max(name.len()));
    if definition.idempotency_arguments.len() > KEY_ARGUMENTS_MAX
        || longest.max().is_some_and(|longest| longest > KEY_ARGUMENT_BYTES_MAX)
    {
        return refuse(
            "idempotency_arguments has more than 100 entries, or one that is longer than 256 bytes",
        );
    }
    let longest = definition
        .tool_policies
        .iter()
        .map(|(tool, policy)| tool.len().max(policy.digest.as_ref().map_or(0, String::len)));
    if definition.tool_policies.len() > POLICIES_MAX
        || longest.max().is_some_and(|longest| longest > KEY_ARGUMENT_BYTES_MAX)
    {
        return refuse(
            "tool_policies has more than 1,000 entries, or one that is longer than 256 bytes",
        );
    }
    if !(1..=ApprovalRules::SECONDS_MAX).contains(&definition.approvals.seconds_max) {
        return refuse("approvals.seconds_max can be 1 to 2,592,000 (30 days)");
    }
    if let Some(limit) = definition.budget.zero() {
        return refuse(&format!("budget.{limit} is 0: no run could do anything"));
    }
    let mut seen = HashSet::new();
    match definition.tools.iter().find(|plugin| !seen.insert(*plugin)) {
        Some(twice) => refuse(&format!("tools names {twice} twice")),
        None => Ok(()),
    }
}

/// Parses a definition from JSON or TOML. `what` is the expected content, for the error.
pub(super) fn parse<T: serde::de::DeserializeOwned>(
    headers: &HeaderMap,
    body: Bytes,
    what: &str,
) -> Result<T, ApiError> {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = declared.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/toml") {
        return body::parse_json(body);
    }
    let text = std::str::from_utf8(&body)
        .map_err(|_| ApiError::caller(400, "the body is not valid UTF-8"))?;
    toml::from_str(text).map_err(|error| {
        ApiError::caller(422, format!("the body is not {what}: {}", error.message()))
    })
}

/// The precondition of the header `if-match` (RFC 9110 section 13.1.1).
fn precondition(headers: &HeaderMap) -> Result<Precondition, ApiError> {
    let Some(value) = headers.get(IF_MATCH) else {
        return Ok(Precondition::None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(Precondition::None);
    }
    let version = text.trim_start_matches("W/").trim_matches('"').parse();
    version
        .map(Precondition::Version)
        .map_err(|_| ApiError::caller(412, "if-match names no version of this agent"))
}
