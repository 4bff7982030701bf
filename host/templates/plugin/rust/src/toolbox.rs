//! Tools that an agent may call; one to one with MCP tools.
//!
//! This one has a single tool, `count_words`, since language models count badly.

use serde_json::{Value, json};
use wardgate_sdk::toolbox::{Guest, Tool};
use wardgate_sdk::{Failure, Json};

/// The arguments as JSON Schema. The model reads it, so describe what is not plain.
const INPUT: &str = r#"{
  "type": "object",
  "properties": {"text": {"type": "string", "description": "The text whose words to count"}},
  "required": ["text"],
  "additionalProperties": false
}"#;

/// Without annotations a tool counts as one that destroys things, and webhook tasks may not call it.
const ANNOTATIONS: &str = r#"{"readOnlyHint": true, "openWorldHint": false}"#;

struct Toolbox;

impl Guest for Toolbox {
    fn list_tools() -> Result<Vec<Tool>, Failure> {
        let tool = Tool::new("count_words", "Counts the words of a text.", INPUT);
        Ok(vec![tool.with_annotations(ANNOTATIONS)])
    }

    fn call_tool(name: String, arguments: Json) -> Result<Json, Failure> {
        // A failure is shown to the model as the tool's error, so that it can do better.
        if name != "count_words" {
            return Err(Failure::not_found(format!("there is no tool `{name}`")));
        }
        let arguments: Value = serde_json::from_str(&arguments)
            .map_err(|error| Failure::invalid_input(format!("the arguments: {error}")))?;
        let text = arguments
            .get("text")
            .and_then(Value::as_str)
            .ok_or_else(|| Failure::invalid_input("`text` has to be a string"))?;
        Ok(json!({"words": text.split_whitespace().count()}).to_string())
    }
}

wardgate_sdk::export_toolbox!(Toolbox);
