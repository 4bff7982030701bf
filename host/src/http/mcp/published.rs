//! The tools of plugins that the operator publishes. They are called without a run: with the plugin's grants, and with
//! as many calls of a tenant at once as it may have runs.

use std::sync::Arc;

use rmcp::ErrorData;
use rmcp::model::{CallToolResult, ContentBlock, Tool as ListedTool, ToolAnnotations};

use super::McpRequest;
use super::server::{McpServices, unavailable};
use crate::agent::qualified_tool_name;
use crate::http::error::ApiError;
use crate::ids::{PluginName, TenantId};
use crate::sandbox::{Binding, Subject};
use crate::tool::Tool;

/// How long a call waits before its second attempt, if its tenant already calls as many tools as it may.
const CALL_WAIT: std::time::Duration = std::time::Duration::from_secs(1);

impl McpServices {
    /// The published tools of a tenant. A plugin that cannot list its tools is left out, and logged.
    pub(super) async fn published_tools(
        &self,
        request: &McpRequest,
    ) -> Result<Vec<ListedTool>, ErrorData> {
        let tenant = request.tenant.tenant();
        let plugins = self.plugins.published(tenant).await;
        let plugins = plugins.map_err(|error| unavailable(error.into()))?;
        let mut listed = Vec::new();
        for plugin in plugins {
            match plugin.list_tools(subject(request, tenant)).await.value {
                Ok(tools) => {
                    listed.extend(tools.into_iter().filter_map(|tool| describe(&plugin, tool)))
                }
                Err(error) => {
                    let plugin = plugin.name();
                    tracing::warn!(%tenant, %plugin, %error, "a published plugin cannot list its tools");
                }
            }
        }
        Ok(listed)
    }

    /// Calls a published tool. None if there is none of this name.
    pub(super) async fn call_published_tool(
        &self,
        request: &McpRequest,
        name: &str,
    ) -> Result<Option<CallToolResult>, ErrorData> {
        let tenant = request.tenant.tenant();
        let Some(plugin) = name.split_once("__").and_then(|(plugin, _)| plugin.parse().ok()) else {
            return Ok(None);
        };
        let plugin: PluginName = plugin;
        let binding = self.plugins.published_plugin(tenant, &plugin).await;
        let Some(binding) = binding.map_err(|error| unavailable(error.into()))? else {
            return Ok(None);
        };
        let permit = self.operations.acquire_within(CALL_WAIT, tenant).await;
        let Some(_permit) = permit else {
            let max = self.operations.per_key_max();
            let detail = format!("{max} tools of the organization are being called directly");
            return Err(unavailable(ApiError::caller(429, detail)));
        };
        let subject = subject(request, tenant);
        let listed = binding.list_tools(subject.clone()).await.value;
        let listed = match listed {
            Ok(listed) => listed,
            Err(error) => return Ok(Some(failed(format!("{name}: {error}")))),
        };
        let is_named = |tool: &&Tool| qualified_tool_name(plugin.as_str(), &tool.name) == name;
        let Some(tool) = listed.iter().find(is_named) else { return Ok(None) };
        let arguments = request.arrival.incoming.payload.find("/params/arguments");
        let arguments = arguments.filter(|json| *json != "null").unwrap_or("{}").to_owned();
        let called = tokio::select! {
            called = binding.call_tool(subject, tool.name.clone(), arguments) => called.value,
            // Otherwise the connection would be dropped without a response.
            () = self.submitter.shutdown_deadline.cancelled() => {
                return Err(unavailable(ApiError::stopping("the tool")));
            }
        };
        Ok(Some(match called {
            Ok(json) => {
                tracing::info!(tool = name, "a published tool was called");
                let structured = tool.output_schema.as_ref().filter(|schema| is_of_object(schema));
                let structured = structured.and_then(|_| serde_json::from_str(&json).ok());
                let mut result = CallToolResult::success(vec![ContentBlock::text(json)]);
                result.structured_content = structured.filter(serde_json::Value::is_object);
                result
            }
            Err(error) => {
                // There is no trace of such a call, so only the log can show a missing grant.
                tracing::warn!(tool = name, %error, "a published tool failed");
                failed(format!("{name}: {error}"))
            }
        }))
    }
}

/// A result that the caller's model reads as an error.
pub(super) fn failed(why: impl Into<String>) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(why.into())])
}

/// Whether a schema is one that results of all revisions may have.
pub(super) fn is_of_object(schema: &serde_json::Value) -> bool {
    schema.get("type").is_some_and(|kind| kind == "object")
}

fn subject(request: &McpRequest, tenant: TenantId) -> Subject {
    Subject::of_tenant(tenant, request.arrival.request_id)
}

/// A tool as clients see it. None if its schema is no object, which clients would refuse the whole list for.
fn describe(plugin: &Arc<Binding>, tool: Tool) -> Option<ListedTool> {
    let name = qualified_tool_name(plugin.name().as_str(), &tool.name);
    let serde_json::Value::Object(input_schema) = tool.input_schema else { return None };
    let mut listed = ListedTool::new(name, tool.description, Arc::new(input_schema));
    listed.output_schema = tool.output_schema.and_then(|schema| match schema {
        serde_json::Value::Object(object) if object.get("type")? == "object" => {
            Some(Arc::new(object))
        }
        _ => None,
    });
    listed.annotations = Some(
        ToolAnnotations::new()
            .read_only(!tool.destructive)
            .destructive(tool.destructive)
            .idempotent(tool.idempotent),
    );
    Some(listed)
}
