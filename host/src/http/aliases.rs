//! Adds aliases of routes to the router and to the OpenAPI document together.

use axum::routing::MethodRouter;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa_axum::router::OpenApiRouter;

use super::state::HttpState;

/// The tag that groups aliases in the document.
const TAG: &str = "aliases";

/// A router that aliases are being added to.
pub(super) struct Aliases(OpenApiRouter<HttpState>);

impl Aliases {
    pub(super) fn new(router: OpenApiRouter<HttpState>) -> Self {
        Self(router)
    }

    pub(super) fn into_router(self) -> OpenApiRouter<HttpState> {
        self.0
    }

    /// Adds the same path without `/v1`.
    pub(super) fn without_prefix(self, path: &str, handlers: MethodRouter<HttpState>) -> Self {
        match path.strip_prefix("/v1") {
            Some(short) => self.alias(short, path, handlers),
            None => self,
        }
    }

    /// Adds an alias of a path, with all of its methods.
    pub(super) fn alias(mut self, path: &str, of: &str, handlers: MethodRouter<HttpState>) -> Self {
        let item = self.0.get_openapi().paths.paths.get(of).cloned();
        if let Some(mut item) = item {
            for operation in operations(&mut item).into_iter().filter_map(|slot| slot.as_mut()) {
                rename(operation, path, of);
            }
            self.0.get_openapi_mut().paths.paths.insert(path.to_owned(), item);
        }
        self.route(path, handlers)
    }

    /// Documents one method of a path as an alias of a method of another path. [`Aliases::route`] routes it.
    pub(super) fn method_alias(mut self, path: &str, method: &str, of: (&str, &str)) -> Self {
        let paths = &mut self.0.get_openapi_mut().paths.paths;
        let operation = paths.get_mut(of.0).and_then(|item| slot(item, of.1)?.clone());
        if let Some(mut operation) = operation {
            rename(&mut operation, path, of.0);
            let item = paths.entry(path.to_owned()).or_default();
            if let Some(slot) = slot(item, method) {
                *slot = Some(operation);
            }
        }
        self
    }

    /// Routes a path that is already documented.
    pub(super) fn route(self, path: &str, handlers: MethodRouter<HttpState>) -> Self {
        Self(self.0.route(path, handlers))
    }
}

fn operations(item: &mut PathItem) -> [&mut Option<Operation>; 5] {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete]
}

fn slot<'i>(item: &'i mut PathItem, method: &str) -> Option<&'i mut Option<Operation>> {
    match method {
        "get" => Some(&mut item.get),
        "post" => Some(&mut item.post),
        "put" => Some(&mut item.put),
        "patch" => Some(&mut item.patch),
        "delete" => Some(&mut item.delete),
        _ => None,
    }
}

/// Turns a copied operation into an alias. Its id changes, because ids must be unique within a document.
fn rename(operation: &mut Operation, path: &str, of: &str) {
    let spelt: String =
        path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let id = operation.operation_id.take().unwrap_or_default();
    operation.operation_id = Some(format!("{id}_at{spelt}"));
    operation.tags = Some(vec![TAG.to_owned()]);
    operation.summary = Some(format!("The same as `{of}`"));
}
