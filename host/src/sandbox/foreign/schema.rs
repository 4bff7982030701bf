//! The JSON Schema (2020-12) of a foreign function's arguments and result: what `from_json` accepts, and what
//! `to_json` writes.
//!
//! | WIT | JSON |
//! |---|---|
//! | integers | a number without a fraction, within the type's range; exact up to 64 bits |
//! | `f32`, `f64` | a number, or `"NaN"`, `"Infinity"`, `"-Infinity"`; rounded to the type's precision |
//! | `char` | a string of one character |
//! | `list<u8>` | a string, base64 with padding (RFC 4648, section 4) |
//! | `list<T>`, `tuple<…>` | an array |
//! | `record` | an object; a field of type `option` may be omitted |
//! | `variant`, `result` | `"case"` without a payload, else `{"case": payload}`; a `result` has `ok` and `err` |
//! | `enum` | the case's name |
//! | `flags` | an array of the names that are set |
//! | `option<T>` | null or the value; for an `option<option<T>>`, null or `{"some": value}` |

use serde_json::{Map, Value, json};

use super::shape::{Outcome, Shape};

/// The strings for floats that JSON has no numbers for.
pub(super) const NOT_FINITE: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// The schema of an arguments object or a record.
pub(super) fn object(fields: &[(String, Shape)]) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|(name, shape)| (name.clone(), json_schema(shape))).collect();
    let required: Vec<_> =
        fields.iter().filter(|(_, shape)| !shape.is_nullable()).map(|(name, _)| name).collect();
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// The schema of a value.
pub(super) fn json_schema(shape: &Shape) -> Value {
    match shape {
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Integer(integer) => {
            let (_, min, max) = integer.range();
            let number = |bound: i128| match u64::try_from(bound) {
                Ok(bound) => Value::from(bound),
                Err(_) => i64::try_from(bound).map_or(Value::Null, Value::from),
            };
            json!({"type": "integer", "minimum": number(min), "maximum": number(max)})
        }
        Shape::Float32 => {
            let (min, max) = (f64::from(f32::MIN), f64::from(f32::MAX));
            let number = json!({"type": "number", "minimum": min, "maximum": max});
            json!({"anyOf": [number, {"enum": NOT_FINITE}]})
        }
        Shape::Float64 => json!({"anyOf": [{"type": "number"}, {"enum": NOT_FINITE}]}),
        Shape::Char => json!({"type": "string", "minLength": 1, "maxLength": 1}),
        Shape::String => json!({"type": "string"}),
        Shape::Bytes => json!({"type": "string", "contentEncoding": "base64"}),
        Shape::List(element) => json!({"type": "array", "items": json_schema(element)}),
        Shape::Record(fields) => object(fields),
        Shape::Tuple(types) => json!({
            "type": "array",
            "prefixItems": types.iter().map(json_schema).collect::<Vec<_>>(),
            "items": false,
            "minItems": types.len(),
        }),
        Shape::Variant(cases) => {
            choice(cases.iter().map(|(name, payload)| (name.as_str(), payload.as_ref())))
        }
        Shape::Result(outcome) => choice(result_cases(outcome).into_iter()),
        Shape::Enum(names) => json!({"type": "string", "enum": names}),
        Shape::Flags(names) => {
            json!({"type": "array", "items": {"enum": names}, "uniqueItems": true})
        }
        Shape::Option(inner) if inner.is_nullable() => {
            json!({"anyOf": [{"type": "null"}, wrapped("some", inner)]})
        }
        Shape::Option(inner) => json!({"anyOf": [json_schema(inner), {"type": "null"}]}),
    }
}

/// The cases of a `result`.
pub(super) fn result_cases(outcome: &Outcome) -> [(&'static str, Option<&Shape>); 2] {
    [("ok", outcome.ok.as_deref()), ("err", outcome.err.as_deref())]
}

fn choice<'a>(cases: impl Iterator<Item = (&'a str, Option<&'a Shape>)>) -> Value {
    let (mut bare, mut choices) = (Vec::new(), Vec::new());
    for (name, payload) in cases {
        match payload {
            Some(payload) => choices.push(wrapped(name, payload)),
            None => bare.push(name),
        }
    }
    if !bare.is_empty() {
        choices.push(json!({"enum": bare}));
    }
    json!({"anyOf": choices})
}

fn wrapped(name: &str, payload: &Shape) -> Value {
    json!({
        "type": "object",
        "properties": {name: json_schema(payload)},
        "required": [name],
        "additionalProperties": false,
    })
}
