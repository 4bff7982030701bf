//! Which of several values counts, as a model: mapping before query before body before nothing (row X1),
//! for every parameter that a mapping can set. And dot paths against a lookup written down plainly.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::support::Gateway;

const MAPPABLE: [&str; 6] =
    ["task_id", "user_id", "user_email", "user_first_name", "user_last_name", "prompt"];

/// What stands in each of the three places; an empty text counts as nothing.
type Places = [Option<String>; 3];

fn places() -> impl Strategy<Value = Places> {
    let text = || {
        proptest::option::weighted(
            0.6,
            prop_oneof![4 => "[a-z \"\\\\&=+%é😀]{1,8}", 1 => Just(String::new())],
        )
    };
    [text(), text(), text()]
}

/// `&name=value` for each, every byte of a value percent-encoded.
fn encoded(pairs: &[(String, String)]) -> String {
    let pair = |(name, value): &(String, String)| {
        let value: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
        format!("&{name}={value}")
    };
    pairs.iter().map(pair).collect()
}

#[test]
fn x1_mapping_then_query_then_body() {
    let runtime = Runtime::new().unwrap();
    let gateway = runtime.block_on(Gateway::start());
    let mut runner =
        TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(40) });
    let every_parameter = proptest::collection::vec(places(), MAPPABLE.len());
    let result = runner.run(&every_parameter, |parameters| {
        let (mut query, mut body) = (Vec::new(), Map::new());
        let (mut paths, mut source) = (Map::new(), Map::new());
        let mut expected = Vec::new();
        for (name, [mapped, in_query, in_body]) in MAPPABLE.into_iter().zip(&parameters) {
            if let Some(value) = mapped {
                paths.insert(name.to_owned(), format!("source.{name}").into());
                source.insert(name.to_owned(), value.as_str().into());
            }
            query.extend(in_query.as_ref().map(|value| (name.to_owned(), value.clone())));
            body.extend(in_body.as_ref().map(|value| (name.to_owned(), value.as_str().into())));
            let first = [mapped, in_query, in_body].into_iter().flatten().find(|v| !v.is_empty());
            expected.push(json!(first));
        }
        query.push(("params_mapping".to_owned(), Value::Object(paths).to_string()));
        body.insert("source".to_owned(), source.into());
        let got = runtime.block_on(async {
            let answer = gateway.webhook(&encoded(&query)).json(&body.into()).expect(200).await;
            let (task, report) = (gateway.task(&answer.task_id()).await, answer.report());
            // An address that nobody gave is an empty text: the product's SDK reads no user without one.
            let given = |value: &Value| if value == "" { Value::Null } else { value.clone() };
            let user = |name: &str| given(&task["input"]["user"][name]);
            // Without a prompt the payload is the text, and there is no other payload.
            let prompt = report.get("payload").and(report.get("received")).cloned();
            vec![
                task["thread_id"].clone(),
                user("id"),
                user("email"),
                user("first_name"),
                user("last_name"),
                prompt.unwrap_or_default(),
            ]
        });
        prop_assert_eq!(got, expected);
        Ok(())
    });
    result.unwrap();
}

/// A small payload of objects, arrays and scalars.
fn payload() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-c0-2]{1,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-c0-2~/]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// What a dot path leads to: step by step, nothing else.
fn lookup<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, step| match value {
        Value::Object(fields) => fields.get(step),
        Value::Array(items) => items.get(step.parse::<usize>().ok()?),
        _ => None,
    })
}

#[test]
fn x9_a_dot_path_leads_where_it_says() {
    let runtime = Runtime::new().unwrap();
    let gateway = runtime.block_on(Gateway::start());
    let mut runner =
        TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(60) });
    let path = proptest::collection::vec("[a-c0-2~/]", 0..4);
    let result = runner.run(&(payload(), path), |(payload, path)| {
        let expected = match lookup(&payload, &path) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(scalar @ (Value::Bool(_) | Value::Number(_))) => Some(scalar.to_string()),
            _ => None,
        };
        let dotted = std::iter::once("root").chain(path.iter().map(String::as_str));
        let mapping = json!({"prompt": dotted.collect::<Vec<_>>().join(".")}).to_string();
        let got = runtime.block_on(async {
            let query = encoded(&[("params_mapping".to_owned(), mapping)]);
            let call =
                gateway.webhook(&query).json(&json!({"root": payload, "prompt": "unmapped"}));
            call.expect(200).await.report()["received"].clone()
        });
        prop_assert_eq!(got, expected.unwrap_or_else(|| "unmapped".to_owned()));
        Ok(())
    });
    result.unwrap();
}
