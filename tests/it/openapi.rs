//! The OpenAPI document is complete, correct and checked in, and the page that shows it loads nothing from other
//! hosts.
//!
//! Every request of the tests checks that its response is as documented: see `support/answer.rs`.

use std::collections::BTreeSet;

use crate::support::document::{OpenApiDocument, UPDATE_COMMAND, checked_in_text};
use crate::support::{Gateway, wardgate};

#[tokio::test]
async fn the_document_that_is_checked_in_is_the_one_that_is_served_and_printed() {
    let gateway = Gateway::start().await;
    let served = gateway.get("/openapi.json").expect(200).await;
    assert_eq!(served.header("content-type"), Some("application/json"));
    let printed = String::from_utf8(wardgate(&["openapi"]).stdout).unwrap();
    assert!(served.text == printed, "`wardgate openapi` prints another one than is served");
    assert!(
        served.text == checked_in_text(),
        "docs/openapi.json is out of date; run: {UPDATE_COMMAND}"
    );
}

#[tokio::test]
async fn the_document_is_openapi_3_1_and_says_what_it_is_of() {
    let document = OpenApiDocument::checked_in().value();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1."), "{}", document["openapi"]);
    assert_eq!(document["info"]["title"], "Wardgate");
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
}

#[tokio::test]
async fn every_operation_has_a_name_of_its_own_a_group_and_a_summary() {
    let document = OpenApiDocument::checked_in();
    let groups = document.value()["tags"].as_array().unwrap().iter();
    let groups: BTreeSet<_> = groups.map(|group| group["name"].as_str().unwrap()).collect();
    let mut names = BTreeSet::new();
    for operation in document.operations() {
        let route = format!("{} {}", operation.method, operation.path);
        let name = operation.id().unwrap_or_else(|| panic!("{route} has no operationId"));
        assert!(names.insert(name), "the operationId {name} of {route} is another one's too");
        let tags = operation.tags();
        assert!(tags.len() == 1 && groups.contains(tags[0]), "{route}: {tags:?}");
        assert!(operation.summary().is_some(), "{route} has no summary");
    }
}

#[tokio::test]
async fn every_response_says_what_it_is() {
    let document = OpenApiDocument::checked_in();
    let mut responses = 0;
    for path in document.value()["paths"].as_object().unwrap().values() {
        for operation in path.as_object().unwrap().values() {
            for (status, response) in operation["responses"].as_object().into_iter().flatten() {
                let description = response["description"].as_str().unwrap_or_default();
                assert!(!description.is_empty(), "{}: {status}", operation["operationId"]);
                responses += 1;
            }
        }
    }
    assert!(responses > 100);
}

#[tokio::test]
async fn every_operation_says_how_it_refuses() {
    for operation in OpenApiDocument::checked_in().operations() {
        let route = format!("{} {}", operation.method, operation.path);
        let documented: BTreeSet<&str> = operation.statuses().collect();
        let of_key = operation.requires_key().then_some(["401", "403", "503"]);
        let of_body = operation.body().map(|_| ["400", "408", "413"]);
        let names = operation.parameters().any(|parameter| parameter.location == "path");
        let of_name = (names && operation.method != "HEAD").then_some("404");
        let wanted = of_key.into_iter().chain(of_body).flatten().chain(of_name);
        let missing: Vec<_> = wanted.filter(|status| !documented.contains(status)).collect();
        assert!(missing.is_empty(), "{route} does not document {missing:?}");
        for status in documented.iter().filter(|status| **status >= "400") {
            let json = operation.content_types(status.parse().unwrap()).unwrap();
            let bare = operation.method == "HEAD";
            assert!(bare || json == ["application/json"], "{route} refuses {status} as {json:?}");
        }
    }
}

#[tokio::test]
async fn what_the_document_has_is_there_and_what_it_does_not_have_is_405() {
    let gateway = Gateway::start().await;
    let document = OpenApiDocument::checked_in();
    let has = |method: &str, path: &str| {
        document.operations().any(|operation| operation.method == method && operation.path == path)
    };
    let paths: BTreeSet<_> = document.operations().map(|operation| operation.path).collect();
    for path in paths {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            // Without a key and with unknown names: this only tests whether the route exists.
            let answer = gateway.request(method, &path.replace(['{', '}'], "_")).send().await;
            assert_eq!(answer.status != 405, has(method, path), "{method} {path}: {}", answer.text);
            assert!(answer.text != r#"{"detail":"Not Found"}"#, "{method} {path}");
        }
    }
}

/// The texts between `before` and the next quote or closing bracket.
fn named<'t>(text: &'t str, before: &'t str) -> impl Iterator<Item = &'t str> {
    text.split(before).skip(1).map(|rest| rest.split(['"', '\'', ')']).next().unwrap())
}

#[tokio::test]
async fn the_page_names_nothing_that_is_not_served_here() {
    let gateway = Gateway::start().await;
    let way = gateway.get("/docs").expect(303).await;
    let page = gateway.get(way.header("location").unwrap()).expect(200).await;
    assert_eq!(page.header("content-type"), Some("text/html"));
    let names: Vec<_> = named(&page.text, "src=\"").chain(named(&page.text, "href=\"")).collect();
    assert!(names.len() >= 5, "{}", page.text);
    for name in names {
        let relative = name.strip_prefix("./").unwrap_or(name);
        assert!(!relative.contains(':') && !relative.starts_with('/'), "{name} is elsewhere");
        let asset = gateway.get(&format!("/docs/{relative}")).expect(200).await;
        if relative.ends_with(".css") {
            for url in named(&asset.text, "url(") {
                assert!(url.starts_with("data:") || url.is_empty(), "{name} names {url}");
            }
            assert!(!asset.text.contains("@import"), "{name}");
        }
    }
    // The page is configured to show this document, and not to send it to a validator.
    let settings = gateway.get("/docs/swagger-initializer.js").expect(200).await.text;
    assert!(settings.contains(r#""url": "/openapi.json""#), "{settings}");
    assert!(settings.contains(r#""validatorUrl": "none""#), "{settings}");
    assert!(!settings.contains("://"), "{settings}");
}

#[tokio::test]
async fn the_page_runs_nothing_of_others_and_stands_in_nobodys_frame() {
    let gateway = Gateway::start().await;
    for path in ["/docs", "/docs/", "/docs/index.html", "/docs/swagger-ui-bundle.js", "/docs/none"]
    {
        let answer = gateway.get(path).send().await;
        let policy = answer.header("content-security-policy").unwrap_or_default();
        for rule in ["default-src 'none'", "script-src 'self';", "frame-ancestors 'none'"] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
}
