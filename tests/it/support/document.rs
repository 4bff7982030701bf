//! An OpenAPI document as tests read it: operations and their parameters.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

/// An OpenAPI document.
#[derive(Debug)]
pub(crate) struct Document(Value);

/// One method of one path of it.
#[derive(Debug)]
pub(crate) struct Operation<'d> {
    /// As HTTP spells it: `GET`.
    pub(crate) method: String,
    /// With names in braces.
    pub(crate) path: &'d str,
    value: &'d Value,
}

/// A parameter that a caller may set.
#[derive(Debug)]
pub(crate) struct Parameter<'d> {
    /// `path`, `query` or `header`.
    pub(crate) place: &'d str,
    pub(crate) name: &'d str,
    pub(crate) required: bool,
}

impl Document {
    pub(crate) fn of(text: &str) -> Self {
        Self(serde_json::from_str(text).expect("the document is JSON"))
    }

    /// The one that is checked in.
    pub(crate) fn checked_in() -> &'static Self {
        static DOCUMENT: OnceLock<Document> = OnceLock::new();
        DOCUMENT.get_or_init(|| Self::of(&checked_in_text()))
    }

    pub(crate) fn operations(&self) -> impl Iterator<Item = Operation<'_>> {
        let paths = self.0["paths"].as_object().unwrap();
        paths.iter().flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().iter();
            methods.map(move |(method, value)| Operation {
                method: method.to_ascii_uppercase(),
                path,
                value,
            })
        })
    }
}

/// The text of the document that is checked in.
pub(crate) fn checked_in_text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl<'d> Operation<'d> {
    pub(crate) fn parameters(&self) -> impl Iterator<Item = Parameter<'d>> + use<'d> {
        self.value["parameters"].as_array().into_iter().flatten().map(|parameter| Parameter {
            place: parameter["in"].as_str().unwrap(),
            name: parameter["name"].as_str().unwrap(),
            required: parameter["required"] == true,
        })
    }

    /// The body that it takes: its first content type, and its schema there.
    pub(crate) fn body(&self) -> Option<(&'d str, &'d Value)> {
        let contents = self.value["requestBody"]["content"].as_object()?;
        contents.iter().next().map(|(declared, content)| (declared.as_str(), &content["schema"]))
    }

    /// Whether it asks for a key at all.
    pub(crate) fn wants_a_key(&self) -> bool {
        let ways = self.value["security"].as_array().expect("it says who may call it");
        ways.iter().all(|way| !way.as_object().unwrap().is_empty())
    }
}
