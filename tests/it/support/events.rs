//! A client for server-sent events, which reads them one by one as they arrive.

use reqwest::Response;
use serde_json::Value;

use super::{Call, Client, EVENT_TIMEOUT};

/// The fields of every event: exactly these.
const FIELDS: [&str; 5] = ["type", "task_id", "organization_id", "time", "data"];

/// An open event stream. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct EventStream {
    pub(crate) response: Response,
    buffer: String,
    last_id: String,
}

impl EventStream {
    /// Sends a request and asserts that the answer is an event stream.
    pub(crate) async fn open(call: Call) -> Self {
        let response = call.request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, buffer: String::new(), last_id: String::new() }
    }

    /// Follows a task by its id or its thread's name.
    pub(crate) async fn follow(caller: &Client, organization: impl ToString, task: &str) -> Self {
        let target = format!("/{}/agent-execution/{task}/events", organization.to_string());
        Self::open(caller.get(&target).key(&caller.key)).await
    }

    /// Starts a run, waits until it calls a tool, and returns the task's id.
    pub(crate) async fn start_run_until_tool_call(caller: &Client, text: &str) -> String {
        let mut events = Self::open(caller.invoke("invoke/stream", text)).await;
        events.expect("task_created").await;
        events.expect("task_updated").await;
        let request = events.expect("tool_call_request").await;
        request["task_id"].as_str().unwrap().to_owned()
    }

    /// Waits for the next event; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.buffer = rest;
                // A comment only keeps the connection open.
                if event.starts_with(':') {
                    continue;
                }
                let (id, event) = parse_event(&event);
                if let Some(id) = id {
                    self.last_id = id;
                }
                return Some(event);
            }
            let chunk = tokio::time::timeout(EVENT_TIMEOUT, self.response.chunk()).await;
            let Some(chunk) = chunk.expect("no event comes").unwrap() else {
                assert_eq!(self.buffer, "", "the stream broke off within an event");
                return None;
            };
            self.buffer.push_str(std::str::from_utf8(&chunk).expect("cut within a character"));
        }
    }

    /// The id of the last event.
    pub(crate) fn last_id(&self) -> &str {
        &self.last_id
    }

    /// The next event; asserts that it is of this type.
    pub(crate) async fn expect(&mut self, kind: &str) -> Value {
        let event = self.next().await.unwrap_or_else(|| panic!("no {kind}: the stream has ended"));
        assert_eq!(event["type"], kind, "{event}");
        event
    }

    /// All remaining events, up to the end of the stream.
    pub(crate) async fn remaining_events(mut self) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

/// Parses one event: an `id:` line and one `data:` line, without a name or a second line of data. An approval request,
/// which stands outside the order of the run, has no id.
fn parse_event(event: &str) -> (Option<String>, Value) {
    let (id, data) = match event.split_once('\n') {
        Some((id, data)) => {
            assert!(id.starts_with("id:"), "{event:?}");
            (Some(id.trim_start_matches("id:").trim().to_owned()), data)
        }
        None => (None, event),
    };
    let data = data.strip_prefix("data:").unwrap_or_else(|| panic!("not data: {event:?}"));
    let event: Value = serde_json::from_str(data).unwrap_or_else(|_| panic!("not JSON: {data:?}"));
    let fields: Vec<_> = event.as_object().unwrap().keys().collect();
    assert_eq!(fields, FIELDS, "{event}");
    let time = event["time"].as_str().unwrap();
    assert!(time.ends_with("+00:00") && time.len() == 32, "{time}");
    assert_eq!(id.is_none(), event["type"] == "approval_request", "{event}");
    (id, event)
}

/// The types of events, in order.
pub(crate) fn event_types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}
