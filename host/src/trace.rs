//! What happened in a run, step by step: prompts, model turns, tool calls, timing, tokens. Redacted
//! before it reaches a store.

pub mod log;
pub mod redact;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// One step of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// When it began.
    pub at: Timestamp,
    /// How long it took, in microseconds.
    pub micros: u64,
    /// What it was.
    pub event: Event,
}

/// What a step was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// What the agent was given: its text, as the model saw it.
    Prompt {
        /// The user message, payload fenced.
        text: String,
    },
    /// Tokens of the user came with the request, for these graph items.
    UserTokens {
        /// Ids of the items; the tokens themselves are nowhere.
        items: Vec<String>,
    },
    /// One turn of the model.
    Model {
        /// Which model, as the settings name it.
        model: String,
        /// What it said; empty where it only called tools.
        text: String,
        /// The tools it asked for.
        tool_calls: Vec<ToolCall>,
        /// Tokens it read, where the provider says so.
        input_tokens: Option<u64>,
        /// Tokens it wrote, where the provider says so.
        output_tokens: Option<u64>,
    },
    /// One call of a tool.
    Tool {
        /// What was called.
        call: ToolCall,
        /// The plugin that has the tool. None where no plugin of the agent has it.
        plugin: Option<String>,
        /// What it answered: JSON text, or the error as a sentence.
        result: String,
        /// Whether the answer is an error.
        is_error: bool,
        /// Log lines of the plugin.
        logs: Vec<String>,
        /// How the plugin ran. None where it was not called.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ran: Option<Box<PluginRun>>,
    },
    /// A plugin was called about the task once it had ended: its getter, or its replier.
    #[serde(rename = "afterwards")]
    PluginCall {
        /// Which function: `get-value`, `reply` or `deliver`.
        call: String,
        /// Which plugin.
        plugin: String,
        /// What it was asked for: a getter's path.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// A getter's value, as JSON text. None where there was nothing, and of other calls.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<String>,
        /// What went wrong, in a sentence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        /// Log lines of the plugin.
        logs: Vec<String>,
        /// How it ran.
        ran: Box<PluginRun>,
    },
    /// The end of a run that failed.
    Failure {
        /// One sentence: what happened and whose fault it was.
        reason: String,
    },
}

/// How a plugin ran in one call.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PluginRun {
    /// Which component it was: `sha256:…`.
    pub digest: String,
    /// A digest of the settings and grants that it had.
    pub settings: String,
    /// What it cost.
    #[serde(flatten)]
    pub cost: Cost,
    /// What the host answered it that could not be had again: a `sandbox::Recording`, for a replay. Not for
    /// callers, since what an integration's provider answered may be none of their business.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<serde_json::Value>,
}

/// What one call of a plugin cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// From its start to its end, waiting included, in microseconds.
    pub micros: u64,
    /// Of these computing, in the guest and in the host for it.
    pub cpu_micros: u64,
    /// Its linear memory at its largest, in bytes.
    pub memory_bytes: u64,
}

/// A tool call as the model asked for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The model's id of this call.
    pub id: String,
    /// The tool.
    pub name: String,
    /// JSON text of the arguments.
    pub arguments: String,
}
