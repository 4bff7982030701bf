//! An OpenAPI document as tests read it: operations, and which of them a request meets.

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

/// What a document has to say about a request.
#[derive(Debug)]
pub(crate) enum Found<'d> {
    Operation(Operation<'d>),
    NoMethod,
    NoPath,
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

    pub(crate) fn value(&self) -> &Value {
        &self.0
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

    /// What a request with this path meets. A HEAD that the document does not have is answered like a GET.
    pub(crate) fn find(&self, method: &str, path: &str) -> Found<'_> {
        let paths = self.0["paths"].as_object().unwrap();
        let matching = paths.keys().filter_map(|template| Some((rank(template, path)?, template)));
        let Some((_, template)) = matching.max() else {
            return Found::NoPath;
        };
        let item = &paths[template];
        let get = (method == "HEAD").then(|| item.get("get")).flatten();
        match item.get(method.to_ascii_lowercase()).or(get) {
            Some(value) => {
                Found::Operation(Operation { method: method.to_owned(), path: template, value })
            }
            None => Found::NoMethod,
        }
    }
}

/// What brings the checked-in document up to date.
pub(crate) const UPDATE: &str = "cargo run -p wardgate -- openapi > docs/openapi.json";

/// The text of the document that is checked in.
pub(crate) fn checked_in_text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// For each segment whether it is written out, which counts for more than a name in braces, earlier
/// segments first. None where the path is another one.
fn rank(template: &str, path: &str) -> Option<Vec<bool>> {
    let (names, segments) = (template.split('/'), path.split('/'));
    if names.clone().count() != segments.clone().count() {
        return None;
    }
    let ranks = names.zip(segments).map(|(name, segment)| {
        if name.starts_with('{') {
            (!segment.is_empty()).then_some(false)
        } else {
            (name == segment).then_some(true)
        }
    });
    ranks.collect()
}

impl<'d> Operation<'d> {
    pub(crate) fn id(&self) -> Option<&'d str> {
        self.value["operationId"].as_str()
    }

    pub(crate) fn summary(&self) -> Option<&'d str> {
        self.value["summary"].as_str()
    }

    pub(crate) fn tags(&self) -> Vec<&'d str> {
        self.value["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
    }

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

    pub(crate) fn statuses(&self) -> impl Iterator<Item = &'d str> + use<'d> {
        self.value["responses"].as_object().unwrap().keys().map(String::as_str)
    }

    /// The content types of a status, none for an empty answer. None where it is not documented.
    pub(crate) fn contents(&self, status: u16) -> Option<Vec<&'d str>> {
        let response = self.value["responses"].get(status.to_string())?;
        let contents = response["content"].as_object();
        Some(contents.into_iter().flatten().map(|(content, _)| content.as_str()).collect())
    }
}
