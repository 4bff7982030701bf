//! The tool `calculate`, which evaluates an arithmetic expression. Language models calculate badly, so this
//! is usually the first tool of an agent. It needs no capabilities.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

mod expression;

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};
use serde::Deserialize;
use serde_json::{Value, json};
use wardgate_sdk::toolbox::{Guest, Tool};
use wardgate_sdk::{Failure, Json};

const DESCRIPTION: &str = "Calculates the value of an arithmetic expression. Knows + - * / % ^, \
    parentheses, decimals, and the functions sqrt, abs, round, min and max.";

const INPUT_SCHEMA: &str = r#"{
  "type": "object",
  "properties": {
    "expression": {"type": "string", "description": "For example: (2.5 + 4) * sqrt(9)"}
  },
  "required": ["expression"],
  "additionalProperties": false
}"#;

const OUTPUT_SCHEMA: &str = r#"{
  "type": "object",
  "properties": {
    "expression": {"type": "string"},
    "value": {"type": "number"}
  },
  "required": ["expression", "value"],
  "additionalProperties": false
}"#;

const ANNOTATIONS: &str = r#"{
  "readOnlyHint": true,
  "destructiveHint": false,
  "idempotentHint": true,
  "openWorldHint": false
}"#;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    expression: String,
}

struct Calculator;

impl Guest for Calculator {
    fn list_tools() -> Result<Vec<Tool>, Failure> {
        Ok(vec![
            Tool::new("calculate", DESCRIPTION, INPUT_SCHEMA)
                .with_output_schema(OUTPUT_SCHEMA)
                .with_annotations(ANNOTATIONS),
        ])
    }

    fn call_tool(name: String, arguments: Json) -> Result<Json, Failure> {
        if name != "calculate" {
            return Err(Failure::not_found(format!("there is no tool `{name}`")));
        }
        let Arguments { expression } = serde_json::from_str(&arguments)
            .map_err(|error| Failure::invalid_input(format!("the arguments: {error}")))?;
        let value = expression::evaluate(&expression)
            .map_err(|error| Failure::invalid_input(error.to_string()))?;
        Ok(json!({"expression": expression, "value": json_number(value)}).to_string())
    }
}

/// Whole numbers are written without a fraction, because a model that reads `4.0` repeats `4.0`.
fn json_number(value: f64) -> Value {
    // 2^53: up to here, a float represents every whole number exactly.
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if libm::trunc(value) == value && value.abs() <= WHOLE_MAX {
        Value::from(value as i64)
    } else {
        Value::from(value)
    }
}

wardgate_sdk::without_std!();
wardgate_sdk::export_toolbox!(Calculator);
