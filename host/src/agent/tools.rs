//! The tools of one run: from the names that the model knows to the plugins that have them.

use std::collections::HashMap;
use std::sync::Arc;

use super::RunError;
use crate::ids::RequestId;
use crate::plugins::Plugins;
use crate::sandbox::{Binding, Subject, Tool};
use crate::tasks::Task;
use crate::tenants::Agent;
use crate::trace::ToolCall;

/// What a tool answered, as the model and the trace see it.
pub(super) struct Answer {
    pub(super) plugin: Option<String>,
    pub(super) result: String,
    pub(super) is_error: bool,
    pub(super) logs: Vec<String>,
}

/// The tools of an agent's plugins.
pub(super) struct Tools {
    request_id: RequestId,
    allow_destructive: bool,
    descriptions: Vec<Tool>,
    by_name: HashMap<String, (usize, Arc<Binding>)>,
}

impl Tools {
    /// Asks each of the agent's plugins what it has.
    pub(super) async fn of(
        plugins: &Plugins,
        agent: &Agent,
        request_id: RequestId,
    ) -> Result<Self, RunError> {
        let mut tools = Self {
            request_id,
            allow_destructive: agent.definition.allow_destructive_tools,
            descriptions: Vec::new(),
            by_name: HashMap::new(),
        };
        for name in &agent.definition.tools {
            let binding = plugins
                .binding(agent.tenant, name)
                .await
                .map_err(|error| RunError::failed(error.to_string()))?;
            let subject = Subject {
                request_id,
                tenant: agent.tenant,
                agent: agent.id,
                request: None,
                task: None,
            };
            let listed = binding.list_tools(subject).await.value.map_err(|error| {
                RunError::failed(format!("plugin {name} cannot say which tools it has: {error}"))
            })?;
            for tool in listed {
                let place = tools.descriptions.len();
                let known = tools.by_name.insert(tool.name.clone(), (place, Arc::clone(&binding)));
                if let Some((_, other)) = known {
                    let (tool, other) = (&tool.name, other.name());
                    return Err(RunError::failed(format!(
                        "the plugins {other} and {name} both have a tool {tool}; the agent can have one"
                    )));
                }
                tools.descriptions.push(tool);
            }
        }
        Ok(tools)
    }

    /// What the model is told of them.
    pub(super) fn descriptions(&self) -> &[Tool] {
        &self.descriptions
    }

    /// Calls one. Whatever goes wrong is told to the model, and the run goes on.
    pub(super) async fn call(&self, task: &Task, call: &ToolCall) -> Answer {
        let refuse = |plugin: Option<String>, result: String| Answer {
            plugin,
            result,
            is_error: true,
            logs: Vec::new(),
        };
        let Some((place, binding)) = self.by_name.get(&call.name) else {
            return refuse(None, format!("the agent has no tool {:?}", call.name));
        };
        let plugin = Some(binding.name().to_string());
        let destructive = self.descriptions.get(*place).is_none_or(|tool| tool.destructive);
        if destructive && !self.allow_destructive {
            let result = format!(
                "the tool {} may change things, and this agent does not let webhook runs call such \
                 tools (allow_destructive_tools)",
                call.name
            );
            return refuse(plugin, result);
        }
        let subject = Subject {
            request_id: self.request_id,
            tenant: task.tenant,
            agent: task.agent,
            request: None,
            task: None,
        };
        let called = binding.call_tool(subject, call.name.clone(), call.arguments.clone()).await;
        let (result, is_error) = match called.value {
            Ok(json) => (json, false),
            Err(error) => (format!("{}: {error}", call.name), true),
        };
        Answer { plugin, result, is_error, logs: called.logs }
    }
}
