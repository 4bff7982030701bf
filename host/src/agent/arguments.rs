//! Checks the arguments of tool calls against the tools' schemas. Both are untrusted: the model writes the arguments, and
//! the author of a plugin the schema.

use serde_json::Value;

use super::schema::{Checked, SchemaCheck, shortened};
use crate::trace::redact::Redactor;

/// How much of a tool's schema an error repeats to the model, in bytes.
const SCHEMA_BYTES_MAX: usize = 4096;

/// How the text begins with which a call is refused for its arguments.
pub(super) const REFUSED: &str = "the tool was not called, because of its arguments";

/// The check of the arguments of one tool.
pub(super) struct ArgumentCheck {
    /// Arguments that cannot be checked within bounds only have to be an object, and the tool itself checks them.
    schema: SchemaCheck,
    text: String,
}

impl ArgumentCheck {
    /// Prepares the check against a schema.
    pub(super) async fn prepare(schema: &Value) -> Self {
        Self { schema: SchemaCheck::prepare(schema).await, text: schema.to_string() }
    }

    /// Checks the text of arguments.
    ///
    /// # Errors
    /// A text for the model, with the schema that the arguments have to fit.
    pub(super) async fn check(&self, arguments: &str, redactor: &Redactor) -> Result<(), String> {
        let value: Value = serde_json::from_str(arguments)
            .map_err(|error| self.error(&format!("they are not JSON: {error}")))?;
        if !value.is_object() {
            return Err(self.error("they are not a JSON object"));
        }
        match self.schema.check(value).await {
            Checked::Fits | Checked::Unknown => Ok(()),
            Checked::Unfit(problem) => Err(self.error(&shortened(problem, redactor))),
        }
    }

    fn error(&self, problem: &str) -> String {
        let schema = match self.text.len() <= SCHEMA_BYTES_MAX {
            true => format!(" that fits this schema: {}", self.text),
            false => String::new(),
        };
        format!("{REFUSED} ({problem}). Call it again with an object{schema}")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;

    async fn check(arguments: &str, schema: &Value) -> Result<(), String> {
        ArgumentCheck::prepare(schema).await.check(arguments, &Redactor::default()).await
    }

    #[tokio::test]
    async fn arguments_are_an_object_or_refused_with_the_schema() {
        let schema = json!({"type": "object", "properties": {"path": {"type": "string"}}});
        for good in ["{}", " {\"path\": \"a\"}\n"] {
            assert_eq!(check(good, &schema).await, Ok(()), "{good}");
        }
        for bad in [
            "",
            " ",
            "null",
            "[]",
            "[{}]",
            "1",
            "\"{}\"",
            "{",
            "{\"path\"",
            "{\"path\":",
            "{\"path\": \"a\"",
            "{\"path\": \"a}",
            "{path: 1}",
            "{'path': 1}",
            "{\"path\": \"a\",}",
            "{} {}",
            "{}{",
            "{}x",
            "```json\n{}\n```",
            "{\"path\": NaN}",
            "{\"path\": \"\u{1}\"}",
            "undefined",
            "{\"path\": 1}",
        ] {
            let why = check(bad, &schema).await.unwrap_err();
            assert!(why.contains("was not called") && why.contains("\"path\""), "{bad}: {why}");
        }
        let deep = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
        assert!(check(&deep, &schema).await.is_err());
        let long = json!({"description": "x".repeat(SCHEMA_BYTES_MAX)});
        assert!(check("", &long).await.unwrap_err().len() < 300);
    }

    #[tokio::test]
    async fn the_schema_is_followed_through_its_own_references() {
        let schema = json!({
            "type": "object",
            "properties": {
                "to": {"$ref": "#/$defs/address", "description": "Whom to write to."},
                "kind": {"enum": ["a", "b"]},
                "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}, "maxItems": 2},
            },
            "required": ["to"],
            "additionalProperties": false,
            "$defs": {
                "address": {"type": "string", "pattern": "^[^@]+@[^@]+$"},
                "part": {"type": "object", "properties": {"part": {"$ref": "#/$defs/part"}, "n": {"type": "integer"}}},
            },
        });
        for good in [
            json!({"to": "a@b"}),
            json!({"to": "a@b", "kind": "a", "parts": [{"n": 1, "part": {"n": 2}}]}),
        ] {
            assert_eq!(check(&good.to_string(), &schema).await, Ok(()), "{good}");
        }
        for (bad, says) in [
            (json!({}), "\"to\" is a required property"),
            (json!({"to": "nobody"}), "at /to"),
            (json!({"to": "a@b", "kind": "c"}), "at /kind"),
            (json!({"to": "a@b", "other": 1}), "other"),
            (json!({"to": "a@b", "parts": [{"n": "1"}]}), "at /parts/0/n"),
            (json!({"to": "a@b", "parts": [{}, {}, {}]}), "at /parts"),
        ] {
            let why = check(&bad.to_string(), &schema).await.unwrap_err();
            assert!(why.contains(says), "{bad}: {why}");
        }
    }

    #[tokio::test]
    async fn a_property_may_be_called_like_a_keyword() {
        let schema =
            json!({"properties": {"$ref": {"type": "integer"}, "$id": {"type": "integer"}}});
        assert_eq!(check(r#"{"$ref": 1}"#, &schema).await, Ok(()));
        assert!(check(r#"{"$ref": "x"}"#, &schema).await.is_err());
    }

    #[tokio::test]
    async fn a_hostile_schema_costs_little() {
        let mut doubling = Map::new();
        for level in 0..40 {
            let next = json!({"$ref": format!("#/$defs/{}", level + 1)});
            doubling.insert(level.to_string(), json!({"anyOf": [next, next]}));
        }
        doubling.insert("40".to_owned(), json!({"not": {}}));
        let mut deep = json!({});
        for _ in 0..100 {
            deep = json!({"properties": {"a": deep}});
        }
        for schema in [
            json!({"$ref": "#"}),
            json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}),
            json!({"$ref": "#/$defs/0", "$defs": doubling}),
            json!({"$ref": "https://example.com/schema.json"}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"$dynamicRef": "#a"}),
            json!({"properties": {"a": {"pattern": "(a{1000}){1000}"}}}),
            json!({"properties": {"a": {"pattern": "(?=a"}}}),
            json!({"properties": "none"}),
            json!({"type": 1}),
            json!(7),
            deep,
        ] {
            assert_eq!(
                check(r#"{"a": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"}"#, &schema).await,
                Ok(()),
                "{schema}"
            );
            assert!(check("[]", &schema).await.is_err());
        }
        // Linear in what the model wrote, also with a pattern that takes others exponential time.
        let slow = json!({"properties": {"a": {"pattern": "^(a+)+$"}}});
        let arguments = json!({"a": format!("{}!", "a".repeat(60_000))});
        assert!(check(&arguments.to_string(), &slow).await.is_err());
        // More than can be checked within bounds.
        let many = json!({"properties": {"a": {"items": {"anyOf": vec![json!({"type": "string"}); 2000]}}}});
        let arguments = json!({"a": vec![1; 100_000]});
        assert_eq!(check(&arguments.to_string(), &many).await, Ok(()));
    }
}
