//! Answers in a required form: JSON that fits the agent's `output_schema`. Where a model's provider can hold it to a
//! schema, the schema goes with each turn. Elsewhere the model answers by calling a tool whose arguments have the form.
//! Either way the answer is checked here, and a wrong one is corrected once.

use moka::future::Cache;
use serde_json::{Value, json};

use super::json_length::json_length;
use super::schema::{Checked, SchemaCheck, shortened};
use crate::ids::AgentId;
use crate::tenants::Agent;
use crate::tool::{FINAL_ANSWER, Tool};
use crate::trace::redact::Redactor;

/// The longest schema, in bytes of JSON.
const SCHEMA_BYTES_MAX: usize = 64 << 10;

/// The argument of the tool that holds the answer, unless all answers are objects.
const WRAPPED: &str = "answer";

/// The form of an agent's answers.
pub(super) struct OutputForm<'a> {
    schema: &'a Value,
    check: SchemaCheck,
    redactor: &'a Redactor,
}

/// The most forms that are kept prepared. One may take some megabytes.
const FORMS_MAX: u64 = 64;

/// The forms of agents' answers, prepared. Clones share them.
#[derive(Clone)]
pub struct OutputForms(Cache<(AgentId, u32), SchemaCheck>);

impl std::fmt::Debug for OutputForms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OutputForms({})", self.0.entry_count())
    }
}

impl Default for OutputForms {
    fn default() -> Self {
        Self(Cache::new(FORMS_MAX))
    }
}

impl OutputForms {
    /// The check of an agent's form, in this version of the agent.
    pub(super) async fn of(&self, agent: &Agent, schema: &Value) -> SchemaCheck {
        self.0.get_with((agent.id, agent.version), SchemaCheck::prepare(schema)).await
    }
}

/// Checks a schema of an agent's definition.
///
/// # Errors
/// Why it cannot be used, as the rest of a sentence that begins with its name.
pub async fn check_output_schema(schema: &Value) -> Result<(), &'static str> {
    if !schema.is_object() {
        return Err("is not a JSON object");
    }
    if json_length(schema, SCHEMA_BYTES_MAX).is_none() {
        return Err("is longer than 64 KiB");
    }
    if !SchemaCheck::prepare(schema).await.is_complete() {
        return Err(
            "is not a schema that answers can be checked against: JSON Schema 2020-12, without references to \
             elsewhere or to itself, and with at most 4,096 subschemas and 32 patterns",
        );
    }
    Ok(())
}

impl<'a> OutputForm<'a> {
    /// The form that this schema describes.
    pub(super) fn new(schema: &'a Value, check: SchemaCheck, redactor: &'a Redactor) -> Self {
        Self { schema, check, redactor }
    }

    pub(super) fn schema(&self) -> &'a Value {
        self.schema
    }

    /// The answer in a model's text, which may be fenced as code.
    ///
    /// # Errors
    /// What is wrong, in one sentence.
    pub(super) async fn parse(&self, text: &str) -> Result<String, String> {
        let json = without_fence(text.trim());
        let value =
            serde_json::from_str(json).map_err(|error| format!("it is not JSON: {error}"))?;
        match self.check.check(value).await {
            Checked::Fits => Ok(json.to_owned()),
            Checked::Unfit(problem) => Err(shortened(problem, self.redactor)),
            Checked::Unknown => Err("it is too long to be checked".to_owned()),
        }
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
                "properties": {WRAPPED: wrapped(self.schema)},
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

    /// The answer in the arguments of a call of the tool.
    ///
    /// # Errors
    /// What is wrong, in one sentence.
    pub(super) async fn answer_in(&self, arguments: &str) -> Result<String, String> {
        if self.takes_objects() {
            return self.parse(arguments).await;
        }
        let wrapped: Value =
            serde_json::from_str(arguments).map_err(|error| format!("it is not JSON: {error}"))?;
        match wrapped.get(WRAPPED) {
            Some(answer) => self.parse(&answer.to_string()).await,
            None => Err(format!("{WRAPPED} is missing")),
        }
    }

    /// Whether all answers are objects, as arguments of tools have to be.
    fn takes_objects(&self) -> bool {
        self.schema.get("type").is_some_and(|kind| kind == "object")
    }
}

/// A schema that is no longer the root of its document: its references lead to where it is now.
fn wrapped(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| {
                let value = match value.as_str().and_then(|text| text.strip_prefix('#')) {
                    Some(pointer) if name == "$ref" => {
                        format!("#/properties/{WRAPPED}{pointer}").into()
                    }
                    _ => wrapped(value),
                };
                (name.clone(), value)
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => items.iter().map(wrapped).collect(),
        other => other.clone(),
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
    use std::sync::LazyLock;

    use super::*;

    async fn prepared(schema: &Value) -> OutputForm<'_> {
        static NO_SECRETS: LazyLock<Redactor> = LazyLock::new(Redactor::default);
        OutputForm::new(schema, SchemaCheck::prepare(schema).await, &NO_SECRETS)
    }

    #[tokio::test]
    async fn an_answer_is_json_of_the_form_fenced_or_not() {
        let schema =
            json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
        let form = prepared(&schema).await;
        for good in
            ["{\"n\": 1}", " {\"n\": 1}\n", "```json\n{\"n\": 1}\n```", "```\n{\"n\": 1}```"]
        {
            assert_eq!(form.parse(good).await.as_deref(), Ok("{\"n\": 1}"), "{good}");
        }
        for bad in [
            "", "1", "{}", "{\"n\": \"1\"}", "It is {\"n\": 1}", "```\n```", "```", "``````",
            "{\"n\": 1} {}",
        ] {
            assert!(form.parse(bad).await.is_err(), "{bad}");
            assert!(form.answer_in(bad).await.is_err(), "{bad}");
        }
        assert_eq!(form.answer_in("{\"n\":1}").await.as_deref(), Ok("{\"n\":1}"));
    }

    #[tokio::test]
    async fn an_answer_that_is_no_object_is_wrapped_for_the_tool_and_checked_as_itself() {
        let schema = json!({
            "$defs": {"name": {"type": "string"}}, "type": "array", "items": {"$ref": "#/$defs/name"},
        });
        let form = prepared(&schema).await;
        let wrapped = &form.tool().input_schema["properties"]["answer"];
        assert_eq!(wrapped["items"]["$ref"], "#/properties/answer/$defs/name");
        assert_eq!(form.answer_in("{\"answer\": [\"a\"]}").await.as_deref(), Ok("[\"a\"]"));
        for bad in ["{\"answer\": [1]}", "{\"answer\": \"a\"}", "{}", "[\"a\"]", "x"] {
            assert!(form.answer_in(bad).await.is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_problem_does_not_repeat_the_answer() {
        let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
        let form = prepared(&schema).await;
        let problem = form.parse("{\"n\": \"a secret\"}").await.unwrap_err();
        assert!(problem.starts_with("at /n: ") && !problem.contains("a secret"), "{problem}");
    }

    #[tokio::test]
    async fn an_answer_that_cannot_be_checked_is_not_accepted() {
        let many = json!({"items": {"anyOf": vec![json!({"type": "integer"}); 2_000]}});
        let form = prepared(&many).await;
        assert!(form.parse(&json!(vec![1; 10]).to_string()).await.is_ok());
        let long = form.parse(&json!(vec![1; 10_000]).to_string()).await;
        assert_eq!(long.unwrap_err(), "it is too long to be checked");
        let slow = json!({"type": "string", "pattern": "a[ab]{100}[c-f]"});
        let form = prepared(&slow).await;
        let long = form.parse(&json!("ab".repeat(1 << 20)).to_string()).await;
        assert_eq!(long.unwrap_err(), "it is too long to be checked");
    }

    #[tokio::test]
    async fn schemas_that_cannot_be_checked_are_refused() {
        assert_eq!(check_output_schema(&json!({"type": "object"})).await, Ok(()));
        let large = json!({"enum": vec!["x".repeat(10); 1_000]});
        let doubled: serde_json::Map<String, Value> = (0..10)
            .map(|level| {
                let next = json!({"$ref": format!("#/$defs/{}", level + 1)});
                (level.to_string(), json!({"anyOf": [next, next]}))
            })
            .chain([("10".to_owned(), large)])
            .collect();
        let patterns: Vec<Value> =
            (0..33).map(|number| json!({"pattern": format!("^{number}")})).collect();
        for bad in [
            json!(true),
            json!({"$ref": "https://example.com/a.json"}),
            json!({"type": 1}),
            json!({"description": "x".repeat(SCHEMA_BYTES_MAX)}),
            json!({"properties": {"kids": {"items": {"$ref": "#"}}}}),
            json!({"$ref": "#/$defs/0", "$defs": doubled}),
            json!({"allOf": patterns}),
            json!({"unevaluatedProperties": false}),
            json!({"properties": {"x".repeat(50_000): {"anyOf": vec![json!({"type": "string"}); 100]}}}),
        ] {
            assert!(check_output_schema(&bad).await.is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn nested_choices_take_no_exponential_time() {
        for keyword in ["anyOf", "oneOf", "allOf"] {
            let mut schema = json!({"type": "integer"});
            for _ in 0..30 {
                schema = json!({keyword: [schema], "properties": {"a": {"type": "string"}}});
            }
            assert!(prepared(&schema).await.parse("{\"a\": \"x\"}").await.is_err(), "{keyword}");
            let mut schema = json!({"type": "integer"});
            for _ in 0..40 {
                schema = json!({keyword: [schema], "unevaluatedProperties": false});
            }
            assert!(check_output_schema(&schema).await.is_err(), "{keyword}");
        }
    }
}
