//! Checks JSON against schemas in JSON Schema 2020-12, within bounds: both may be hostile.

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::{Map, Value};

/// How much of what is wrong is said, in characters.
const PROBLEM_CHARS_MAX: usize = 400;

/// The most subschemas that a value is checked against, once references are replaced by what they refer to.
const SUBSCHEMAS_MAX: usize = 4096;

/// The deepest nesting of subschemas.
const DEPTH_MAX: usize = 64;

/// The most pairs of a subschema and a value. Checking them takes well below a second.
const PAIRS_MAX: usize = 4 << 20;

/// The largest compiled pattern of a schema, in bytes.
const PATTERN_BYTES_MAX: usize = 256 << 10;

/// A check against one schema.
pub(super) struct SchemaCheck {
    /// None if the schema is one that cannot be checked within bounds.
    validator: Option<Validator>,
    subschemas: usize,
}

impl SchemaCheck {
    /// Prepares the check. References to elsewhere are not followed.
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
        Self { validator, subschemas: expansion.subschemas }
    }

    /// Whether the schema is one that can be checked.
    pub(super) fn is_effective(&self) -> bool {
        self.validator.is_some()
    }

    /// Checks a value. One that cannot be checked within bounds passes.
    ///
    /// # Errors
    /// What is wrong, in one sentence.
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        let Some(validator) = &self.validator else { return Ok(()) };
        if values(value).saturating_mul(self.subschemas) > PAIRS_MAX {
            return Ok(());
        }
        validator.validate(value).map_err(|error| {
            let path = error.instance_path().to_string();
            let place = if path.is_empty() { String::new() } else { format!("at {path}: ") };
            format!("{place}{error}").chars().take(PROBLEM_CHARS_MAX).collect()
        })
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
