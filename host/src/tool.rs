//! A tool that an agent may call, as a model is told of it.

/// A tool, one to one with a tool of MCP.
#[derive(Debug, Clone)]
pub struct Tool {
    /// Its name: letters, digits, `_` and `-`.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema of its arguments.
    pub input_schema: serde_json::Value,
    /// JSON Schema of its answer, where it says.
    pub output_schema: Option<serde_json::Value>,
    /// Whether it may change things. True unless its annotations say otherwise.
    pub destructive: bool,
}
