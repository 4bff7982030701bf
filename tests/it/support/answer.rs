//! One HTTP request and its answer. Whoever sends one says which status has to come back.

use reqwest::RequestBuilder;
use serde_json::Value;

/// A request in the making.
#[derive(Debug)]
pub(crate) struct Call(pub(crate) RequestBuilder);

impl Call {
    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    pub(crate) fn key(self, key: &str) -> Self {
        self.header("x-api-key", key)
    }

    pub(crate) fn idempotent(self, key: &str) -> Self {
        self.header("idempotency-key", key)
    }

    /// Declared as JSON, and JSON.
    pub(crate) fn json(self, body: &Value) -> Self {
        self.text("application/json", body.to_string())
    }

    pub(crate) fn text(self, content_type: &str, body: impl Into<reqwest::Body>) -> Self {
        Self(self.0.header("content-type", content_type).body(body))
    }

    /// A body whose type is not declared.
    pub(crate) fn body(self, body: impl Into<reqwest::Body>) -> Self {
        Self(self.0.body(body))
    }

    pub(crate) fn multipart(self, form: reqwest::multipart::Form) -> Self {
        Self(self.0.multipart(form))
    }

    pub(crate) async fn send(self) -> Answer {
        let response = self.0.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    }

    pub(crate) async fn expect(self, status: u16) -> Answer {
        let answer = self.send().await;
        assert_eq!(answer.status, status, "{}", answer.text);
        answer
    }
}

/// An answer, read whole.
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

    /// The sentence of an error. It stands alone in the object, or beside whether to try again where that
    /// may help.
    pub(crate) fn detail(&self) -> String {
        let json = self.json();
        let detail = json["detail"].as_str().unwrap_or_else(|| panic!("no detail: {json}"));
        let may_help = matches!(self.status, 408 | 409 | 429 | 500..);
        let retry = json["retry"].as_str();
        assert_eq!(json.as_object().unwrap().len(), 1 + usize::from(retry.is_some()), "{json}");
        assert!(
            retry.is_none() || (may_help && retry == self.header("x-wardgate-retry")),
            "{json}"
        );
        detail.to_owned()
    }

    /// The task that a synchronous answer is, `result` read as the offline model writes it.
    pub(crate) fn report(&self) -> Value {
        let task = self.json();
        let result = task["result"].as_str().unwrap_or_else(|| panic!("no result: {task}"));
        serde_json::from_str(result).unwrap_or_else(|_| panic!("not the offline model's: {result}"))
    }

    /// The id of the task that was accepted.
    pub(crate) fn task_id(&self) -> String {
        self.header("x-task-id").expect("an accepted task's id is in x-task-id").to_owned()
    }
}
