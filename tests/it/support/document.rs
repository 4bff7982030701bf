//! An OpenAPI document as tests read it: its operations, and the one that a request matches.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::Value;

/// An OpenAPI document.
#[derive(Debug)]
pub(crate) struct OpenApiDocument(Value);

/// One method of one path of a document.
#[derive(Debug)]
pub(crate) struct Operation<'d> {
    /// In upper case, as in HTTP: `GET`.
    pub(crate) method: String,
    /// The template, with parameter names in braces.
    pub(crate) path: &'d str,
    value: &'d Value,
}

/// A parameter of an operation.
#[derive(Debug)]
pub(crate) struct Parameter<'d> {
    /// `path`, `query` or `header`.
    pub(crate) location: &'d str,
    pub(crate) name: &'d str,
    pub(crate) required: bool,
}

/// The result of looking up a request in a document.
#[derive(Debug)]
pub(crate) enum RouteMatch<'d> {
    Operation(Operation<'d>),
    NoMethod,
    NoPath,
}

impl OpenApiDocument {
    pub(crate) fn parse(text: &str) -> Self {
        Self(serde_json::from_str(text).expect("the document is JSON"))
    }

    /// The document in `docs/openapi.json`.
    pub(crate) fn checked_in() -> &'static Self {
        static DOCUMENT: OnceLock<OpenApiDocument> = OnceLock::new();
        DOCUMENT.get_or_init(|| Self::parse(&checked_in_text()))
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

    /// The operation for a request with this method and path. A HEAD that is not documented matches the GET.
    pub(crate) fn find(&self, method: &str, path: &str) -> RouteMatch<'_> {
        let paths = self.0["paths"].as_object().unwrap();
        let matching =
            paths.keys().filter_map(|template| Some((specificity(template, path)?, template)));
        let Some((_, template)) = matching.max() else {
            return RouteMatch::NoPath;
        };
        let item = &paths[template];
        let get = (method == "HEAD").then(|| item.get("get")).flatten();
        match item.get(method.to_ascii_lowercase()).or(get) {
            Some(value) => RouteMatch::Operation(Operation {
                method: method.to_owned(),
                path: template,
                value,
            }),
            None => RouteMatch::NoMethod,
        }
    }
}

/// The command that updates the checked-in document.
pub(crate) const UPDATE_COMMAND: &str = "cargo run -p wardgate -- openapi > docs/openapi.json";

/// The text of the checked-in document.
pub(crate) fn checked_in_text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// For each segment, whether it is literal: a literal segment outranks a parameter, and earlier segments count more.
/// `None` if the path does not match the template.
fn specificity(template: &str, path: &str) -> Option<Vec<bool>> {
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
            location: parameter["in"].as_str().unwrap(),
            name: parameter["name"].as_str().unwrap(),
            required: parameter["required"] == true,
        })
    }

    /// The first content type of its request body, and the schema for it.
    pub(crate) fn body(&self) -> Option<(&'d str, &'d Value)> {
        let contents = self.value["requestBody"]["content"].as_object()?;
        contents.iter().next().map(|(declared, content)| (declared.as_str(), &content["schema"]))
    }

    /// Whether it requires a key.
    pub(crate) fn requires_key(&self) -> bool {
        let requirements = self.value["security"].as_array().expect("it says who may call it");
        requirements.iter().all(|requirement| !requirement.as_object().unwrap().is_empty())
    }

    pub(crate) fn statuses(&self) -> impl Iterator<Item = &'d str> + use<'d> {
        self.value["responses"].as_object().unwrap().keys().map(String::as_str)
    }

    /// The content types of a status, empty for an answer without a body; `None` if the status is not documented.
    pub(crate) fn content_types(&self, status: u16) -> Option<Vec<&'d str>> {
        let response = self.value["responses"].get(status.to_string())?;
        let contents = response["content"].as_object();
        Some(contents.into_iter().flatten().map(|(content, _)| content.as_str()).collect())
    }
}
