//! The trace of a run, step by step: prompts, model turns, tool calls, timing, tokens. Redacted before it is stored.

pub mod log;
pub mod redact;
pub mod usage;

use serde::{Deserialize, Serialize};

use self::usage::{ServedBy, Spending, Usage};
use crate::approval::{ApprovalStatus, DecidedBy};
use crate::clock::Timestamp;

/// One step of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// When it started.
    pub at: Timestamp,
    /// How long it took, in microseconds.
    pub micros: u64,
    /// What happened.
    pub event: Event,
}

/// What happened in a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// The agent's input, as the model saw it.
    Prompt {
        /// The user message, with the payload fenced.
        text: String,
    },
    /// The request carried tokens of the user, for these graph items.
    UserTokens {
        /// The ids of the items. The tokens themselves are stored nowhere.
        items: Vec<String>,
    },
    /// One turn of the model.
    Model {
        /// The model, as the settings name it.
        model: String,
        /// The text of its answer; empty if it only called tools.
        text: String,
        /// The tools that it called.
        tool_calls: Vec<ToolCall>,
        /// Input tokens, if the provider reports them.
        input_tokens: Option<u64>,
        /// Output tokens, if the provider reports them.
        output_tokens: Option<u64>,
        /// The same tokens by class.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        usage: Option<Box<Usage>>,
        /// What it took from budgets.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spending: Option<Spending>,
        /// Who took it. None for `offline`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        served_by: Option<Box<ServedBy>>,
        /// How many attempts it took, if more than one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attempts: Option<u32>,
        /// The model that took the turn, if the agent's own could not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallback: Option<String>,
        /// How often its text broke off and began anew, if it did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        restarts: Option<u32>,
    },
    /// Something that the run went on without, in one sentence: a tool that could not be offered to the model.
    Note {
        /// The sentence.
        text: String,
    },
    /// One call of a tool.
    Tool {
        /// The call.
        call: ToolCall,
        /// The plugin that provides the tool. None if no plugin of the agent does.
        plugin: Option<String>,
        /// The MCP server that provides the tool, if one does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mcp_server: Option<String>,
        /// The result: JSON text, or the error as a sentence.
        result: String,
        /// Whether the result is an error.
        is_error: bool,
        /// Log lines of the plugin.
        logs: Vec<String>,
        /// How the plugin ran. None if it was not called.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ran: Option<Box<PluginRun>>,
    },
    /// A plugin was called about the task after its end: its getter or its replier.
    #[serde(rename = "afterwards")]
    PluginCall {
        /// The function: `get-value`, `reply` or `deliver`.
        call: String,
        /// The plugin.
        plugin: String,
        /// The path that a getter was called with.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// A getter's value, as JSON text. None if it found nothing, and for other calls.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<String>,
        /// What went wrong, in one sentence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// Log lines of the plugin.
        logs: Vec<String>,
        /// How the plugin ran.
        ran: Box<PluginRun>,
    },
    /// A person decided about a call, or nobody did in time. It began when the run asked, and ended with the decision.
    Approval {
        /// The call.
        call: ToolCall,
        /// Whether it is because nobody knows what an interrupted call has done.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_unknown: bool,
        /// The decision.
        decision: ApprovalStatus,
        /// How it came in.
        by: DecidedBy,
        /// What was said with it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        comment: Option<String>,
    },
    /// The end of a run that failed.
    Failure {
        /// One sentence that says what happened and whose fault it was.
        reason: String,
    },
}

/// How a plugin ran in one call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PluginRun {
    /// The digest of the component: `sha256:…`.
    pub digest: String,
    /// A digest of the settings and grants in force.
    pub settings: String,
    /// What the call cost.
    #[serde(flatten)]
    pub cost: Cost,
    /// What the host returned to the plugin that cannot be reproduced: a `sandbox::Recording`, for a replay. Not
    /// shown to callers, who may not be entitled to what an integration's provider returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<serde_json::Value>,
}

/// What one call of a plugin cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Elapsed time from start to end, including waits, in microseconds.
    pub micros: u64,
    /// CPU time within that, of the guest and of the host on its behalf, in microseconds.
    pub cpu_micros: u64,
    /// The peak size of its linear memory, in bytes.
    pub memory_bytes: u64,
}

/// A tool call as requested by the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The model's id for this call.
    pub id: String,
    /// The name of the tool.
    pub name: String,
    /// The arguments as JSON text.
    pub arguments: String,
}
