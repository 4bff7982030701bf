//! A tool that an agent may call, as described to the model.

/// The name of the tool that reads on in a result of which the model was shown a part. It is the gateway's own.
pub const READ_RESULT: &str = "read_result";

/// The name of the tool that takes an answer in a required form. It is the gateway's own.
pub const FINAL_ANSWER: &str = "final_answer";

/// A tool; corresponds to an MCP tool.
#[derive(Debug, Clone)]
pub struct Tool {
    /// Its name: letters, digits, `_` and `-`.
    pub name: String,
    /// What it does, for the model.
    pub description: String,
    /// JSON Schema of its arguments.
    pub input_schema: serde_json::Value,
    /// JSON Schema of its result, if declared.
    pub output_schema: Option<serde_json::Value>,
    /// Whether it may change data. True unless its annotations say otherwise.
    pub destructive: bool,
    /// Whether a second call with the same arguments changes nothing more. False unless its annotations say so.
    pub idempotent: bool,
}

impl Tool {
    /// A digest of all that is known of the tool but its name: a tool with another one does something else.
    #[must_use]
    pub fn digest(&self) -> String {
        let Self { name: _, description, input_schema, output_schema, destructive, idempotent } =
            self;
        let facts =
            serde_json::json!([description, input_schema, output_schema, destructive, idempotent]);
        let digest = blake3::hash(facts.to_string().as_bytes()).to_hex();
        format!("blake3:{}", digest.get(..32).unwrap_or_default())
    }
}
