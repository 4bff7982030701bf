//! A collector of OpenTelemetry, which keeps the spans that it receives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;

use super::poll_until;
use super::web::Web;

/// The bodies of the requests, each with the header `authorization`.
type Received = Arc<Mutex<Vec<(Bytes, String)>>>;

/// A running collector.
#[derive(Debug)]
pub(crate) struct Collector {
    web: Web,
    received: Received,
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let received = Received::default();
        let router =
            Router::new().route("/v1/traces", post(receive)).with_state(Arc::clone(&received));
        Self { web: Web::serve(router).await, received }
    }

    /// The value for `telemetry.otlp_endpoint`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.web.port)
    }

    /// Everything that it has received.
    pub(crate) fn requests(&self) -> Vec<(Bytes, String)> {
        self.received.lock().unwrap().clone()
    }

    /// The spans of a trace, once its root is there: the root first.
    pub(crate) async fn trace(&self, task: &str) -> Vec<Span> {
        poll_until("the trace", async || {
            let spans = self.requests().into_iter().flat_map(|(body, _)| {
                let request = ExportTraceServiceRequest::decode(body).unwrap();
                let scopes = request.resource_spans.into_iter().flat_map(|one| one.scope_spans);
                scopes.flat_map(|scope| scope.spans)
            });
            let id = task.replace('-', "");
            let mut spans: Vec<Span> = spans.filter(|span| hex(&span.trace_id) == id).collect();
            spans.sort_by_key(|span| (!span.parent_span_id.is_empty(), span.start_time_unix_nano));
            spans.first().is_some_and(|root| root.parent_span_id.is_empty()).then_some(spans)
        })
        .await
    }
}

async fn receive(State(received): State<Received>, headers: HeaderMap, body: Bytes) {
    let key = headers.get("authorization").map(|key| key.to_str().unwrap().to_owned());
    received.lock().unwrap().push((body, key.unwrap_or_default()));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The attributes of a span as text.
pub(crate) fn attributes(span: &Span) -> BTreeMap<String, String> {
    let text = |value: any_value::Value| match value {
        any_value::Value::StringValue(text) => text,
        any_value::Value::IntValue(number) => number.to_string(),
        any_value::Value::BoolValue(is) => is.to_string(),
        any_value::Value::ArrayValue(values) => format!("{:?}", values.values),
        other => format!("{other:?}"),
    };
    let attributes = span.attributes.iter().cloned();
    attributes.map(|one| (one.key, text(one.value.unwrap().value.unwrap()))).collect()
}
