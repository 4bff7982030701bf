//! Whether runs of an agent may call a tool: its policies, else what the tool's annotations say.

use crate::tenants::{AgentDefinition, Policy, ToolPolicy};
use crate::tool::Tool;

/// Whether a run may call a tool.
pub(super) enum Permission {
    Allowed,
    /// Once a person has approved the call.
    Asked,
    /// For this reason.
    Denied(String),
}

impl Permission {
    /// What an agent's policies say about a plugin's tool, by the name that models see or by the qualified one. A tool has
    /// its own name if no other plugin has one of that name at the moment, so a policy for the qualified name counts too,
    /// and the stricter one wins.
    pub(super) fn of_plugins_tool(
        definition: &AgentDefinition,
        tool: &mut Tool,
        qualified: &str,
    ) -> Self {
        let is_named_twice =
            qualified != tool.name && definition.tool_policies.contains_key(qualified);
        let by_qualified = is_named_twice.then(|| {
            let mut tool = Tool { name: qualified.to_owned(), ..tool.clone() };
            Self::of(definition, &mut tool, false)
        });
        let by_name = Self::of(definition, tool, false);
        by_qualified.into_iter().fold(by_name, Self::stricter)
    }

    /// What an agent's policies say about an MCP server's tool.
    pub(super) fn of_servers_tool(definition: &AgentDefinition, tool: &mut Tool) -> Self {
        Self::of(definition, tool, true)
    }

    /// What a policy knows better than the tool's annotations is taken over. The server of a foreign tool can change it.
    fn of(definition: &AgentDefinition, tool: &mut Tool, is_foreign: bool) -> Self {
        let name = &tool.name;
        let policy = definition.tool_policies.get(name);
        let Some(ToolPolicy { policy, digest, only_reads, idempotent }) = policy else {
            return match tool.destructive && !definition.allow_destructive_tools {
                false => Self::Allowed,
                true => Self::Denied(format!(
                    "the tool {name} may change things, and this agent does not let webhook runs call \
                     such tools (allow_destructive_tools, tool_policies)"
                )),
            };
        };
        let is_same = digest.as_ref().is_none_or(|digest| *digest == tool.digest());
        let denied = match policy {
            Policy::Deny => {
                Some(format!("this agent does not let runs call the tool {name} (tool_policies)"))
            }
            _ if !is_same => Some(format!(
                "the tool {name} has changed since this agent was allowed to call it (the digest in tool_policies)"
            )),
            _ if is_foreign && digest.is_none() => Some(format!(
                "tool_policies has no digest for the tool {name}, whose server can change it at any time"
            )),
            Policy::Allow | Policy::Ask => None,
        };
        if let Some(why) = denied {
            return Self::Denied(why);
        }
        tool.destructive = only_reads.map_or(tool.destructive, |only_reads| !only_reads);
        tool.idempotent = idempotent.unwrap_or(tool.idempotent);
        match policy {
            Policy::Ask => Self::Asked,
            _ => Self::Allowed,
        }
    }

    /// The one that permits less.
    fn stricter(self, other: Self) -> Self {
        match (self, other) {
            (denied @ Self::Denied(_), _) | (_, denied @ Self::Denied(_)) => denied,
            (Self::Asked, _) | (_, Self::Asked) => Self::Asked,
            (Self::Allowed, Self::Allowed) => Self::Allowed,
        }
    }
}
