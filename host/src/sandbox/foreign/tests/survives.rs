//! Every value that a schema allows survives the round trip to a component and back.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::strategy::Union;
use serde_json::{Map, Number, Value, json};

use super::super::from_json::arguments;
use super::super::shape::{Integer, Outcome, Shape};
use super::super::{schema, to_json};
use super::names;

/// Every kind of type, nested.
fn shapes() -> impl Strategy<Value = Shape> {
    let integers = [
        Integer::U8,
        Integer::S8,
        Integer::U16,
        Integer::S16,
        Integer::U32,
        Integer::S32,
        Integer::U64,
        Integer::S64,
    ];
    let plain = prop_oneof![
        Just(Shape::Bool),
        proptest::sample::select(integers.to_vec()).prop_map(Shape::Integer),
        Just(Shape::Float32),
        Just(Shape::Float64),
        Just(Shape::Char),
        Just(Shape::String),
        Just(Shape::Bytes),
        Just(Shape::Enum(names(3))),
        (0..5_usize).prop_map(|count| Shape::Flags(names(count))),
    ];
    plain.prop_recursive(4, 24, 4, |inner| {
        let payload = proptest::option::of(inner.clone());
        let side = payload.clone().prop_map(|side| side.map(Box::new));
        let several = proptest::collection::vec(inner.clone(), 1..4);
        let named = |shapes: Vec<Shape>| names(shapes.len()).into_iter().zip(shapes).collect();
        let cases = proptest::collection::vec(payload, 1..4)
            .prop_map(|cases| names(cases.len()).into_iter().zip(cases).collect());
        prop_oneof![
            inner.clone().prop_map(|shape| Shape::List(Box::new(shape))),
            inner.prop_map(|shape| Shape::Option(Box::new(shape))),
            several.clone().prop_map(Shape::Tuple),
            several.prop_map(named).prop_map(Shape::Record),
            cases.prop_map(Shape::Variant),
            (side.clone(), side).prop_map(|(ok, err)| Shape::Result(Outcome { ok, err })),
        ]
    })
}

/// Every value that a schema allows, of the keywords that our schemas use.
fn allowed(schema: &Value) -> BoxedStrategy<Value> {
    if let Some(choices) = schema.get("anyOf") {
        let choices = choices.as_array().unwrap().iter().map(allowed);
        return Union::new(choices.collect::<Vec<_>>()).boxed();
    }
    if let Some(values) = schema.get("enum") {
        return proptest::sample::select(values.as_array().unwrap().clone()).boxed();
    }
    let bound = |name: &str| schema.get(name);
    match schema["type"].as_str().unwrap() {
        "null" => Just(Value::Null).boxed(),
        "boolean" => any::<bool>().prop_map(Value::from).boxed(),
        "integer" => {
            let whole = |name| bound(name).unwrap().to_string().parse::<i128>().unwrap();
            let (min, max) = (whole("minimum"), whole("maximum"));
            let number = |value| match u64::try_from(value) {
                Ok(value) => Value::from(value),
                Err(_) => Value::from(i64::try_from(value).unwrap()),
            };
            prop_oneof![min..=max, Just(min), Just(max)].prop_map(number).boxed()
        }
        "number" => {
            let float = |name, or| bound(name).map_or(or, |bound: &Value| bound.as_f64().unwrap());
            let (min, max) = (float("minimum", f64::MIN), float("maximum", f64::MAX));
            let within = any::<f64>().prop_filter("a number", |value| value.is_finite());
            let within = within.prop_map(move |value| value.clamp(min, max));
            within.prop_map(|value| Number::from_f64(value).unwrap().into()).boxed()
        }
        "string" => text(schema),
        "array" => array(schema),
        "object" => {
            let required = schema["required"].as_array().unwrap();
            let properties = schema["properties"].as_object().unwrap();
            let fields = properties.iter().map(|(name, schema)| {
                let name = name.clone();
                let value = allowed(schema);
                let field = if required.contains(&name.clone().into()) {
                    value.prop_map(Some).boxed()
                } else {
                    proptest::option::of(value).boxed()
                };
                field.prop_map(move |value| Some((name.clone(), value?))).boxed()
            });
            let fields = fields.collect::<Vec<_>>();
            let object =
                |fields: Vec<Option<_>>| fields.into_iter().flatten().collect::<Map<_, _>>();
            fields.prop_map(object).prop_map(Value::from).boxed()
        }
        other => panic!("we write no schema of type {other}"),
    }
}

/// Every text that a schema allows.
fn text(schema: &Value) -> BoxedStrategy<Value> {
    let encoded = |bytes: Vec<u8>| Value::from(STANDARD.encode(bytes));
    if schema.get("contentEncoding").is_some() {
        any::<Vec<u8>>().prop_map(encoded).boxed()
    } else if schema.get("maxLength").is_some() {
        any::<char>().prop_map(|c| c.to_string().into()).boxed()
    } else {
        any::<String>().prop_map(Value::from).boxed()
    }
}

/// Every array that a schema allows.
fn array(schema: &Value) -> BoxedStrategy<Value> {
    if schema.get("uniqueItems").is_some() {
        let names = schema["items"]["enum"].as_array().unwrap().clone();
        let some = 0..=names.len();
        proptest::sample::subsequence(names, some).prop_map(Value::from).boxed()
    } else if let Some(items) = schema.get("prefixItems") {
        let items = items.as_array().unwrap().iter().map(allowed);
        items.collect::<Vec<_>>().prop_map(Value::from).boxed()
    } else {
        proptest::collection::vec(allowed(&schema["items"]), 0..4).prop_map(Value::from).boxed()
    }
}

/// Whether two values mean the same: an omitted field is null, and a 32-bit float is the nearest one to the number.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let names = one.keys().chain(other.keys());
            let field = |object: &Map<String, Value>, name: &String| {
                object.get(name).cloned().unwrap_or_default()
            };
            names.into_iter().all(|name| same(&field(one, name), &field(other, name)))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Number(one), Value::Number(other)) => {
            one == other || one.as_f64().unwrap() as f32 == other.as_f64().unwrap() as f32
        }
        (one, other) => one == other,
    }
}

fn round_trip(shape: &Shape, value: &Value) -> Value {
    let params = [("value".to_owned(), shape.clone())];
    let given = if value.is_null() { json!({}) } else { json!({"value": value}) };
    let read = arguments(&params, &given.to_string());
    let read = read.unwrap_or_else(|error| panic!("{shape} does not take {value}: {error}"));
    serde_json::from_str(&to_json::text(shape, &read[0], usize::MAX).unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_schema_allows_survives_the_way_there_and_back(
        (shape, value) in shapes().prop_flat_map(|shape| {
            let value = allowed(&schema::json_schema(&shape));
            (Just(shape), value)
        })
    ) {
        let back = round_trip(&shape, &value);
        prop_assert!(same(&value, &back), "{}: {} became {}", shape, value, back);
        prop_assert_eq!(round_trip(&shape, &back), back);
    }

    #[test]
    fn whatever_is_given_is_read_or_refused(shape in shapes(), text in "\\PC*") {
        let params = [("value".to_owned(), shape)];
        let _ = arguments(&params, &text);
        let _ = arguments(&params, &format!("{{\"value\":{text}}}"));
    }
}
