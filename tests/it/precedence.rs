//! The precedence of parameter values against a model: mapping before query before body (rows X1 and X5), for every
//! parameter and every kind of body. Also, dot paths against a simple reference lookup (row X9).

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use reqwest::multipart::Form;
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use crate::support::bundled_plugins::MAPPING_TARGETS;
use crate::support::{Answer, Call, Gateway};

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(cases) })
}

/// `&name=value` for each pair, with every byte of the value percent-encoded.
fn encoded(pairs: &[(String, String)]) -> String {
    let pair = |(name, value): &(String, String)| {
        let value: String = value.bytes().map(|byte| format!("%{byte:02X}")).collect();
        format!("&{name}={value}")
    };
    pairs.iter().map(pair).collect()
}

/// The format of a body.
#[derive(Debug, Clone, Copy)]
enum BodyFormat {
    Json,
    Form,
    Multipart,
}

impl BodyFormat {
    /// The value as this format can carry it; `None` if it cannot. Forms carry strings only.
    fn representable(self, value: &Value) -> Option<Value> {
        match (self, value) {
            (Self::Json, _) => Some(value.clone()),
            (_, Value::String(_)) => Some(value.clone()),
            (_, Value::Bool(_) | Value::Number(_)) => Some(value.to_string().into()),
            _ => None,
        }
    }

    fn set_body(self, call: Call, body: Map<String, Value>) -> Call {
        let texts = body.iter().map(|(name, value)| {
            (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
        });
        match self {
            Self::Json => call.json(&body.into()),
            Self::Form => {
                let form = encoded(&texts.collect::<Vec<_>>());
                call.text("application/x-www-form-urlencoded", form[1..].to_owned())
            }
            Self::Multipart => {
                call.multipart(texts.fold(Form::new(), |form, (name, text)| form.text(name, text)))
            }
        }
    }
}

/// The values of a parameter in the three sources. A payload can hold any JSON, a query only text.
#[derive(Debug, Clone)]
struct ParameterSources {
    mapped: Option<Value>,
    query: Option<String>,
    body: Option<Value>,
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z \"\\\\&=+%é😀]{1,8}", 1 => Just(String::new())]
}

fn parameter_sources() -> impl Strategy<Value = ParameterSources> {
    let in_payload = || {
        prop_oneof![
            8 => text().prop_map(Value::from),
            2 => any::<i32>().prop_map(Value::from),
            1 => any::<bool>().prop_map(Value::from),
            1 => Just(Value::Null),
        ]
    };
    let nested = select(vec![json!({}), json!({"a": 1}), json!([]), json!(["a"])]);
    // A mapping may lead to an object, which then maps nothing; as a parameter in a body, an object is an error.
    let mapped = prop_oneof![9 => in_payload(), 1 => nested.clone()];
    let body = prop_oneof![30 => in_payload(), 1 => nested];
    let often = |one| proptest::option::weighted(0.6, one);
    (often(mapped.boxed()), proptest::option::weighted(0.6, text()), often(body.boxed()))
        .prop_map(|(mapped, query, body)| ParameterSources { mapped, query, body })
}

/// The text of a scalar that is not null and not empty.
fn scalar(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        _ => return None,
    };
    (!text.is_empty()).then_some(text)
}

impl ParameterSources {
    /// The value that takes precedence; an error if a parameter cannot have it.
    fn effective(&self) -> Result<Option<String>, ()> {
        let mapped = self.mapped.as_ref().and_then(scalar);
        let query = self.query.clone().filter(|text| !text.is_empty());
        match (mapped.or(query), &self.body) {
            (None, Some(Value::Object(_) | Value::Array(_))) => Err(()),
            (None, Some(body)) => Ok(scalar(body)),
            (first, _) => Ok(first),
        }
    }
}

/// Whether a response is a 400 that names a parameter with an invalid value.
fn refuses_one_of<'a, T: 'a>(
    answer: &Answer,
    mut parameters: impl Iterator<Item = (&'a &'a str, &'a Result<T, ()>)>,
) -> bool {
    let named = |name: &str| answer.detail().starts_with(&format!("{name} "));
    answer.status == 400 && parameters.any(|(name, value)| value.is_err() && named(name))
}

/// The resulting value of each parameter of [`MAPPING_TARGETS`].
async fn parameters_of(gateway: &Gateway, answer: &Answer) -> Vec<Value> {
    let (task, report) = (gateway.task(&answer.task_id()).await, answer.report());
    // A missing e-mail address is an empty string, because the product's SDK requires one to read a user.
    let given = |value: &Value| if value == "" { Value::Null } else { value.clone() };
    let user = |name: &str| given(&task["input"]["user"][name]);
    // Without a prompt, the payload becomes the text, and there is no separate payload.
    let prompt = report.get("payload").and(report.get("received")).cloned();
    vec![
        task["thread_id"].clone(),
        user("id"),
        user("email"),
        user("first_name"),
        user("last_name"),
        prompt.unwrap_or_default(),
    ]
}

#[test]
fn x1_mapping_then_query_then_body() {
    let runtime = Runtime::new().unwrap();
    let gateway = runtime.block_on(Gateway::start());
    let format = select(vec![BodyFormat::Json, BodyFormat::Form, BodyFormat::Multipart]);
    let cases = (vec(parameter_sources(), MAPPING_TARGETS.len()), format);
    let result = runner(80).run(&cases, |(mut parameters, format)| {
        let (mut query, mut paths) = (Vec::new(), Map::new());
        let mut body = Map::from_iter([("extra".to_owned(), "e".into())]);
        for (name, sources) in MAPPING_TARGETS.into_iter().zip(&mut parameters) {
            sources.mapped = sources.mapped.take().and_then(|value| format.representable(&value));
            sources.body = sources.body.take().and_then(|value| format.representable(&value));
            paths.insert(name.to_owned(), format!("source_{name}").into());
            body.extend(sources.mapped.clone().map(|value| (format!("source_{name}"), value)));
            body.extend(sources.body.clone().map(|value| (name.to_owned(), value)));
            query.extend(sources.query.clone().map(|value| (name.to_owned(), value)));
        }
        query.push(("params_mapping".to_owned(), Value::Object(paths).to_string()));
        let call = format.set_body(gateway.webhook(&encoded(&query)), body);
        let answer = runtime.block_on(call.send());
        let effective: Vec<_> = parameters.iter().map(ParameterSources::effective).collect();
        if effective.iter().any(Result::is_err) {
            let refused = refuses_one_of(&answer, MAPPING_TARGETS.iter().zip(&effective));
            prop_assert!(refused, "{}", answer.text);
            return Ok(());
        }
        prop_assert_eq!(answer.status, 200, "{}", answer.text);
        let got = runtime.block_on(parameters_of(&gateway, &answer));
        let expected: Vec<_> = effective.iter().flatten().map(|value| json!(value)).collect();
        prop_assert_eq!(got, expected);
        Ok(())
    });
    result.unwrap();
}

#[tokio::test]
async fn x1_the_agent_of_the_query_comes_before_that_of_the_body() {
    let gateway = Gateway::start().await;
    let sibling = gateway.agent_with(|_| {}).await;
    let body = json!({"agent_id": sibling.agent, "prompt": "hi"});
    for (query, asked) in [(gateway.agent.as_str(), &gateway.agent), ("", &sibling.agent)] {
        let call = gateway.post(&format!("/?agent_id={query}")).key(&gateway.key).json(&body);
        assert_eq!(call.expect(200).await.json()["agent_id"], **asked);
    }
}

/// The values in query and body of a parameter that a mapping cannot set.
fn query_and_body_sources(values: &[Value]) -> impl Strategy<Value = ParameterSources> + use<> {
    let texts: Vec<_> = values.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    (proptest::option::of(select(texts)), proptest::option::of(select(values.to_vec())))
        .prop_map(|(query, body)| ParameterSources { mapped: None, query, body })
}

fn boolean(sources: &ParameterSources) -> Result<bool, ()> {
    match sources.effective()?.unwrap_or_default().to_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "" | "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(()),
    }
}

/// The parameters that a mapping cannot set, except those that identify the caller and the agent.
const ANSWER_PARAMETERS: [&str; 4] =
    ["asynchronous", "json", "disable_attachment_injection", "getter"];

fn answer_parameters() -> impl Strategy<Value = [ParameterSources; 4]> {
    let spelt = ["true", "TRUE", "1", "yes", "On", "false", "False", "0", "no", "OFF", ""];
    let mut spelt: Vec<_> = spelt.map(Value::from).to_vec();
    spelt.extend([json!(true), json!(false), json!(1), json!(0), json!(null)]);
    let wrong = [json!("maybe"), json!("2"), json!(2), json!([]), json!({})];
    let boolean =
        || prop_oneof![15 => query_and_body_sources(&spelt), 1 => query_and_body_sources(&wrong)];
    let paths = ["result.received", "status", "nowhere", ""].map(Value::from);
    [
        boolean().boxed(),
        boolean().boxed(),
        boolean().boxed(),
        query_and_body_sources(&paths).boxed(),
    ]
}

#[test]
fn x1_query_then_body_for_how_the_answer_is_wanted() {
    let runtime = Runtime::new().unwrap();
    let gateway = runtime.block_on(Gateway::start());
    let result = runner(120).run(&answer_parameters(), |sources| {
        let (mut query, mut body) = (Vec::new(), Map::new());
        body.insert("prompt".to_owned(), "hello".into());
        for (name, sources) in ANSWER_PARAMETERS.into_iter().zip(&sources) {
            query.extend(sources.query.clone().map(|value| (name.to_owned(), value)));
            body.extend(sources.body.clone().map(|value| (name.to_owned(), value)));
        }
        let call = gateway.webhook(&encoded(&query)).json(&body.into());
        let answer = runtime.block_on(call.send());
        let booleans: Vec<_> = sources[..3].iter().map(boolean).collect();
        let getter = sources[3].effective().unwrap();
        if booleans.iter().any(Result::is_err) {
            prop_assert!(
                refuses_one_of(&answer, ANSWER_PARAMETERS.iter().zip(&booleans)),
                "{}",
                answer.text
            );
        } else if booleans[0] == Ok(true) {
            prop_assert_eq!(answer.text, r#"{"status":"Started"}"#);
        } else {
            let found = match getter.as_deref() {
                Some("nowhere") => {
                    (404, json!({"detail": "there is nothing at nowhere in the answer"}))
                }
                Some("status") => (200, json!("completed")),
                Some(_) => (200, json!("hello")),
                None => (200, json!(booleans[1] == Ok(true))),
            };
            let mut got = answer.json();
            if getter.is_none() {
                got = got["result"].is_object().into();
            }
            prop_assert_eq!((answer.status, got), found);
        }
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
            vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[a-c0-2~/]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Looks up a path step by step: the reference implementation.
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
    let path = vec("[a-c0-2~/]", 0..4);
    let result = runner(60).run(&(payload(), path), |(payload, path)| {
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
