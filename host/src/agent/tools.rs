//! The tools of one run: maps the names that the model uses to the plugins that implement them.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::OnceCell;

use super::arguments::ArgumentCheck;
use super::context::Context;
use super::permission::Permission;
use super::tool_answer::Answer;
use crate::ids::{AgentId, McpServerName, PluginName, RequestId, TenantId};
use crate::mcp::{McpError, McpServers, McpSession};
use crate::plugins::{PluginUnavailable, Plugins};
use crate::sandbox::{Binding, PluginError, Refusal, Subject};
use crate::secrets::UserTokens;
use crate::tasks::Task;
use crate::tenants::{Agent, AgentMcpServer};
use crate::tool::{FINAL_ANSWER, READ_RESULT, Tool};
use crate::trace::ToolCall;
use crate::trace::redact::Redactor;

/// Why an agent's tools are not available.
#[derive(Debug, thiserror::Error)]
pub enum ToolsError {
    /// One of its plugins is not available.
    #[error("{1}")]
    Unavailable(PluginName, PluginUnavailable),
    /// A plugin cannot list its tools.
    #[error("plugin {0} cannot list its tools: {1}")]
    Plugin(PluginName, PluginError),
}

impl ToolsError {
    /// Whether the error is temporary: there was no room for the plugin call.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Plugin(_, PluginError::Refusal(Refusal::Busy(_))))
    }

    /// Whether the gateway is at fault, and not a plugin.
    fn is_of_store(&self) -> bool {
        matches!(self, Self::Unavailable(_, PluginUnavailable::Store(_)))
    }
}

/// Why a tool is not called.
#[derive(Debug)]
pub enum Unavailable {
    /// The agent has no such tool.
    Unknown,
    /// The agent does not allow it: it may change data, or a policy denies it.
    Denied(String),
}

/// The longest name of a tool that all providers accept, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// A tool that the model may call.
struct Entry {
    /// Its position among the descriptions.
    index: usize,
    source: ToolSource,
    permission: Permission,
    /// The argument that gets the idempotency key, which the model does not see.
    key_argument: Option<String>,
    /// Prepared by the first call in a run.
    check: OnceCell<ArgumentCheck>,
}

/// What carries out the calls of a tool.
enum ToolSource {
    /// A plugin.
    Plugin {
        /// The tool's name within the plugin.
        own_name: String,
        binding: Arc<Binding>,
    },
    /// An MCP server.
    Mcp {
        /// The tool's name at the server.
        own_name: String,
        server: McpServerName,
        session: McpSession,
    },
    /// The run itself: [`READ_RESULT`].
    Context,
    /// The run itself: [`FINAL_ANSWER`].
    Answer,
}

/// The tools of an agent's plugins.
pub struct Tools {
    request_id: RequestId,
    descriptions: Vec<Tool>,
    /// By the names that the model sees.
    by_name: HashMap<String, Entry>,
    notes: Vec<String>,
    /// MCP servers whose tools cannot be had.
    unreachable: Vec<McpServerName>,
}

impl Tools {
    /// Lists the tools of each of the agent's plugins.
    ///
    /// # Errors
    /// If a plugin is not available or cannot list its tools.
    pub async fn for_agent(
        plugins: &Plugins,
        agent: &Agent,
        request_id: RequestId,
    ) -> Result<Self, ToolsError> {
        let mut tools = Self::new(request_id);
        for name in &agent.definition.tools {
            tools.add(plugins, agent, name).await?;
        }
        Ok(tools)
    }

    /// Lists the tools for a run, which goes on without those that cannot be had.
    ///
    /// # Errors
    /// If the store cannot be read, or there is no room for the plugin call at the moment.
    pub(super) async fn for_run(
        plugins: &Plugins,
        mcp: &McpServers,
        agent: &Agent,
        tokens: &UserTokens,
        request_id: RequestId,
    ) -> Result<Self, ToolsError> {
        let mut tools = Self::new(request_id);
        for name in &agent.definition.tools {
            match tools.add(plugins, agent, name).await {
                Err(error) if error.is_transient() || error.is_of_store() => return Err(error),
                Err(error) => tools.notes.push(format!("the run goes on without tools: {error}")),
                Ok(()) => {}
            }
        }
        tools.add_of_mcp_servers(mcp, agent, tokens).await;
        for (tool, argument) in &agent.definition.idempotency_arguments {
            tools.hide_key_argument(tool, argument);
        }
        Ok(tools)
    }

    /// Has an argument of a tool filled in with the idempotency key, in place of the model.
    fn hide_key_argument(&mut self, name: &str, argument: &str) {
        let Some(entry) = self.by_name.get_mut(name) else {
            self.notes.push(format!(
                "idempotency_arguments names the tool {name}, which the agent does not have"
            ));
            return;
        };
        let schema = self.descriptions.get_mut(entry.index).map(|tool| &mut tool.input_schema);
        let properties = schema.and_then(|schema| {
            if let Some(Value::Array(required)) = schema.get_mut("required") {
                required.retain(|required| required != argument);
            }
            schema.get_mut("properties")?.as_object_mut()
        });
        if properties.and_then(|properties| properties.shift_remove(argument)).is_none() {
            self.notes
                .push(format!("the tool {name} has no argument {argument} for an idempotency key"));
            return;
        }
        entry.key_argument = Some(argument.to_owned());
    }

    /// Offers [`READ_RESULT`] beside tools that have results.
    pub(super) fn offer_read_result(&mut self) {
        if !self.descriptions.is_empty() {
            self.insert(read_result(), ToolSource::Context, Permission::Allowed);
        }
    }

    /// Offers this tool, which takes the answer of the run.
    pub(super) fn offer_final_answer(&mut self, tool: Tool) {
        self.insert(tool, ToolSource::Answer, Permission::Allowed);
    }

    /// Leaves out a tool. Returns whether there was one of this name that a run can do without.
    pub(super) fn leave_out(&mut self, name: &str) -> bool {
        let can_do_without = |entry: &Entry| !matches!(entry.source, ToolSource::Answer);
        if !self.by_name.get(name).is_some_and(can_do_without) {
            return false;
        }
        let Some(removed) = self.by_name.remove(name) else { return false };
        self.descriptions.remove(removed.index);
        for entry in self.by_name.values_mut().filter(|entry| entry.index > removed.index) {
            entry.index -= 1;
        }
        true
    }

    fn new(request_id: RequestId) -> Self {
        Self {
            request_id,
            descriptions: Vec::new(),
            by_name: HashMap::new(),
            notes: Vec::new(),
            unreachable: Vec::new(),
        }
    }

    /// Adds the tools of a plugin.
    async fn add(
        &mut self,
        plugins: &Plugins,
        agent: &Agent,
        name: &PluginName,
    ) -> Result<(), ToolsError> {
        let binding = plugins.binding(agent.tenant, name).await;
        let binding = binding.map_err(|error| ToolsError::Unavailable(name.clone(), error))?;
        let subject = self.subject(agent.tenant, agent.id);
        let listed = binding.list_tools(subject).await.value;
        for mut tool in listed.map_err(|error| ToolsError::Plugin(name.clone(), error))? {
            let own_name = tool.name.clone();
            let is_reserved = [READ_RESULT, FINAL_ANSWER].contains(&tool.name.as_str());
            if is_reserved || self.by_name.contains_key(&tool.name) {
                tool.name = qualified_tool_name(name.as_str(), &tool.name);
            }
            if self.by_name.contains_key(&tool.name) {
                self.notes
                    .push(format!("plugin {name} has several tools {own_name}: one is offered"));
                continue;
            }
            let binding = Arc::clone(&binding);
            let qualified = qualified_tool_name(name.as_str(), &own_name);
            let permission = Permission::of_plugins_tool(&agent.definition, &mut tool, &qualified);
            self.insert(tool, ToolSource::Plugin { own_name, binding }, permission);
        }
        Ok(())
    }

    /// Adds the tools of the agent's MCP servers, which are asked at the same time. The run goes on without those that
    /// cannot be had.
    async fn add_of_mcp_servers(&mut self, mcp: &McpServers, agent: &Agent, tokens: &UserTokens) {
        let used = &agent.definition.mcp_servers;
        let opened = used.iter().map(async |used| {
            let token = tokens.get(used.server.as_str());
            let session = mcp.session(agent.tenant, &used.server, token).await?;
            let listed = session.tools(used.allowed_tools.as_deref()).await?;
            Ok::<_, McpError>((session, listed))
        });
        let opened = futures::future::join_all(opened).await;
        for (AgentMcpServer { server, .. }, opened) in used.iter().zip(opened) {
            let (session, listed) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    self.notes.push(format!(
                        "the run goes on without the tools of the MCP server {server}: {error}"
                    ));
                    self.unreachable.push(server.clone());
                    continue;
                }
            };
            let notes = listed.notes.iter().map(|note| format!("the MCP server {server}: {note}"));
            self.notes.extend(notes);
            for mut tool in listed.tools {
                let own_name = std::mem::take(&mut tool.name);
                tool.name = qualified_tool_name(server.as_str(), &own_name);
                if self.by_name.contains_key(&tool.name) {
                    self.notes.push(format!(
                        "the MCP server {server} has several tools {own_name:?}: one is offered"
                    ));
                    continue;
                }
                let (server, session) = (server.clone(), session.clone());
                let permission = Permission::of_servers_tool(&agent.definition, &mut tool);
                self.insert(tool, ToolSource::Mcp { own_name, server, session }, permission);
            }
        }
    }

    fn insert(&mut self, tool: Tool, source: ToolSource, permission: Permission) {
        let index = self.descriptions.len();
        let entry = Entry { index, source, permission, key_argument: None, check: OnceCell::new() };
        self.by_name.insert(tool.name.clone(), entry);
        self.descriptions.push(tool);
    }

    /// Whether a person has to approve a call of this tool.
    pub(super) fn asks(&self, name: &str) -> bool {
        self.by_name.get(name).is_some_and(|entry| matches!(entry.permission, Permission::Asked))
    }

    /// What a run goes on without, one sentence each.
    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The descriptions of the tools, for the model.
    #[must_use]
    pub fn descriptions(&self) -> &[Tool] {
        &self.descriptions
    }

    /// The plugin that has this tool.
    pub(super) fn plugin_of(&self, tool: &str) -> Option<String> {
        match &self.by_name.get(tool)?.source {
            ToolSource::Plugin { binding, .. } => Some(binding.name().to_string()),
            ToolSource::Mcp { .. } | ToolSource::Context | ToolSource::Answer => None,
        }
    }

    /// Whether there is a tool of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The plugin or the MCP server that carries out the calls of this tool.
    pub(super) fn provider_of(&self, tool: &str) -> (Option<String>, Option<String>) {
        (self.plugin_of(tool), self.mcp_server_of(tool))
    }

    /// The MCP server that has this tool.
    fn mcp_server_of(&self, tool: &str) -> Option<String> {
        match &self.by_name.get(tool)?.source {
            ToolSource::Mcp { server, .. } => Some(server.to_string()),
            _ => None,
        }
    }

    /// Checks the arguments of a call. Those of a tool that does not exist pass, since the call says so itself.
    ///
    /// # Errors
    /// A text for the model.
    pub(super) async fn check_arguments(
        &self,
        call: &ToolCall,
        redactor: &Redactor,
    ) -> Result<(), String> {
        let Some(entry) = self.by_name.get(&call.name) else { return Ok(()) };
        let Some(tool) = self.descriptions.get(entry.index) else { return Ok(()) };
        let check = entry.check.get_or_init(|| ArgumentCheck::prepare(&tool.input_schema)).await;
        check.check(&call.arguments, redactor).await
    }

    /// The answer to a call that is not made.
    pub(super) fn refuse(&self, call: &ToolCall, why: String) -> Answer {
        Answer {
            plugin: self.plugin_of(&call.name),
            mcp_server: self.mcp_server_of(&call.name),
            result: why,
            is_error: true,
            logs: Vec::new(),
            ran: None,
        }
    }

    /// Whether a call may change something that a second one would change again. A tool that does not exist changes
    /// nothing, and one that gets an idempotency key changes nothing a second time.
    pub(super) fn must_not_repeat(&self, name: &str) -> bool {
        let takes_key = self.by_name.get(name).is_some_and(|entry| entry.key_argument.is_some());
        let is_called = self
            .by_name
            .get(name)
            .is_some_and(|entry| !matches!(entry.permission, Permission::Denied(_)));
        is_called
            && !takes_key
            && self.description(name).is_some_and(|tool| tool.destructive && !tool.idempotent)
    }

    /// Whether a tool changes nothing.
    pub(super) fn only_reads(&self, name: &str) -> bool {
        self.description(name).is_some_and(|tool| !tool.destructive)
    }

    fn description(&self, name: &str) -> Option<&Tool> {
        self.descriptions.get(self.by_name.get(name)?.index)
    }

    /// Calls a tool for a run with this conversation, and with this idempotency key. Any failure is reported to the
    /// model, and the run continues.
    pub(super) async fn call(
        &self,
        task: &Task,
        context: &Context,
        call: &ToolCall,
        key: String,
    ) -> Answer {
        let entry = match self.find(&call.name) {
            Ok(entry) => entry,
            Err(Unavailable::Unknown) => {
                let is_of = |server: &&McpServerName| {
                    let rest = call.name.strip_prefix(server.as_str());
                    rest.is_some_and(|rest| rest.starts_with("__"))
                };
                let why = match self.unreachable.iter().find(is_of) {
                    Some(server) => {
                        format!(
                            "{}: it was not called: the MCP server {server} cannot be used now",
                            call.name
                        )
                    }
                    None => format!("the agent has no tool {:?}", call.name),
                };
                return self.refuse(call, why);
            }
            Err(Unavailable::Denied(why)) => return self.refuse(call, why),
        };
        let subject = self.subject(task.tenant, task.agent);
        let arguments = match &entry.key_argument {
            None => call.arguments.clone(),
            Some(argument) => with_argument(&call.arguments, argument, &key),
        };
        let (own_name, binding) = match &entry.source {
            ToolSource::Plugin { own_name, binding } => (own_name.clone(), binding),
            ToolSource::Mcp { own_name, session, .. } => {
                let called = session.call(own_name, &arguments, &key).await;
                let (result, is_error) =
                    called.unwrap_or_else(|error| (format!("{}: {error}", call.name), true));
                return Answer { is_error, ..self.refuse(call, result) };
            }
            // The conversation takes it before it comes to a call.
            ToolSource::Answer => {
                return self.refuse(call, format!("{}: there is no answer to take", call.name));
            }
            ToolSource::Context => {
                let read = context.read_result(&call.arguments);
                let is_error = read.is_err();
                let result = read.unwrap_or_else(|why| format!("{}: {why}", call.name));
                return Answer { is_error, ..self.refuse(call, result) };
            }
        };
        let subject = Subject { idempotency_key: Some(key.into()), ..subject };
        let mut called = binding.call_tool(subject, own_name, arguments).await;
        let ran = Some(Box::new(called.take_run()));
        let (result, is_error) = match called.value {
            Ok(json) => (json, false),
            Err(error) => (format!("{}: {error}", call.name), true),
        };
        Answer { is_error, logs: called.logs, ran, ..self.refuse(call, result) }
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
        // Those of an agent, outside a run, are all plugins'.
        let entry = self.find(name)?;
        let ToolSource::Plugin { own_name, binding } = &entry.source else {
            return Err(Unavailable::Unknown);
        };
        if matches!(entry.permission, Permission::Asked) {
            return Err(Unavailable::Denied(format!(
                "a person has to approve each call of the tool {name}, which only a run can wait for (tool_policies)"
            )));
        }
        let subject = self.subject(agent.tenant, agent.id);
        Ok(binding.call_tool(subject, own_name.clone(), arguments).await.value)
    }

    fn find(&self, name: &str) -> Result<&Entry, Unavailable> {
        let entry = self.by_name.get(name).ok_or(Unavailable::Unknown)?;
        match &entry.permission {
            Permission::Denied(why) => Err(Unavailable::Denied(why.clone())),
            Permission::Allowed | Permission::Asked => Ok(entry),
        }
    }

    fn subject(&self, tenant: TenantId, agent: AgentId) -> Subject {
        Subject::new(tenant, agent, self.request_id)
    }
}

/// The arguments of a call, which are a JSON object, with a further one.
fn with_argument(arguments: &str, name: &str, value: &str) -> String {
    match serde_json::from_str(arguments) {
        Ok(Value::Object(mut fields)) => {
            fields.insert(name.to_owned(), value.into());
            Value::Object(fields).to_string()
        }
        _ => arguments.to_owned(),
    }
}

fn read_result() -> Tool {
    Tool {
        name: READ_RESULT.to_owned(),
        description: "Reads on in the result of an earlier tool call that was shown in part only."
            .to_owned(),
        input_schema: serde_json::json!({
            "type": "object",
            "properties": {
                "result": {"type": "integer", "minimum": 1, "description": "The number of the result."},
                "offset": {"type": "integer", "minimum": 0, "description": "The first byte to read."},
            },
            "required": ["result", "offset"],
            "additionalProperties": false,
        }),
        output_schema: None,
        destructive: false,
        idempotent: true,
    }
}

/// The name of a tool with its provider's in front, in the letters and the length that all models' providers accept:
/// `provider__tool`. It does not depend on what other tools there are. A name that has to be changed for that ends with a
/// digest, so that it stays apart from others.
#[must_use]
pub fn qualified_tool_name(provider: &str, tool: &str) -> String {
    let name = format!("{provider}__{tool}");
    let is_accepted = |char: char| char.is_ascii_alphanumeric() || "_-".contains(char);
    if name.len() <= NAME_BYTES_MAX && name.chars().all(is_accepted) {
        return name;
    }
    let digest = blake3::hash(name.as_bytes()).to_hex();
    let accepted = name.chars().map(|char| if is_accepted(char) { char } else { '_' });
    let start: String = accepted.take(NAME_BYTES_MAX - 7).collect();
    format!("{start}_{}", digest.get(..6).unwrap_or_default())
}
