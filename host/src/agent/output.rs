//! Answers in a required form: JSON that fits the agent's `output_schema`. Where a model's provider can hold it to a
//! schema, the schema goes with each turn. Elsewhere the model answers by calling a tool whose arguments have the form.
//! Either way the answer is checked here, and a wrong one is corrected once.

use serde_json::{Value, json};

use super::schema::SchemaCheck;
use crate::tool::{FINAL_ANSWER, Tool};

/// The longest schema, in bytes of JSON.
const SCHEMA_BYTES_MAX: usize = 64 << 10;

/// The field of the tool's arguments that holds an answer that is no object.
const WRAPPED: &str = "answer";

/// The form of an agent's answers.
pub(super) struct OutputForm<'a> {
    schema: &'a Value,
    check: SchemaCheck,
}

/// Checks a schema of an agent's definition.
///
/// # Errors
/// Why it cannot be used, as the rest of a sentence that begins with its name.
pub fn check_output_schema(schema: &Value) -> Result<(), &'static str> {
    if !schema.is_object() {
        return Err("is not a JSON object");
    }
    if schema.to_string().len() > SCHEMA_BYTES_MAX {
        return Err("is longer than 64 KiB");
    }
    if !SchemaCheck::new(schema).is_effective() {
        return Err(
            "is not a schema that answers can be checked against: JSON Schema 2020-12, without references to \
                    elsewhere, and with at most 4,096 subschemas",
        );
    }
    Ok(())
}

impl<'a> OutputForm<'a> {
    /// The form that this schema describes.
    pub(super) fn new(schema: &'a Value) -> Self {
        Self { schema, check: SchemaCheck::new(schema) }
    }

    pub(super) fn schema(&self) -> &'a Value {
        self.schema
    }

    /// The answer in a model's text, which may be fenced as code.
    ///
    /// # Errors
    /// What is wrong, in one sentence.
    pub(super) fn parse(&self, text: &str) -> Result<String, String> {
        let json = without_fence(text.trim());
        let value =
            serde_json::from_str(json).map_err(|error| format!("it is not JSON: {error}"))?;
        self.check.check(&value)?;
        Ok(json.to_owned())
    }

    /// What the model is asked for after a wrong answer.
    pub(super) fn correction(&self, problem: &str, is_text: bool) -> String {
        let problem =
            format!("This answer does not have the required form ({problem}). Answer again");
        if is_text {
            format!("{problem}, with nothing but JSON that fits this schema: {}", self.schema)
        } else {
            format!("{problem}, by a call of {FINAL_ANSWER}.")
        }
    }

    /// The tool that takes the answer.
    pub(super) fn tool(&self) -> Tool {
        let input_schema = match self.takes_objects() {
            true => self.schema.clone(),
            false => json!({
                "type": "object",
                "properties": {WRAPPED: self.schema},
                "required": [WRAPPED],
                "additionalProperties": false,
            }),
        };
        Tool {
            name: FINAL_ANSWER.to_owned(),
            description: "Gives your final answer, in the required form. Call it once, alone, when your work is done. \
                What you write besides is not read."
                .to_owned(),
            input_schema,
            output_schema: None,
            destructive: false,
            idempotent: true,
        }
    }

    /// The answer in the arguments of a call of the tool, which have been checked.
    pub(super) fn answer_in(&self, arguments: &str) -> String {
        if self.takes_objects() {
            return arguments.to_owned();
        }
        let wrapped: Option<Value> = serde_json::from_str(arguments).ok();
        let answer = wrapped.as_ref().and_then(|wrapped| wrapped.get(WRAPPED));
        answer.map(Value::to_string).unwrap_or_default()
    }

    /// Whether all answers are objects, as arguments of tools have to be. References are local to the schema's root, so
    /// such a schema must stay the root.
    fn takes_objects(&self) -> bool {
        self.schema.get("type").is_some_and(|kind| kind == "object")
    }
}

/// The text within a fence of code, or the text itself.
fn without_fence(text: &str) -> &str {
    let fenced = text.strip_prefix("```").and_then(|text| text.strip_suffix("```"));
    let Some((language, text)) = fenced.and_then(|text| text.split_once('\n')) else { return text };
    match language.trim() {
        "" | "json" => text.trim(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_json_of_the_form_fenced_or_not() {
        let schema =
            json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
        let form = OutputForm::new(&schema);
        for good in
            ["{\"n\": 1}", " {\"n\": 1}\n", "```json\n{\"n\": 1}\n```", "```\n{\"n\": 1}```"]
        {
            assert_eq!(form.parse(good).as_deref(), Ok("{\"n\": 1}"), "{good}");
        }
        for bad in [
            "", "1", "{}", "{\"n\": \"1\"}", "It is {\"n\": 1}", "```\n```", "```", "``````",
            "{\"n\": 1} {}",
        ] {
            assert!(form.parse(bad).is_err(), "{bad}");
        }
        assert_eq!(form.answer_in("{\"n\":1}"), "{\"n\":1}");
    }

    #[test]
    fn an_answer_that_is_no_object_is_wrapped_for_the_tool() {
        let schema = json!({"type": "array", "items": {"type": "string"}});
        let form = OutputForm::new(&schema);
        assert_eq!(form.tool().input_schema["properties"]["answer"], schema);
        assert_eq!(form.answer_in("{\"answer\": [\"a\"]}"), "[\"a\"]");
    }

    #[test]
    fn schemas_that_cannot_be_checked_are_refused() {
        assert_eq!(check_output_schema(&json!({"type": "object"})), Ok(()));
        for bad in [
            json!(true),
            json!({"$ref": "https://example.com/a.json"}),
            json!({"type": 1}),
            json!({"description": "x".repeat(SCHEMA_BYTES_MAX)}),
        ] {
            assert!(check_output_schema(&bad).is_err(), "{bad}");
        }
    }
}
