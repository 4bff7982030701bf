//! Serves the OpenAPI document, which is generated from the code of the routes, and a page that shows it.

use axum::middleware::map_response;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Extension, Router};
use http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, StatusCode};
use utoipa::ToSchema;
use utoipa::openapi::path::PathItem;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{OpenApi, RefOr};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::layers::Static;
use super::state::HttpState;
use crate::answer::event::TaskEvent;

/// The path of the document.
const PATH: &str = "/openapi.json";

/// The page's content security policy: code and data from the gateway's origin only, and no framing. The page sets
/// inline styles, which contain images as `data:` URLs.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

/// The parts of the document that do not come from routes.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Wardgate",
        description = "Any system that can make an HTTP request triggers an AI agent.\n\n\
            Errors are `{\"detail\": …}`, those of the DocsGPT-compatible routes \
            `{\"success\": false, \"message\": …}`. The header `x-wardgate-fault` says whose fault one \
            was, `x-wardgate-retry` whether the same request may be sent again, `x-request-id` which \
            request it was. A method that a path does not have is 405, a path that does not exist 404. \
            Requests that are not HTTP, or whose headers are too long, are refused before any route is \
            chosen.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(TaskEvent)),
    tags(
        (name = "webhook", description = "The xpander-compatible webhook"),
        (name = "DocsGPT", description = "The DocsGPT-compatible webhook and its polling"),
        (name = "channels", description = "Webhooks of providers, spoken to by plugins"),
        (name = "agents", description = "Agents and their runs, as xpander's API has them"),
        (name = "tasks", description = "What became of runs"),
        (name = "approvals", description = "Tool calls that a person decides about"),
        (name = "mcp", description = "The gateway as an MCP server"),
        (name = "aliases", description = "The same routes under the names that other clients use"),
        (name = "admin", description = "Managing tenants, keys, agents, channels, plugins and webhooks"),
        (name = "gateway", description = "The gateway itself")
    )
)]
struct BaseDocument;

/// A body of arbitrary bytes.
#[derive(ToSchema)]
#[schema(as = Octets, value_type = String, format = Binary)]
#[expect(dead_code, reason = "documentation: such bodies are read and written as bytes")]
pub(super) struct Binary(Vec<u8>);

/// The document before any route is added.
pub(super) fn base_document() -> OpenApi {
    let mut document = <BaseDocument as utoipa::OpenApi>::openapi();
    let components = document.components.get_or_insert_default();
    let key = |what: &str| {
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description("x-api-key", what)))
    };
    let in_query =
        ApiKeyValue::with_description("x-api-key", "The same in the query of `POST /` alone");
    components.add_security_schemes_from_iter([
        ("api_key", key("A key of a tenant")),
        ("api_key_in_query", SecurityScheme::ApiKey(ApiKey::Query(in_query))),
        ("admin_key", key("A tenant's admin key, or an operator's key")),
        ("operator_key", key("An operator's key")),
        ("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer))),
    ]);
    document
}

/// Adds a description to each response whose route states only its type: OpenAPI requires one (3.1, section 4.8.17).
pub(super) fn describe_responses(document: &mut OpenApi) {
    let operations = document.paths.paths.values_mut().flat_map(|path| {
        let PathItem { get, put, post, delete, options, head, patch, .. } = path;
        [get, put, post, delete, options, head, patch].into_iter().flatten()
    });
    for (status, response) in operations.flat_map(|operation| &mut operation.responses.responses) {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            let is_new = status == StatusCode::CREATED.as_str();
            let description = if is_new { "The new resource." } else { "OK" };
            description.clone_into(&mut response.description);
        }
    }
}

/// The document as text, as it is served and checked in.
#[must_use]
pub fn text(document: &OpenApi) -> String {
    let mut text = document.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// The routes of the document and of the page that shows it.
pub(super) fn routes(document: &OpenApi) -> Router<HttpState> {
    let text = bytes::Bytes::from(text(document));
    let serve = move || {
        let text = text.clone();
        async move { serve(text) }
    };
    // Without the validator, which is an external service that would receive the document's URL.
    let config = Config::from(PATH).try_it_out_enabled(true).validator_url("none");
    let page = Router::from(SwaggerUi::new("/docs").config(config));
    Router::new().route(PATH, get(serve)).merge(page.layer(map_response(set_security_headers)))
}

/// Sets the page's security headers: users enter API keys there to try routes out.
async fn set_security_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response.extensions_mut().insert(Static);
    response
}

fn serve(text: bytes::Bytes) -> Response {
    let json = HeaderValue::from_static("application/json");
    ([(CONTENT_TYPE, json)], Extension(Static), text).into_response()
}
