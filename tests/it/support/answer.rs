//! One HTTP request and its answer. The test states the expected status; every answer is also checked against the
//! responses that `docs/openapi.json` documents for the route.

use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use super::document::{OpenApiDocument, RouteMatch, UPDATE_COMMAND};

/// The paths that the gateway serves and the document does not contain.
const UNDOCUMENTED_PATHS: [&str; 2] = ["/openapi.json", "/docs"];

/// A request that has not been sent.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request: RequestBuilder,
    is_documented: bool,
}

impl Call {
    pub(crate) fn new(request: RequestBuilder) -> Self {
        Self { request, is_documented: true }
    }

    /// Disables the check against the document: a plugin produces the answer, with any status and content type.
    pub(crate) fn answered_by_a_plugin(self) -> Self {
        Self { is_documented: false, ..self }
    }

    fn with(self, change: impl FnOnce(RequestBuilder) -> RequestBuilder) -> Self {
        Self { request: change(self.request), ..self }
    }

    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        self.with(|request| request.header(name, value))
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("x-api-key", key)
    }

    pub(crate) fn idempotent(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    /// Sets a JSON body, with its content type.
    pub(crate) fn json(self, body: &Value) -> Self {
        self.text("application/json", body.to_string())
    }

    pub(crate) fn text(self, content_type: &str, body: impl Into<reqwest::Body>) -> Self {
        self.with(|request| request.header("content-type", content_type).body(body))
    }

    /// Sets a body without a content type.
    pub(crate) fn body(self, body: impl Into<reqwest::Body>) -> Self {
        self.with(|request| request.body(body))
    }

    pub(crate) fn multipart(self, form: reqwest::multipart::Form) -> Self {
        self.with(|request| request.multipart(form))
    }

    pub(crate) async fn send(self) -> Answer {
        let (client, request) = self.request.build_split();
        let request = request.unwrap();
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        let response = client.execute(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let answer = Answer { status, headers, text: response.text().await.unwrap() };
        if self.is_documented {
            answer.assert_documented(&method, &path);
        }
        answer
    }

    pub(crate) async fn expect(self, status: u16) -> Answer {
        let answer = self.send().await;
        assert_eq!(answer.status, status, "{}", answer.text);
        answer
    }
}

/// An answer whose body has been read completely.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("not JSON: {:?}", self.text))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Asserts that the document has this answer: its status for the route, and its content type for the status.
    fn assert_documented(&self, method: &Method, path: &str) {
        let is_undocumented = UNDOCUMENTED_PATHS.iter().any(|prefix| path.starts_with(prefix));
        if is_undocumented || method == Method::OPTIONS {
            return;
        }
        let operation = match OpenApiDocument::checked_in().find(method.as_str(), path) {
            RouteMatch::Operation(operation) => operation,
            RouteMatch::NoMethod if self.status == 405 => return,
            RouteMatch::NoPath if self.status == 404 => return,
            RouteMatch::NoMethod | RouteMatch::NoPath => panic!(
                "{method} {path} answered {}, and docs/openapi.json has no such route; if it is new, \
                 run: {UPDATE_COMMAND}\n{}",
                self.status, self.text
            ),
        };
        let route = format!("{method} {}", operation.path);
        let Some(content_types) = operation.content_types(self.status) else {
            panic!(
                "{route} answered {}, which docs/openapi.json does not have for it; if its `responses` have it, \
                 run: {UPDATE_COMMAND}\n{}",
                self.status, self.text
            );
        };
        let declared = self.header("content-type").map(|declared| {
            declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
        });
        // The answer to a HEAD has no body, whatever its headers declare.
        let is_documented_type = method == Method::HEAD
            || match &declared {
                Some(declared) => content_types.contains(&declared.as_str()),
                None => content_types.is_empty(),
            };
        assert!(
            is_documented_type,
            "{route} answered {} as {declared:?}, not as {content_types:?} as docs/openapi.json has it; if its \
             `responses` say so, run: {UPDATE_COMMAND}",
            self.status
        );
    }

    /// The `detail` of an error. Asserts that the object has no other field, except `retry` if a retry can help (408,
    /// 409, 429 or 5xx), which then equals the header.
    pub(crate) fn detail(&self) -> String {
        let json = self.json();
        let detail = json["detail"].as_str().unwrap_or_else(|| panic!("no detail: {json}"));
        let is_retryable = matches!(self.status, 408 | 409 | 429 | 500..);
        let retry = json["retry"].as_str();
        assert_eq!(json.as_object().unwrap().len(), 1 + usize::from(retry.is_some()), "{json}");
        assert!(
            retry.is_none() || (is_retryable && retry == self.header("x-wardgate-retry")),
            "{json}"
        );
        detail.to_owned()
    }

    /// The offline model's report: the `result` of the task in a synchronous answer, parsed as JSON.
    pub(crate) fn report(&self) -> Value {
        let task = self.json();
        let result = task["result"].as_str().unwrap_or_else(|| panic!("no result: {task}"));
        serde_json::from_str(result).unwrap_or_else(|_| panic!("not the offline model's: {result}"))
    }

    /// The id of the accepted task.
    pub(crate) fn task_id(&self) -> String {
        self.header("x-task-id").expect("an accepted task's id is in x-task-id").to_owned()
    }
}
