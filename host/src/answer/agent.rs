//! Agents in xpander's format: `graph` is an array, and it contains no secrets (CONTRACT section 2).

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::ids::{AgentId, Name, TenantId};
use crate::tenants::{Agent, McpAuth, TenantMcpServer};
use crate::tool::Tool;

/// The icon of every agent in lists; the product's SDK requires one.
const ICON: &str = "🚀";

/// The SDK rejects agents whose framework it does not know. The value matters only to code that the SDK would run
/// itself, which does not happen with an agent of this gateway.
const FRAMEWORK: &str = "agno";

/// An agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Agent)]
pub struct AgentAnswer<'a> {
    id: AgentId,
    organization_id: TenantId,
    name: &'a Name,
    /// The same as `name`: names are unique within an organization.
    unique_name: &'a Name,
    description: Option<&'a str>,
    icon: &'static str,
    instructions: Instructions<'a>,
    status: AgentStatus,
    #[schema(format = DateTime)]
    created_at: String,
    #[schema(format = DateTime)]
    updated_at: String,
    /// Increases with each change.
    version: u32,
    framework: &'static str,
    /// `offline`, or `openai` for any server that speaks its protocol.
    model_provider: &'static str,
    /// The model, as the gateway's settings name it.
    model_name: &'a str,
    /// The URL at which callers trigger the agent; they add their key.
    webhook_url: String,
    access_scope: &'static str,
    graph: Vec<GraphItem>,
    tools: Vec<ToolAnswer>,
    /// Why `tools` is empty although the agent has plugins with tools. Omitted if `tools` is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    tools_missing: Option<&'a str>,
    source_nodes: Vec<SourceNode>,
}

/// The instructions of an agent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AgentInstructions)]
pub struct Instructions<'a> {
    #[schema(value_type = Vec<String>)]
    role: [&'a str; 0],
    #[schema(value_type = Vec<String>)]
    goal: [&'a str; 0],
    /// The system prompt.
    general: &'a str,
}

/// Whether an agent accepts new tasks.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum AgentStatus {
    /// It accepts tasks.
    Active,
    /// It is disabled.
    Inactive,
}

/// A channel that triggers an agent.
#[derive(Debug, Serialize, ToSchema)]
pub struct SourceNode {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[schema(value_type = Vec<String>)]
    targets: [&'static str; 0],
}

/// An item that an agent works with.
#[derive(Debug, Serialize, ToSchema)]
pub struct GraphItem {
    id: String,
    item_id: String,
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    #[schema(value_type = Vec<String>)]
    targets: [&'static str; 0],
    /// Settings, without any secrets.
    #[schema(value_type = Option<Object>)]
    settings: Option<Value>,
}

/// A tool that an agent may call.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AgentTool)]
pub struct ToolAnswer {
    id: String,
    name: String,
    method: &'static str,
    path: String,
    description: String,
    /// JSON Schema of its arguments.
    #[schema(value_type = Object)]
    parameters: Value,
    /// Whether it may change data.
    destructive: bool,
    /// Of all that is known of the tool. An entry of `tool_policies` with this digest holds until the tool changes.
    digest: String,
}

impl<'a> AgentAnswer<'a> {
    /// Builds an agent with its MCP servers, and with the tools of its plugins or the reason why they cannot be listed.
    #[must_use]
    pub fn new(
        agent: &'a Agent,
        servers: &[TenantMcpServer],
        tools: Result<&[Tool], &'a str>,
        public_url: &str,
    ) -> Self {
        let definition = &agent.definition;
        let item = |plugin: &crate::ids::PluginName| GraphItem {
            id: format!("{}-{plugin}", agent.id),
            item_id: plugin.to_string(),
            name: plugin.to_string(),
            kind: "tool",
            targets: [],
            settings: None,
        };
        let mcp_items = servers.iter().map(mcp_item);
        Self {
            id: agent.id,
            organization_id: agent.tenant,
            name: &definition.name,
            unique_name: &definition.name,
            description: definition.description.as_deref(),
            icon: ICON,
            instructions: instructions(agent),
            status: status(agent),
            created_at: agent.created_at.iso(),
            updated_at: agent.updated_at.iso(),
            version: agent.version,
            framework: FRAMEWORK,
            model_provider: if definition.model == "offline" { "offline" } else { "openai" },
            model_name: &definition.model,
            webhook_url: format!("{public_url}/?agent_id={}&asynchronous=false", agent.id),
            access_scope: "organizational",
            graph: definition.tools.iter().map(item).chain(mcp_items).collect(),
            tools: tools
                .unwrap_or_default()
                .iter()
                .map(|tool| ToolAnswer::new(agent, tool))
                .collect(),
            tools_missing: tools.err(),
            source_nodes: vec![SourceNode {
                id: format!("{}-webhook", agent.id),
                kind: "webhook",
                targets: [],
            }],
        }
    }
}

impl ToolAnswer {
    fn new(agent: &Agent, tool: &Tool) -> Self {
        Self {
            id: tool.name.clone(),
            name: tool.name.clone(),
            method: "POST",
            path: format!("/agents/{}/operations/{}", agent.id, tool.name),
            description: tool.description.clone(),
            parameters: tool.input_schema.clone(),
            destructive: tool.destructive,
            digest: tool.digest(),
        }
    }
}

/// The graph item of an MCP server. Its id is the one that `user_tokens` are sent under (CONTRACT X8).
fn mcp_item(server: &TenantMcpServer) -> GraphItem {
    let auth_type = match &server.definition.auth {
        McpAuth::None => "none",
        McpAuth::ApiKey { .. } => "api_key",
        McpAuth::Oauth2 { .. } => "oauth2",
        McpAuth::CustomHeaders { .. } => "custom_headers",
    };
    let name = server.name.to_string();
    // A query may hold a key, and callers see this.
    let mut url = server.definition.url.clone();
    url.set_query(None);
    let settings = serde_json::json!({
        "type": "remote",
        "name": name,
        "url": url,
        "transport": "streamable-http",
        "auth_type": auth_type,
    });
    GraphItem {
        id: name.clone(),
        item_id: name.clone(),
        name,
        kind: "mcp",
        targets: [],
        settings: Some(serde_json::json!({"mcp_settings": settings})),
    }
}

/// An agent in a list.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AgentListItem)]
pub struct AgentItem<'a> {
    id: AgentId,
    organization_id: TenantId,
    name: &'a Name,
    description: Option<&'a str>,
    icon: &'static str,
    instructions: Instructions<'a>,
    status: AgentStatus,
    #[schema(format = DateTime)]
    created_at: String,
    framework: &'static str,
    model_name: &'a str,
    access_scope: &'static str,
}

impl<'a> AgentItem<'a> {
    /// Builds the list item of an agent.
    #[must_use]
    pub fn new(agent: &'a Agent) -> Self {
        Self {
            id: agent.id,
            organization_id: agent.tenant,
            name: &agent.definition.name,
            description: agent.definition.description.as_deref(),
            icon: ICON,
            instructions: instructions(agent),
            status: status(agent),
            created_at: agent.created_at.iso(),
            framework: FRAMEWORK,
            model_name: &agent.definition.model,
            access_scope: "organizational",
        }
    }
}

/// A page of agents.
#[derive(Debug, Serialize, ToSchema)]
pub struct AgentPage<'a> {
    /// Oldest first.
    pub items: Vec<AgentItem<'a>>,
    /// The total number of agents.
    pub total: u64,
    /// The number of this page, from 1.
    pub page: u32,
    /// The maximum number of items per page.
    pub per_page: u32,
    /// The total number of pages.
    pub total_pages: u64,
}

fn instructions(agent: &Agent) -> Instructions<'_> {
    Instructions { role: [], goal: [], general: &agent.definition.instructions }
}

fn status(agent: &Agent) -> AgentStatus {
    if agent.enabled { AgentStatus::Active } else { AgentStatus::Inactive }
}
