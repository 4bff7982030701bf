//! Agents as callers see them, and direct calls of their tools.

use std::sync::Arc;

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use http::{Request, StatusCode};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::super::budget::Sender;
use super::super::error::ApiError;
use super::super::extract::{PathParams, QueryParams, TenantAuth, header_key, request_id};
use super::super::reply::json;
use super::super::reply::json_answer;
use super::super::responses::{PluginErrors, ReadErrors, WriteErrors};
use super::{RestState, page};
use crate::agent::{Tools, ToolsError, Unavailable};
use crate::answer::agent::{AgentAnswer, AgentItem, AgentPage};
use crate::ids::{AgentId, RequestId, TenantId};
use crate::plugins::PluginUnavailable;
use crate::request::Payload;
use crate::store::Store;
use crate::tenants::Agent;
use crate::trace::redact::Redactor;

/// Selects a page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// The number of the page, from 1 (the default).
    #[param(minimum = 1)]
    page: Option<u32>,
    /// The most items on a page; 20 by default.
    #[param(minimum = 1, maximum = 100)]
    per_page: Option<u32>,
}

/// List the agents of the key's organization, oldest first.
#[utoipa::path(get, path = "/v1/agents",
    operation_id = "list_agents", tag = "agents", params(PageQuery),
    responses((status = 200, body = AgentPage), ReadErrors), security(("api_key" = [])))]
pub(super) async fn list(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    QueryParams(query): QueryParams<PageQuery>,
) -> Result<Response, ApiError> {
    let (page, per_page) = page(query.page, query.per_page)?;
    let agents = state.store.agents(tenant.tenant()).await?;
    let skipped = usize::try_from(u64::from(page - 1) * u64::from(per_page)).unwrap_or(usize::MAX);
    let items = agents.iter().skip(skipped).take(per_page as usize).map(AgentItem::new);
    let total = agents.len() as u64;
    let total_pages = total.div_ceil(per_page.into());
    let answer = AgentPage { items: items.collect(), total, page, per_page, total_pages };
    Ok(json(StatusCode::OK, &answer))
}

/// List the organization's agents as a plain array, oldest first.
///
/// This is the format that xpander's SDK expects.
#[utoipa::path(get, path = "/agents/list",
    operation_id = "list_all_agents", tag = "aliases",
    responses((status = 200, body = Vec<AgentItem>), ReadErrors), security(("api_key" = [])))]
pub(super) async fn list_array(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
) -> Result<Response, ApiError> {
    let agents = state.store.agents(tenant.tenant()).await?;
    let items: Vec<AgentItem<'_>> = agents.iter().map(AgentItem::new).collect();
    Ok(json(StatusCode::OK, &items))
}

/// Read an agent with its graph and its tools.
///
/// The response contains no secrets. If a plugin cannot list its tools, `tools` is empty, and `tools_missing` gives
/// the reason.
#[utoipa::path(get, path = "/v1/agents/{id}",
    operation_id = "read_agent", tag = "agents",
    params(("id" = String, Path, description = "The agent's id")),
    responses((status = 200, body = AgentAnswer), ReadErrors), security(("api_key" = [])))]
pub(super) async fn read(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    path_params: PathParams,
) -> Result<Response, ApiError> {
    let agent = find(&state.store, tenant.tenant(), &path_params).await?;
    let tools = match Tools::for_agent(&state.plugins, &agent, RequestId::next()).await {
        Err(ToolsError::Unavailable(_, PluginUnavailable::Store(error))) => {
            return Err(error.into());
        }
        // Reported in the response, not as an error status: xpander's clients read an agent before they do anything
        // else with it, including its runs and tasks.
        Err(error) => {
            tracing::warn!(agent = %agent.id, %error, "an agent's tools cannot be listed");
            Err(ApiError::from(error).into_detail())
        }
        Ok(tools) => Ok(tools),
    };
    let tools = tools.as_ref().map(Tools::descriptions).map_err(String::as_str);
    let used = &agent.definition.mcp_servers;
    let mut servers = match used.is_empty() {
        true => Vec::new(),
        false => state.store.mcp_servers(agent.tenant).await?,
    };
    servers.retain(|server| used.iter().any(|used| used.server == server.name));
    Ok(json(StatusCode::OK, &AgentAnswer::new(&agent, &servers, tools, &state.public_url)))
}

/// How long a call waits before its second attempt, if its tenant already calls as many tools directly as it may. One
/// of those calls may have ended by then, and the wait slows down a caller that sends requests as fast as it can.
const TOOL_CALL_WAIT: Duration = Duration::from_secs(1);

/// The arguments of a tool call: `body_params`, else `parameters`, else the whole body.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documentation: whatever JSON object is sent is handed on")]
pub(super) struct Operation {
    /// The arguments, as xpander's SDK sends them.
    #[schema(value_type = Option<Object>)]
    body_params: Option<serde_json::Value>,
    /// The arguments, as xpander's REST documentation has them.
    #[schema(value_type = Option<Object>)]
    parameters: Option<serde_json::Value>,
}

/// Call one of an agent's tools directly and return its result.
///
/// A tool that may change data is refused with 403, unless the agent permits such tools (`allow_destructive_tools`,
/// `tool_policies`). So is one whose calls a person has to approve.
#[utoipa::path(post, path = "/agents/{id}/operations/{tool}",
    operation_id = "call_tool", tag = "agents",
    params(("id" = String, Path, description = "The agent's id"),
           ("tool" = String, Path, description = "The tool's name")),
    request_body = Operation,
    responses((status = 200, body = serde_json::Value, description = "The tool's result."),
              WriteErrors, PluginErrors),
    security(("api_key" = [])))]
pub(super) async fn call_tool(
    State(state): State<Arc<RestState>>,
    TenantAuth(tenant): TenantAuth,
    path_params: PathParams,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let agent = find(&state.store, tenant.tenant(), &path_params).await?;
    if !agent.enabled {
        return Err(crate::access::Denied::Disabled.into());
    }
    // A direct call may take as long as a call in a run, so a tenant may have as many of them at once as runs.
    let permit = state.operations.acquire_within(TOOL_CALL_WAIT, tenant.tenant()).await;
    let _permit = permit.ok_or_else(|| {
        let max = state.operations.per_key_max();
        let detail = format!("{max} tools of the organization are being called directly");
        ApiError::caller(429, detail).retry_after(1)
    })?;
    let (mut head, body) = request.into_parts();
    let sender = Sender::from_head(&head);
    let body = state.bodies.read_body(sender, &mut head, body).await?;
    let arguments = arguments(body)?;
    let tools = Tools::for_agent(&state.plugins, &agent, request_id(&head)).await?;
    let tool = path_params.text("tool").unwrap_or_default();
    let answered = tokio::select! {
        answered = tools.call_directly(&agent, tool, arguments) => answered,
        // Otherwise the connection would be dropped without a response.
        () = state.shutdown_deadline.cancelled() => return Err(ApiError::stopping("the tool")),
    };
    let answer = answered.map_err(|refused| match refused {
        Unavailable::Unknown => ApiError::not_found("Tool"),
        Unavailable::Denied(why) => ApiError::caller(403, why),
    })?;
    match &answer {
        Ok(_) => tracing::info!(agent = %agent.id, tool, "a tool was called directly"),
        // A direct call has no trace, so only the log can show a missing grant. A tool may repeat what it was sent.
        Err(error) => {
            let mut redactor = Redactor::default();
            header_key(&head.headers)?.iter().for_each(|key| redactor.add(key));
            let why = redactor.text(error.to_string());
            tracing::warn!(agent = %agent.id, tool, %why, "a tool that was called directly failed");
        }
    }
    let answer = answer.map_err(|error| ApiError::from_tool(tool, &error))?;
    Ok(json_answer(StatusCode::OK, answer))
}

fn arguments(body: bytes::Bytes) -> Result<String, ApiError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok("{}".to_owned());
    }
    let payload = Payload::parse(body).map_err(|error| ApiError::caller(400, error.to_string()))?;
    if payload.fields().is_none() {
        return Err(ApiError::caller(422, "the body is not a JSON object"));
    }
    let object = |json: &&str| json.starts_with('{');
    let inner = payload.find("/body_params").or_else(|| payload.find("/parameters"));
    Ok(inner.filter(object).unwrap_or(payload.text()).to_owned())
}

async fn find(
    store: &Store,
    tenant: TenantId,
    path_params: &PathParams,
) -> Result<Agent, ApiError> {
    let id: AgentId = path_params.id("id", "Agent")?;
    store.agent(tenant, id).await?.ok_or_else(|| ApiError::not_found("Agent"))
}
