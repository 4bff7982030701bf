//! The tools of one run: maps the names that the model uses to the plugins that implement them.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use crate::ids::{AgentId, PluginName, RequestId, TenantId};
use crate::plugins::{PluginUnavailable, Plugins};
use crate::sandbox::{Binding, PluginError, Refusal, Subject};
use crate::tasks::Task;
use crate::tenants::{Agent, AgentDefinition};
use crate::tool::Tool;
use crate::trace::{PluginRun, ToolCall};

/// The result of a tool call, as the model and the trace see it.
pub(super) struct Answer {
    pub(super) plugin: Option<String>,
    pub(super) result: String,
    pub(super) is_error: bool,
    pub(super) logs: Vec<String>,
    pub(super) ran: Option<Box<PluginRun>>,
}

impl Answer {
    /// Cuts the answer to the run's remaining byte budget and charges it. The result goes first, and is replaced
    /// by an error if it does not fit; then come log lines, then the recording for a replay.
    pub(super) fn within(mut self, bytes_left: &mut usize) -> Self {
        if !take(bytes_left, self.result.len()) {
            self.result = format!(
                "its answer of {} bytes is left out: the tools of this run have answered as much as they may",
                self.result.len()
            );
            self.is_error = true;
        }
        self.logs.retain(|line| take(bytes_left, line.len()));
        if let Some(ran) = &mut self.ran {
            ran.recording = ran.recording.take().filter(|recording| {
                let mut length = Length(0);
                serde_json::to_writer(&mut length, recording).is_ok() && take(bytes_left, length.0)
            });
        }
        self
    }
}

/// Takes this many bytes from the budget, if it has that many.
fn take(bytes_left: &mut usize, bytes: usize) -> bool {
    let left = bytes_left.checked_sub(bytes);
    *bytes_left = left.unwrap_or(*bytes_left);
    left.is_some()
}

/// Counts the bytes that are written.
struct Length(usize);

impl io::Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Why an agent's tools are not available.
#[derive(Debug, thiserror::Error)]
pub enum ToolsError {
    /// One of its plugins is not available.
    #[error(transparent)]
    Unavailable(#[from] PluginUnavailable),
    /// A plugin cannot list its tools.
    #[error("plugin {0} cannot say which tools it has: {1}")]
    Plugin(PluginName, PluginError),
    /// Two plugins have a tool with the same name.
    #[error("the plugins {first} and {second} both have a tool {tool}; the agent can have one")]
    SameName {
        /// The tool's name.
        tool: String,
        /// The plugin that was listed first.
        first: PluginName,
        /// The other plugin.
        second: PluginName,
    },
}

impl ToolsError {
    /// Whether the error is temporary: there was no room for the plugin call.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Plugin(_, PluginError::Refusal(Refusal::Busy(_))))
    }
}

/// Why a tool is not called.
#[derive(Debug)]
pub enum Unavailable {
    /// The agent has no such tool.
    Unknown,
    /// It may change data, and the agent does not allow that.
    Destructive(String),
}

/// The tools of an agent's plugins.
pub struct Tools {
    request_id: RequestId,
    allow_destructive: bool,
    descriptions: Vec<Tool>,
    by_name: HashMap<String, (usize, Arc<Binding>)>,
}

impl Tools {
    /// Lists the tools of each of the agent's plugins.
    ///
    /// # Errors
    /// If a plugin is not available or cannot list its tools, or if two plugins have a tool with the same name.
    pub async fn for_agent(
        plugins: &Plugins,
        agent: &Agent,
        request_id: RequestId,
    ) -> Result<Self, ToolsError> {
        Self::of_definition(plugins, (agent.tenant, agent.id), &agent.definition, request_id).await
    }

    /// The same for an agent that has not been stored yet.
    ///
    /// # Errors
    /// As [`Self::for_agent`].
    pub async fn of_definition(
        plugins: &Plugins,
        (tenant, agent): (TenantId, AgentId),
        definition: &AgentDefinition,
        request_id: RequestId,
    ) -> Result<Self, ToolsError> {
        let mut tools = Self {
            request_id,
            allow_destructive: definition.allow_destructive_tools,
            descriptions: Vec::new(),
            by_name: HashMap::new(),
        };
        for name in &definition.tools {
            let binding = plugins.binding(tenant, name).await?;
            let subject = tools.subject(tenant, agent);
            let listed = binding.list_tools(subject).await.value;
            let listed = listed.map_err(|error| ToolsError::Plugin(name.clone(), error))?;
            for tool in listed {
                let index = tools.descriptions.len();
                let known = tools.by_name.insert(tool.name.clone(), (index, Arc::clone(&binding)));
                if let Some((_, other)) = known {
                    let (first, second) = (other.name().clone(), name.clone());
                    return Err(ToolsError::SameName { tool: tool.name, first, second });
                }
                tools.descriptions.push(tool);
            }
        }
        Ok(tools)
    }

    /// The descriptions of the tools, for the model.
    #[must_use]
    pub fn descriptions(&self) -> &[Tool] {
        &self.descriptions
    }

    /// The plugin that has this tool.
    pub(super) fn plugin_of(&self, tool: &str) -> Option<String> {
        self.by_name.get(tool).map(|(_, binding)| binding.name().to_string())
    }

    /// Calls a tool for a run. Any failure is reported to the model, and the run continues.
    pub(super) async fn call(&self, task: &Task, call: &ToolCall) -> Answer {
        let plugin = self.plugin_of(&call.name);
        let refuse = |plugin: Option<String>, result: String| Answer {
            plugin,
            result,
            is_error: true,
            logs: Vec::new(),
            ran: None,
        };
        let binding = match self.find(&call.name) {
            Ok(binding) => binding,
            Err(Unavailable::Unknown) => {
                return refuse(plugin, format!("the agent has no tool {:?}", call.name));
            }
            Err(Unavailable::Destructive(why)) => return refuse(plugin, why),
        };
        let subject = self.subject(task.tenant, task.agent);
        let mut called =
            binding.call_tool(subject, call.name.clone(), call.arguments.clone()).await;
        let ran = Some(Box::new(called.take_run()));
        let (result, is_error) = match called.value {
            Ok(json) => (json, false),
            Err(error) => (format!("{}: {error}", call.name), true),
        };
        Answer { plugin, result, is_error, logs: called.logs, ran }
    }

    /// Calls a tool directly. Arguments and result are JSON text.
    ///
    /// # Errors
    /// [`Unavailable`] if the tool is not called; the inner error comes from the plugin or the sandbox.
    pub async fn call_directly(
        &self,
        agent: &Agent,
        name: &str,
        arguments: String,
    ) -> Result<Result<String, PluginError>, Unavailable> {
        let binding = self.find(name)?;
        let subject = self.subject(agent.tenant, agent.id);
        Ok(binding.call_tool(subject, name.to_owned(), arguments).await.value)
    }

    fn find(&self, name: &str) -> Result<&Arc<Binding>, Unavailable> {
        let (index, binding) = self.by_name.get(name).ok_or(Unavailable::Unknown)?;
        let destructive = self.descriptions.get(*index).is_none_or(|tool| tool.destructive);
        if destructive && !self.allow_destructive {
            return Err(Unavailable::Destructive(format!(
                "the tool {name} may change things, and this agent does not let webhook runs call \
                 such tools (allow_destructive_tools)"
            )));
        }
        Ok(binding)
    }

    fn subject(&self, tenant: TenantId, agent: AgentId) -> Subject {
        Subject::new(tenant, agent, self.request_id)
    }
}
