//! A dot path leads to every value there is, whatever the JSON looks like: rows X9 and X11 for arbitrary
//! documents. What is found is compared with what was written, character for character, so numbers keep
//! their digits and objects their order and spelling.

use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;

use crate::support::{Gateway, InProcess};

/// JSON as it is written, not as a library reads it.
#[derive(Debug, Clone)]
enum Json {
    Null,
    Bool(bool),
    /// Its digits: JSON has no longest number.
    Number(String),
    Text(String),
    /// A string that holds JSON.
    Within(Box<Json>),
    List(Vec<Json>),
    /// Names may be equal: the last one counts.
    Object(Vec<(String, Json)>),
}

/// Two ways to write the same document.
#[derive(Debug, Clone, Copy)]
struct Spelling {
    /// Every character of a string as `\u0041`.
    escaped: bool,
    /// White space wherever it may be.
    spaced: bool,
}

impl Spelling {
    fn string(self, text: &str) -> String {
        if !self.escaped {
            return serde_json::Value::from(text).to_string();
        }
        let mut written = "\"".to_owned();
        for unit in text.encode_utf16() {
            write!(written, "\\u{unit:04x}").unwrap();
        }
        written + "\""
    }

    fn between(self, open: char, parts: Vec<String>, close: char) -> String {
        let gap = if self.spaced { " \n\t" } else { "" };
        format!("{open}{gap}{}{gap}{close}", parts.join(&format!("{gap},{gap}")))
    }
}

impl Json {
    fn written(&self, spelling: Spelling) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(digits) => digits.clone(),
            Self::Text(text) => spelling.string(text),
            Self::Within(inner) => spelling.string(&inner.written(spelling)),
            Self::List(items) => {
                let items = items.iter().map(|item| item.written(spelling));
                spelling.between('[', items.collect(), ']')
            }
            Self::Object(fields) => {
                let field = |(name, value): &(String, Self)| {
                    let gap = if spelling.spaced { " " } else { "" };
                    format!("{}{gap}:{gap}{}", spelling.string(name), value.written(spelling))
                };
                spelling.between('{', fields.iter().map(field).collect(), '}')
            }
        }
    }

    /// What a mapping makes of it.
    fn stringified(&self, spelling: Spelling) -> Option<String> {
        match self {
            Self::Null | Self::List(_) | Self::Object(_) => None,
            Self::Bool(_) | Self::Number(_) => Some(self.written(spelling)),
            Self::Text(text) => Some(text.clone()),
            Self::Within(inner) => Some(inner.written(spelling)),
        }
    }

    /// The values right inside, by the step that leads there. A getter looks into strings too.
    fn inside(&self, into_strings: bool) -> Vec<(String, &Self)> {
        match self {
            Self::Within(inner) if into_strings => inner.inside(true),
            Self::List(items) => {
                items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect()
            }
            Self::Object(fields) => {
                let counts = |(at, (name, _)): &(usize, &(String, Self))| {
                    !fields[at + 1..].iter().any(|(later, _)| later == name)
                };
                let counting = fields.iter().enumerate().filter(counts);
                counting.map(|(_, (name, value))| (name.clone(), value)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Every value that a dot path can name: a step is not empty and has no dot in it.
    fn places(&self, into_strings: bool) -> Vec<(String, &Self)> {
        let (mut found, mut open) = (Vec::new(), vec![(None::<String>, self)]);
        while let Some((path, value)) = open.pop() {
            for (step, inner) in value.inside(into_strings) {
                if !step.is_empty() && !step.contains('.') {
                    let path = path.as_ref().map_or(step.clone(), |path| format!("{path}.{step}"));
                    open.push((Some(path), inner));
                }
            }
            found.extend(path.map(|path| (path, value)));
        }
        found
    }
}

/// Keys that are easily mistaken, and now and then any text at all. None is as long as [`NOWHERE`].
fn key() -> impl Strategy<Value = String> {
    prop_oneof![6 => "[ab01~/]{1,2}", 1 => "[01]{1,3}", 1 => "(?s).{0,3}"]
}

/// A key that no document has.
const NOWHERE: &str = "nowhere";

/// Of any length, but within the range of a double: looking into an array meets a library that refuses
/// larger ones, and finds nothing then where one stands under a key that is given again behind it.
const NUMBER: &str = r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?";

fn document() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        NUMBER.prop_map(Json::Number),
        "(?s).{0,8}".prop_map(Json::Text),
    ];
    let value = leaf.prop_recursive(5, 60, 5, |inner| {
        prop_oneof![
            2 => vec(inner.clone(), 0..5).prop_map(Json::List),
            4 => vec((key(), inner.clone()), 0..5).prop_map(Json::Object),
            1 => inner.clone().prop_map(within),
            1 => inner.prop_map(|inner| within(within(inner))),
        ]
    });
    // A document that is a scalar has no paths.
    prop_oneof![
        1 => vec(value.clone(), 1..6).prop_map(Json::List),
        4 => vec((key(), value), 1..6).prop_map(Json::Object),
    ]
}

/// A string that holds this.
fn within(inner: Json) -> Json {
    Json::Within(Box::new(inner))
}

fn spelling() -> impl Strategy<Value = Spelling> {
    any::<(bool, bool)>().prop_map(|(escaped, spaced)| Spelling { escaped, spaced })
}

fn hold(
    cases: u32,
    promise: impl AsyncFn(&InProcess, Json, Spelling) -> Result<(), TestCaseError>,
) {
    let runtime = Runtime::new().unwrap();
    let gateway = runtime.block_on(Gateway::start());
    let plugins = runtime.block_on(InProcess::of(&gateway));
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    let result = TestRunner::new(config).run(&(document(), spelling()), |(document, spelling)| {
        runtime.block_on(promise(&plugins, document, spelling))
    });
    result.unwrap();
}

#[test]
fn x9_every_scalar_of_any_payload_is_mapped_as_it_is_written() {
    hold(200, async |plugins, document, spelling| {
        let places = document.places(false);
        let paths: Vec<_> = places.iter().map(|(path, _)| path.clone()).collect();
        let mapped = plugins.mapped(&document.written(spelling), &paths).await;
        for ((path, value), mapped) in places.iter().zip(mapped) {
            prop_assert_eq!(mapped, value.stringified(spelling), "at {}", path);
        }
        Ok(())
    });
}

#[test]
fn x11_every_value_of_any_result_is_got_as_it_is_written() {
    hold(100, async |plugins, document, spelling| {
        let text = document.written(spelling);
        // As the agent wrote it, and as `json=true` has it.
        let tasks = [InProcess::task(&text), InProcess::task_of(&text)];
        for (path, value) in document.places(true) {
            for (task, kind) in tasks.iter().zip(["a string", "JSON"]) {
                let got = plugins.got(task, format!("result.{path}")).await;
                prop_assert_eq!(got, Some(value.written(spelling)), "{} of {}", path, kind);
                let got = plugins.got(task, format!("result.{path}.{NOWHERE}")).await;
                prop_assert_eq!(got, None, "below {} of {}", path, kind);
            }
        }
        Ok(())
    });
}
