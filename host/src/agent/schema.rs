//! Checks JSON against schemas in JSON Schema 2020-12, within bounds: both may be hostile.

use std::sync::Arc;

use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::{Map, Value};

use super::json_length::json_length;
use crate::trace::redact::Redactor;

/// The most subschemas that a value is checked against, once references are replaced by what they refer to.
const SUBSCHEMAS_MAX: usize = 4096;

/// The most bytes of what stands in subschemas, as JSON, and of the paths to them, once references are replaced: each
/// keyword of a prepared schema has its path.
const EXPANDED_BYTES_MAX: usize = 1 << 20;

/// The deepest nesting of subschemas.
const DEPTH_MAX: usize = 64;

/// The most pairs of a subschema and a value. Checking them takes well below a second.
const PAIRS_MAX: usize = 4 << 20;

/// The most patterns of a schema, once references are replaced.
const PATTERNS_MAX: usize = 32;

/// The largest compiled pattern of a schema, in bytes.
const PATTERN_BYTES_MAX: usize = 64 << 10;

/// The most pairs of a pattern and a byte of the value's texts. A byte may cost a hostile pattern tens of microseconds.
const PATTERN_PAIRS_MAX: usize = 64 << 10;

/// A check with at most so many pairs is made at once. A larger one gets a thread that may be busy.
const PAIRS_AT_ONCE_MAX: usize = 16 << 10;

/// A check against one schema. Clones share it.
#[derive(Clone)]
pub(super) struct SchemaCheck(Arc<Compiled>);

#[derive(Default)]
struct Compiled {
    /// None if the schema is one that cannot be checked within bounds.
    validator: Option<Validator>,
    subschemas: usize,
    patterns: usize,
    is_recursive: bool,
}

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Checked {
    /// The value fits the schema.
    Fits,
    /// It does not, for this reason, which may be long and contain names of fields.
    Unfit(String),
    /// It cannot be checked within bounds.
    Unknown,
}

impl SchemaCheck {
    /// Prepares the check. References to elsewhere are not followed.
    pub(super) fn new(schema: &Value) -> Self {
        let mut expansion = Expansion {
            root: schema,
            refs: Vec::new(),
            subschemas: 0,
            bytes: 0,
            path_bytes: 0,
            patterns: 0,
            is_recursive: false,
        };
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
        let Expansion { subschemas, patterns, is_recursive, .. } = expansion;
        Self(Arc::new(Compiled { validator, subschemas, patterns, is_recursive }))
    }

    /// Prepares the check of a schema that may be long, on a thread that may be busy.
    pub(super) async fn prepare(schema: &Value) -> Self {
        if is_short(schema) {
            return Self::new(schema);
        }
        let owned = schema.clone();
        let prepared = tokio::task::spawn_blocking(move || Self::new(&owned)).await;
        // It ends with the process only.
        prepared.unwrap_or_else(|_| Self(Arc::default()))
    }

    /// Whether the schema is one that can be checked as a whole. One that refers to itself is not.
    pub(super) fn is_complete(&self) -> bool {
        self.0.validator.is_some() && !self.0.is_recursive
    }

    /// Checks a value.
    pub(super) async fn check(&self, value: Value) -> Checked {
        let Compiled { subschemas, patterns, .. } = *self.0;
        if self.0.validator.is_none() {
            return Checked::Unknown;
        }
        let size = Size::of(&value);
        let (pairs, pattern_pairs) =
            (size.values.saturating_mul(subschemas), size.text_bytes.saturating_mul(patterns));
        if pairs > PAIRS_MAX || pattern_pairs > PATTERN_PAIRS_MAX {
            return Checked::Unknown;
        }
        if pairs + pattern_pairs <= PAIRS_AT_ONCE_MAX {
            return self.0.check(&value);
        }
        let compiled = Arc::clone(&self.0);
        let checked = tokio::task::spawn_blocking(move || compiled.check(&value)).await;
        checked.unwrap_or(Checked::Unknown)
    }
}

impl Compiled {
    fn check(&self, value: &Value) -> Checked {
        let Some(validator) = &self.validator else { return Checked::Unknown };
        match validator.validate(value) {
            Ok(()) => Checked::Fits,
            Err(error) => {
                let path = error.instance_path().to_string();
                let place = if path.is_empty() { String::new() } else { format!("at {path}: ") };
                // Without the value, which may be long.
                Checked::Unfit(format!("{place}{}", error.masked()))
            }
        }
    }
}

/// How much of what is wrong is said, in characters.
const PROBLEM_CHARS_MAX: usize = 400;

/// What is wrong, in the length in which it is said: redacted before, as a part of a secret would not be found.
pub(super) fn shortened(problem: String, redactor: &Redactor) -> String {
    redactor.text(problem).chars().take(PROBLEM_CHARS_MAX).collect()
}

/// Whether a schema is prepared in next to no time.
fn is_short(schema: &Value) -> bool {
    const SHORT_BYTES: usize = 4096;
    json_length(schema, SHORT_BYTES).is_some()
}

/// How large a document is.
#[derive(Default)]
struct Size {
    values: usize,
    /// Of texts and of names of fields.
    text_bytes: usize,
}

impl Size {
    fn of(value: &Value) -> Self {
        let mut size = Self::default();
        size.add(value);
        size
    }

    fn add(&mut self, value: &Value) {
        self.values += 1;
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.add(item)),
            Value::Object(fields) => fields.iter().for_each(|(name, value)| {
                self.text_bytes += name.len();
                self.add(value);
            }),
            Value::String(text) => self.text_bytes += text.len(),
            _ => {}
        }
    }
}

/// Replaces local references by what they refer to, so that the work of a check is bounded by the size of the schema:
/// with references, a few lines can refer to each other a billion times.
struct Expansion<'a> {
    root: &'a Value,
    /// The references that are being replaced. One within itself allows anything.
    refs: Vec<&'a str>,
    subschemas: usize,
    /// Of what was copied, and of the paths to it.
    bytes: usize,
    /// Of the path to the subschema that is being expanded.
    path_bytes: usize,
    patterns: usize,
    /// Whether a reference stands within itself.
    is_recursive: bool,
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
            self.bytes += self.path_bytes + keyword.len();
            if self.bytes > EXPANDED_BYTES_MAX {
                return None;
            }
            let value = match keyword.as_str() {
                "$schema" | "$defs" | "definitions" | "$comment" | "title" | "description"
                | "default" | "examples" => continue,
                "$ref" => {
                    let target = self.reference(value.as_str()?, depth)?;
                    push_all_of(&mut expanded, target);
                    continue;
                }
                // They are checked twice at each level, so that nested ones take exponential time.
                "unevaluatedItems" | "unevaluatedProperties" => return None,
                // Their meaning depends on where they stand.
                "$id" | "$anchor" | "$dynamicRef" | "$dynamicAnchor" | "$recursiveRef"
                | "$vocabulary" => {
                    return None;
                }
                "properties" | "patternProperties" | "dependentSchemas" => {
                    let fields = value.as_object()?;
                    if keyword == "patternProperties" {
                        self.add_patterns(fields.len())?;
                    }
                    let fields = fields.iter();
                    let fields = fields.map(|(name, schema)| {
                        self.path_bytes += name.len();
                        let expanded = self.subschema(schema, depth + 1);
                        self.path_bytes -= name.len();
                        Some((name.clone(), expanded?))
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
                | "propertyNames" => self.subschema(value, depth + 1)?,
                _ => {
                    if keyword == "pattern" {
                        self.add_patterns(1)?;
                    }
                    self.copy(value)?
                }
            };
            expanded.insert(keyword.clone(), value);
        }
        Some(expanded.into())
    }

    fn add_patterns(&mut self, more: usize) -> Option<()> {
        self.patterns += more;
        (self.patterns <= PATTERNS_MAX).then_some(())
    }

    /// Copies the value of a keyword that does not take a schema. None beyond the bounds.
    fn copy(&mut self, value: &Value) -> Option<Value> {
        self.bytes += json_length(value, EXPANDED_BYTES_MAX.saturating_sub(self.bytes))?;
        Some(value.clone())
    }

    fn reference(&mut self, reference: &'a str, depth: usize) -> Option<Value> {
        if self.refs.contains(&reference) {
            self.is_recursive = true;
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
