//! Dot paths find every value in arbitrary JSON documents (rows X9 and X11). The found value is compared with the
//! written text character by character, so numbers must keep their digits and objects their order and spelling.

use std::fmt::Write as _;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::runtime::Runtime;

use crate::support::{BundledPlugins, Gateway};

/// JSON as it is written, not as a library parses it.
#[derive(Debug, Clone)]
enum Json {
    Null,
    Bool(bool),
    /// The digits, because JSON does not limit the length of numbers.
    Number(String),
    Text(String),
    /// A string that holds JSON.
    Embedded(Box<Json>),
    List(Vec<Json>),
    /// Names may repeat; the last one counts.
    Object(Vec<(String, Json)>),
}

/// How a document is written.
#[derive(Debug, Clone, Copy)]
struct Spelling {
    /// Every character of a string is written as an escape such as `\u0041`.
    escaped: bool,
    /// White space is written wherever it is allowed.
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

    fn bracketed(self, open: char, parts: Vec<String>, close: char) -> String {
        let gap = if self.spaced { " \n\t" } else { "" };
        format!("{open}{gap}{}{gap}{close}", parts.join(&format!("{gap},{gap}")))
    }
}

impl Json {
    fn to_text(&self, spelling: Spelling) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(digits) => digits.clone(),
            Self::Text(text) => spelling.string(text),
            Self::Embedded(inner) => spelling.string(&inner.to_text(spelling)),
            Self::List(items) => {
                let items = items.iter().map(|item| item.to_text(spelling));
                spelling.bracketed('[', items.collect(), ']')
            }
            Self::Object(fields) => {
                let field = |(name, value): &(String, Self)| {
                    let gap = if spelling.spaced { " " } else { "" };
                    format!("{}{gap}:{gap}{}", spelling.string(name), value.to_text(spelling))
                };
                spelling.bracketed('{', fields.iter().map(field).collect(), '}')
            }
        }
    }

    /// The text that a mapping yields for this value.
    fn stringified(&self, spelling: Spelling) -> Option<String> {
        match self {
            Self::Null | Self::List(_) | Self::Object(_) => None,
            Self::Bool(_) | Self::Number(_) => Some(self.to_text(spelling)),
            Self::Text(text) => Some(text.clone()),
            Self::Embedded(inner) => Some(inner.to_text(spelling)),
        }
    }

    /// The direct children, each with its path segment. A getter also looks into strings.
    fn children(&self, into_strings: bool) -> Vec<(String, &Self)> {
        match self {
            Self::Embedded(inner) if into_strings => inner.children(true),
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

    /// Every value that a dot path can refer to: no segment is empty or contains a dot.
    fn reachable_values(&self, into_strings: bool) -> Vec<(String, &Self)> {
        let (mut found, mut open) = (Vec::new(), vec![(None::<String>, self)]);
        while let Some((path, value)) = open.pop() {
            for (step, inner) in value.children(into_strings) {
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

/// Keys that are easily confused, and sometimes arbitrary text. All are shorter than [`ABSENT_KEY`].
fn key() -> impl Strategy<Value = String> {
    prop_oneof![6 => "[ab01~/]{1,2}", 1 => "[01]{1,3}", 1 => "(?s).{0,3}"]
}

/// A key that no document has.
const ABSENT_KEY: &str = "nowhere";

/// Numbers of any length within the range of a double: when it searches an array, the JSON library refuses larger
/// ones, so the search would fail if one is the value of a key that is repeated later.
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
            1 => inner.clone().prop_map(embedded),
            1 => inner.prop_map(|inner| embedded(embedded(inner))),
        ]
    });
    // A scalar document has no paths.
    prop_oneof![
        1 => vec(value.clone(), 1..6).prop_map(Json::List),
        4 => vec((key(), value), 1..6).prop_map(Json::Object),
    ]
}

/// A string that holds this document as text.
fn embedded(inner: Json) -> Json {
    Json::Embedded(Box::new(inner))
}

fn spelling() -> impl Strategy<Value = Spelling> {
    any::<(bool, bool)>().prop_map(|(escaped, spaced)| Spelling { escaped, spaced })
}

fn check_property(
    cases: u32,
    property: impl AsyncFn(&BundledPlugins, Json, Spelling) -> Result<(), TestCaseError>,
) {
    let runtime = Runtime::new().unwrap();
    let gateway = runtime.block_on(Gateway::start());
    let plugins = runtime.block_on(BundledPlugins::bind(&gateway));
    let config = Config { failure_persistence: None, ..Config::with_cases(cases) };
    let result = TestRunner::new(config).run(&(document(), spelling()), |(document, spelling)| {
        runtime.block_on(property(&plugins, document, spelling))
    });
    result.unwrap();
}

#[test]
fn x9_every_scalar_of_any_payload_is_mapped_as_it_is_written() {
    check_property(200, async |plugins, document, spelling| {
        let places = document.reachable_values(false);
        let paths: Vec<_> = places.iter().map(|(path, _)| path.clone()).collect();
        let mapped = plugins.map_values(&document.to_text(spelling), &paths).await;
        for ((path, value), mapped) in places.iter().zip(mapped) {
            prop_assert_eq!(mapped, value.stringified(spelling), "at {}", path);
        }
        Ok(())
    });
}

#[test]
fn x11_every_value_of_any_result_is_got_as_it_is_written() {
    check_property(100, async |plugins, document, spelling| {
        let text = document.to_text(spelling);
        // The result as the agent's string, and as `json=true` parses it.
        let tasks = [
            BundledPlugins::task_with_text_result(&text),
            BundledPlugins::task_with_json_result(&text),
        ];
        for (path, value) in document.reachable_values(true) {
            for (task, kind) in tasks.iter().zip(["a string", "JSON"]) {
                let got = plugins.get_value(task, format!("result.{path}")).await;
                prop_assert_eq!(got, Some(value.to_text(spelling)), "{} of {}", path, kind);
                let got = plugins.get_value(task, format!("result.{path}.{ABSENT_KEY}")).await;
                prop_assert_eq!(got, None, "below {} of {}", path, kind);
            }
        }
        Ok(())
    });
}
