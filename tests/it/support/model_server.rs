//! A server for OpenAI's chat completions, which returns scripted replies and records the requests that it receives.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use wardgate::settings::{ModelSettings, Protocol, Settings};

use super::poll_until;
use super::web::Web;

/// The scripted reply for one turn.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A text.
    Text(&'static str),
    /// A call of a tool, with these arguments as JSON text.
    Tool(&'static str, &'static str),
    /// A text that ends for this reason.
    Finished(&'static str, &'static str),
    /// The beginning of a text, after which the connection ends.
    Broken(&'static str),
    /// The same, but the connection ends once the test calls [`ModelServer::release`].
    BrokenLater(&'static str),
    /// The beginning of a text, and its rest once the test calls [`ModelServer::release`].
    Paused(&'static str, &'static str),
    /// The reply of this number, counted by the model's messages: a script for each conversation, however many there are
    /// at once.
    ByTurn(Arc<Vec<Reply>>),
    /// Calls of tools in one turn, each with its name and arguments.
    Calls(Arc<[(String, String)]>),
    /// An HTTP error with this status and message.
    Error(u16, &'static str),
    /// A text after a delay: for races only. A test that depends on the model being late uses [`Reply::Held`].
    Delayed(Duration, &'static str),
    /// This reply, once the test calls [`ModelServer::release`].
    Held(&'static Reply),
    /// No answer.
    Silence,
}

/// A recorded request: the body, and the header `authorization`.
pub(crate) type RecordedRequest = (Value, String);

type Script = Arc<Mutex<(VecDeque<Reply>, Vec<RecordedRequest>)>>;

/// The state that the server and its handler share.
#[derive(Debug, Clone)]
struct ServerState {
    script: Script,
    /// One permit for each held turn that may be answered.
    gate: Arc<Semaphore>,
}

/// Longer than any test runs.
const FOREVER: Duration = Duration::from_secs(600);

/// A scripted model server. The last reply of the script is repeated.
#[derive(Debug)]
pub(crate) struct ModelServer {
    web: Web,
    state: ServerState,
    /// How long the gateway waits for one turn: practically forever, unless a test sets less.
    pub(crate) turn_time_max: Duration,
}

/// The API key that the gateway is configured with for this server.
pub(crate) const MODEL_KEY: &str = "sk-test-model-key-0123456789";

impl ModelServer {
    pub(crate) async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let script = Arc::new(Mutex::new((replies.into_iter().collect(), Vec::new())));
        let state = ServerState { script, gate: Arc::new(Semaphore::new(0)) };
        let router =
            Router::new().route("/v1/chat/completions", post(complete)).with_state(state.clone());
        Self { web: Web::serve(router).await, state, turn_time_max: FOREVER }
    }

    /// Adds it to a gateway's settings as the model `scripted`.
    pub(crate) fn add_to_settings(&self, settings: &mut Settings) {
        let model = ModelSettings {
            kind: Protocol::OpenaiCompatible,
            base_url: Some(format!("http://127.0.0.1:{}/v1", self.web.port).parse().unwrap()),
            model: "scripted-1".to_owned(),
            api_key: MODEL_KEY.into(),
            key_header: None,
            turn_time_max: self.turn_time_max,
            effort: None,
            thinking_tokens: None,
            context_tokens: 128_000,
            output_tokens_max: None,
            structured_output: None,
            fallback: None,
            price: None,
        };
        settings.models.insert("scripted".to_owned(), model);
    }

    /// The base URL of its API.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.web.port)
    }

    /// The same model as text of a settings file.
    pub(crate) fn as_toml(&self) -> String {
        format!(
            "[models.scripted]\nkind = \"openai-compatible\"\nmodel = \"scripted-1\"\n\
             base_url = \"http://127.0.0.1:{}/v1\"\napi_key = \"{MODEL_KEY}\"\nseconds_max = {}\n",
            self.web.port,
            self.turn_time_max.as_secs(),
        )
    }

    /// Replaces the script with this reply.
    pub(crate) fn set_reply(&self, reply: Reply) {
        self.state.script.lock().unwrap().0 = VecDeque::from([reply]);
    }

    /// Releases this many turns that are held now or later.
    pub(crate) fn release(&self, turns: usize) {
        self.state.gate.add_permits(turns);
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<RecordedRequest> {
        self.state.script.lock().unwrap().1.clone()
    }

    /// Waits until it has received this many requests.
    pub(crate) async fn wait_for_requests(&self, times: usize) {
        poll_until("the model's turn", async || (self.requests().len() >= times).then_some(()))
            .await;
    }
}

async fn complete(
    State(state): State<ServerState>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let mut reply = {
        let mut script = state.script.lock().unwrap();
        let key = headers.get("authorization").map(|key| key.to_str().unwrap().to_owned());
        let turn = turns_taken(&body);
        script.1.push((body, key.unwrap_or_default()));
        let reply =
            if script.0.len() > 1 { script.0.pop_front() } else { script.0.front().cloned() };
        match reply.expect("a script has at least one reply") {
            Reply::ByTurn(replies) => replies[turn].clone(),
            reply => reply,
        }
    };
    if let Reply::Held(held) = reply {
        // A client that disconnects while it waits consumes no permit.
        state.gate.acquire().await.unwrap().forget();
        reply = held.clone();
    }
    let text = |text: &str| json!({"role": "assistant", "content": text});
    let (delta, finish_reason) = match reply {
        Reply::Text(answer) => (text(answer), "stop"),
        Reply::Finished(answer, reason) => (text(answer), reason),
        Reply::Broken(beginning) => return events([delta_chunk(&text(beginning), None)]),
        Reply::Paused(..) | Reply::BrokenLater(_) => {
            let (beginning, rest) = match reply {
                Reply::Paused(beginning, rest) => {
                    (beginning, [delta_chunk(&text(rest), Some("stop")), usage_chunk()].concat())
                }
                Reply::BrokenLater(beginning) => (beginning, String::new()),
                _ => unreachable!("matched above"),
            };
            let first = delta_chunk(&text(beginning), None);
            let rest = async move {
                state.gate.acquire().await.unwrap().forget();
                rest
            };
            let parts = stream::once(async { first }).chain(stream::once(rest));
            let body = Body::from_stream(parts.map(Ok::<_, std::io::Error>));
            return ([EVENT_STREAM], body).into_response();
        }
        Reply::Tool(name, arguments) => (calls(&[(name.into(), arguments.into())]), "tool_calls"),
        Reply::Calls(called) => (calls(&called), "tool_calls"),
        Reply::ByTurn(_) => panic!("a script within a script"),
        Reply::Error(status, text) => {
            let status = StatusCode::from_u16(status).unwrap();
            // So that the next attempt does not wait.
            let headers = [("retry-after-ms", "1")];
            return (status, headers, Json(json!({"error": {"message": text}}))).into_response();
        }
        Reply::Delayed(wait, answer) => {
            tokio::time::sleep(wait).await;
            (text(answer), "stop")
        }
        Reply::Held(_) => panic!("what is held is held once"),
        Reply::Silence => std::future::pending().await,
    };
    events([delta_chunk(&delta, None), delta_chunk(&json!({}), Some(finish_reason)), usage_chunk()])
}

/// The messages of the model.
fn turns_taken(request: &Value) -> usize {
    let messages = request["messages"].as_array().unwrap().iter();
    messages.filter(|message| message["role"] == "assistant").count()
}

fn calls(calls: &[(String, String)]) -> Value {
    let calls = calls.iter().enumerate().map(|(index, (name, arguments))| {
        let function = json!({"name": name, "arguments": arguments});
        let id = if index == 0 { "call_abc".to_owned() } else { format!("call_abc{index}") };
        json!({"index": index, "id": id, "type": "function", "function": function})
    });
    json!({"role": "assistant", "content": null, "tool_calls": calls.collect::<Vec<_>>()})
}

const EVENT_STREAM: (&str, &str) = ("content-type", "text/event-stream");

fn events<const N: usize>(events: [String; N]) -> Response {
    ([EVENT_STREAM], events.concat()).into_response()
}

fn delta_chunk(delta: &Value, finish_reason: Option<&str>) -> String {
    let choices = json!([{"index": 0, "delta": delta, "finish_reason": finish_reason}]);
    format!(
        "data: {}\n\n",
        json!({"object": "chat.completion.chunk", "choices": choices, "usage": null})
    )
}

/// The last chunks of an answer.
fn usage_chunk() -> String {
    let usage = json!({"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18});
    format!("data: {}\n\ndata: [DONE]\n\n", json!({"choices": [], "usage": usage}))
}
