//! Checks the arguments of tool calls against the tools' schemas. Both are untrusted: the model writes the arguments, and
//! the author of a plugin the schema.

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::{Map, Value};

/// How much of a tool's schema an error repeats to the model, in bytes.
const SCHEMA_BYTES_MAX: usize = 4096;

/// How much of what is wrong an error tells the model, in characters.
const PROBLEM_CHARS_MAX: usize = 400;

/// The most subschemas that arguments are checked against, once references are replaced by what they refer to.
const SUBSCHEMAS_MAX: usize = 4096;

/// The deepest nesting of subschemas.
const DEPTH_MAX: usize = 64;

/// The most pairs of a subschema and a value in the arguments. Checking them takes well below a second.
const PAIRS_MAX: usize = 4 << 20;

/// The largest compiled pattern of a schema, in bytes.
const PATTERN_BYTES_MAX: usize = 256 << 10;

/// The check of the arguments of one tool.
pub(super) struct ArgumentCheck {
    /// None if the schema is one that cannot be checked within bounds. Then the arguments only have to be an object, and
    /// the tool itself checks them.
    validator: Option<Validator>,
    subschemas: usize,
    schema: String,
}

impl ArgumentCheck {
    /// Prepares the check against a schema in JSON Schema 2020-12. References to elsewhere are not followed.
    pub(super) fn new(schema: &Value) -> Self {
        let mut expansion = Expansion { root: schema, refs: Vec::new(), subschemas: 0 };
        let expanded = expansion.subschema(schema, 0);
        let validator = expanded.and_then(|schema| {
            let patterns = PatternOptions::regex()
                .size_limit(PATTERN_BYTES_MAX)
                .dfa_size_limit(PATTERN_BYTES_MAX);
            let options = jsonschema::options()
                .with_draft(Draft::Draft202012)
                .should_validate_formats(false)
                .with_pattern_options(patterns);
            options.build(&schema).ok()
        });
        Self { validator, subschemas: expansion.subschemas, schema: schema.to_string() }
    }

    /// Checks the text of arguments.
    ///
    /// # Errors
    /// A text for the model, with the schema that the arguments have to fit.
    pub(super) fn check(&self, arguments: &str) -> Result<(), String> {
        let value: Value = serde_json::from_str(arguments)
            .map_err(|error| self.error(&format!("they are not JSON: {error}")))?;
        if !value.is_object() {
            return Err(self.error("they are not a JSON object"));
        }
        let Some(validator) = &self.validator else { return Ok(()) };
        if values(&value).saturating_mul(self.subschemas) > PAIRS_MAX {
            return Ok(());
        }
        validator.validate(&value).map_err(|error| {
            let path = error.instance_path().to_string();
            let place = if path.is_empty() { String::new() } else { format!("at {path}: ") };
            self.error(&format!("{place}{error}"))
        })
    }

    fn error(&self, problem: &str) -> String {
        let problem: String = problem.chars().take(PROBLEM_CHARS_MAX).collect();
        let schema = match self.schema.len() <= SCHEMA_BYTES_MAX {
            true => format!(" that fits this schema: {}", self.schema),
            false => String::new(),
        };
        format!(
            "the tool was not called, because of its arguments ({problem}). Call it again with an object{schema}"
        )
    }
}

/// The number of values in a document, itself included.
fn values(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(values).sum::<usize>(),
        Value::Object(fields) => 1 + fields.values().map(values).sum::<usize>(),
        _ => 1,
    }
}

/// Replaces local references by what they refer to, so that the work of a check is bounded by the size of the schema:
/// with references, a few lines can refer to each other a billion times.
struct Expansion<'a> {
    root: &'a Value,
    /// The references that are being replaced. One within itself allows anything.
    refs: Vec<&'a str>,
    subschemas: usize,
}

impl<'a> Expansion<'a> {
    /// The subschema without references. None beyond the bounds, or if it refers to elsewhere.
    fn subschema(&mut self, schema: &'a Value, depth: usize) -> Option<Value> {
        self.subschemas += 1;
        if self.subschemas > SUBSCHEMAS_MAX || depth > DEPTH_MAX {
            return None;
        }
        let Value::Object(keywords) = schema else {
            return schema.is_boolean().then(|| schema.clone());
        };
        let mut expanded = Map::new();
        for (keyword, value) in keywords {
            let value = match keyword.as_str() {
                "$schema" | "$defs" | "definitions" | "$comment" | "title" | "description"
                | "default" | "examples" => continue,
                "$ref" => {
                    let target = self.reference(value.as_str()?, depth)?;
                    push_all_of(&mut expanded, target);
                    continue;
                }
                // Their meaning depends on where they stand.
                "$id" | "$anchor" | "$dynamicRef" | "$dynamicAnchor" | "$recursiveRef"
                | "$vocabulary" => {
                    return None;
                }
                "properties" | "patternProperties" | "dependentSchemas" => {
                    let fields = value.as_object()?.iter();
                    let fields = fields.map(|(name, schema)| {
                        Some((name.clone(), self.subschema(schema, depth + 1)?))
                    });
                    fields.collect::<Option<Map<_, _>>>()?.into()
                }
                "allOf" => {
                    for schema in value.as_array()? {
                        let schema = self.subschema(schema, depth + 1)?;
                        push_all_of(&mut expanded, schema);
                    }
                    continue;
                }
                "anyOf" | "oneOf" | "prefixItems" => {
                    let schemas = value.as_array()?.iter();
                    schemas
                        .map(|schema| self.subschema(schema, depth + 1))
                        .collect::<Option<Vec<_>>>()?
                        .into()
                }
                "items"
                | "contains"
                | "not"
                | "if"
                | "then"
                | "else"
                | "additionalProperties"
                | "propertyNames"
                | "unevaluatedItems"
                | "unevaluatedProperties" => self.subschema(value, depth + 1)?,
                _ => value.clone(),
            };
            expanded.insert(keyword.clone(), value);
        }
        Some(expanded.into())
    }

    fn reference(&mut self, reference: &'a str, depth: usize) -> Option<Value> {
        if self.refs.contains(&reference) {
            return Some(true.into());
        }
        let pointer = reference.strip_prefix('#')?;
        let target = self.root.pointer(pointer)?;
        self.refs.push(reference);
        let expanded = self.subschema(target, depth + 1);
        self.refs.pop();
        expanded
    }
}

fn push_all_of(expanded: &mut Map<String, Value>, schema: Value) {
    if let Value::Array(all) = expanded.entry("allOf").or_insert_with(|| Value::Array(Vec::new())) {
        all.push(schema);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(arguments: &str, schema: &Value) -> Result<(), String> {
        ArgumentCheck::new(schema).check(arguments)
    }

    #[test]
    fn arguments_are_an_object_or_refused_with_the_schema() {
        let schema = json!({"type": "object", "properties": {"path": {"type": "string"}}});
        for good in ["{}", " {\"path\": \"a\"}\n"] {
            assert_eq!(check(good, &schema), Ok(()), "{good}");
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
            let why = check(bad, &schema).unwrap_err();
            assert!(why.contains("was not called") && why.contains("\"path\""), "{bad}: {why}");
        }
        let deep = format!("{}1{}", "{\"a\":".repeat(10_000), "}".repeat(10_000));
        assert!(check(&deep, &schema).is_err());
        let long = json!({"description": "x".repeat(SCHEMA_BYTES_MAX)});
        assert!(check("", &long).unwrap_err().len() < 300);
    }

    #[test]
    fn the_schema_is_followed_through_its_own_references() {
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
            assert_eq!(check(&good.to_string(), &schema), Ok(()), "{good}");
        }
        for (bad, says) in [
            (json!({}), "\"to\" is a required property"),
            (json!({"to": "nobody"}), "at /to"),
            (json!({"to": "a@b", "kind": "c"}), "at /kind"),
            (json!({"to": "a@b", "other": 1}), "other"),
            (json!({"to": "a@b", "parts": [{"n": "1"}]}), "at /parts/0/n"),
            (json!({"to": "a@b", "parts": [{}, {}, {}]}), "at /parts"),
        ] {
            let why = check(&bad.to_string(), &schema).unwrap_err();
            assert!(why.contains(says), "{bad}: {why}");
        }
    }

    #[test]
    fn a_property_may_be_called_like_a_keyword() {
        let schema =
            json!({"properties": {"$ref": {"type": "integer"}, "$id": {"type": "integer"}}});
        assert_eq!(check(r#"{"$ref": 1}"#, &schema), Ok(()));
        assert!(check(r#"{"$ref": "x"}"#, &schema).is_err());
    }

    #[test]
    fn a_hostile_schema_costs_little() {
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
                check(r#"{"a": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"}"#, &schema),
                Ok(()),
                "{schema}"
            );
            assert!(check("[]", &schema).is_err());
        }
        // Linear in what the model wrote, also with a pattern that takes others exponential time.
        let slow = json!({"properties": {"a": {"pattern": "^(a+)+$"}}});
        let arguments = json!({"a": format!("{}!", "a".repeat(100_000))});
        assert!(check(&arguments.to_string(), &slow).is_err());
        // More than can be checked within bounds.
        let many = json!({"properties": {"a": {"items": {"anyOf": vec![json!({"type": "string"}); 2000]}}}});
        let arguments = json!({"a": vec![1; 100_000]});
        assert_eq!(check(&arguments.to_string(), &many), Ok(()));
    }
}
