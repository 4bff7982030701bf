//! Removes empty segments from a request's path. Clients that join a base URL and a path send `//hooks/…` or
//! `/hooks/…/`: they mean the route, and such a path is not a route of its own.

use http::Uri;
use http::uri::PathAndQuery;

/// The prefix of paths whose slashes are kept: the documentation page loads its assets relative to its own path.
const EXCLUDED_PREFIX: &str = "/docs";

/// The path as it was sent, if it had empty segments. An extension of the request, for verifiers of signatures over
/// the URL.
#[derive(Debug, Clone)]
pub(in crate::http) struct ArrivedPath(pub(in crate::http) String);

/// The same target without empty segments. None if it has none.
pub(super) fn without_empty_segments(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let ends_empty = path.len() > 1 && path.ends_with('/');
    if !(ends_empty || path.contains("//")) || path.starts_with(EXCLUDED_PREFIX) {
        return None;
    }
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let mut normalized: String = segments.flat_map(|segment| ["/", segment]).collect();
    if normalized.is_empty() {
        normalized.push('/');
    }
    if let Some(query) = uri.query() {
        normalized.push('?');
        normalized.push_str(query);
    }
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(normalized).ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_empty_segments_go() {
        for (arrived, normalized) in [
            ("/hooks/1/", Some("/hooks/1")),
            ("//hooks//1?a=/b//", Some("/hooks/1?a=/b//")),
            ("//", Some("/")),
            ("//?x", Some("/?x")),
            ("http://a.example//v1/tasks/", Some("http://a.example/v1/tasks")),
            ("/", None),
            ("/hooks/1", None),
            ("/hooks/%2F/1", None),
            ("/docs/", None),
            ("/?a=//", None),
        ] {
            let uri = arrived.parse().unwrap();
            let found = without_empty_segments(&uri).map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), normalized, "{arrived}");
        }
    }
}
