//! A server for the three protocols of models, which returns scripted replies and records the requests that it receives.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use futures::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use wardgate::settings::{ModelSettings, Protocol, Settings};

use super::web::Web;
use super::{model_wire, poll_until};

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
    /// The beginning of a text, and an error in the stream.
    FailedMidway(&'static str, &'static str),
    /// A response with these headers and bytes, whatever they are.
    Raw(&'static [(&'static str, &'static str)], Arc<[u8]>),
    /// A stream with this beginning, after which this part comes again and again.
    Endless(&'static str, &'static str),
    /// The same as [`Reply::Broken`], but the connection ends once the test calls [`ModelServer::release`].
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

/// A recorded request: the body, and the header with the key.
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
    /// The protocol that the gateway's settings have for it.
    protocol: Protocol,
    /// How long the gateway waits for one turn: practically forever, unless a test sets less.
    pub(crate) turn_time_max: Duration,
}

/// The API key that the gateway is configured with for this server.
pub(crate) const MODEL_KEY: &str = "sk-test-model-key-0123456789";

impl ModelServer {
    pub(crate) async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let script = Arc::new(Mutex::new((replies.into_iter().collect(), Vec::new())));
        let state = ServerState { script, gate: Arc::new(Semaphore::new(0)) };
        let router = Router::new()
            .route("/v1/chat/completions", post(openai))
            .route("/v1/messages", post(anthropic))
            .route("/v1/models/{method}", post(gemini))
            .with_state(state.clone());
        let protocol = Protocol::OpenaiCompatible;
        Self { web: Web::serve(router).await, state, protocol, turn_time_max: FOREVER }
    }

    /// The same for another protocol than OpenAI's.
    pub(crate) async fn speaking(
        protocol: Protocol,
        replies: impl IntoIterator<Item = Reply>,
    ) -> Self {
        Self { protocol, ..Self::start(replies).await }
    }

    /// Adds it to a gateway's settings as the model `scripted`.
    pub(crate) fn add_to_settings(&self, settings: &mut Settings) {
        let model = ModelSettings {
            kind: self.protocol,
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
            "[models.scripted]\nkind = {}\nmodel = \"scripted-1\"\n\
             base_url = \"http://127.0.0.1:{}/v1\"\napi_key = \"{MODEL_KEY}\"\nseconds_max = {}\n",
            json!(self.protocol),
            self.web.port,
            self.turn_time_max.as_secs(),
        )
    }

    /// Replaces the script with this reply.
    pub(crate) fn set_reply(&self, reply: Reply) {
        self.set_script([reply]);
    }

    /// Replaces the script.
    pub(crate) fn set_script(&self, replies: impl IntoIterator<Item = Reply>) {
        self.state.script.lock().unwrap().0 = replies.into_iter().collect();
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

async fn openai(state: State<ServerState>, headers: HeaderMap, body: Json<Value>) -> Response {
    take_turn(state.0, Protocol::OpenaiCompatible, text_of(&headers, "authorization"), body.0).await
}

async fn anthropic(state: State<ServerState>, headers: HeaderMap, body: Json<Value>) -> Response {
    assert_eq!(text_of(&headers, "anthropic-version"), "2023-06-01");
    take_turn(state.0, Protocol::Anthropic, text_of(&headers, "x-api-key"), body.0).await
}

async fn gemini(
    state: State<ServerState>,
    Path(method): Path<String>,
    headers: HeaderMap,
    body: Json<Value>,
) -> Response {
    assert_eq!(method, "scripted-1:streamGenerateContent");
    take_turn(state.0, Protocol::Gemini, text_of(&headers, "x-goog-api-key"), body.0).await
}

fn text_of(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

async fn take_turn(state: ServerState, protocol: Protocol, key: String, body: Value) -> Response {
    let mut reply = {
        let mut script = state.script.lock().unwrap();
        let turn = model_wire::turns_taken(&body);
        script.1.push((body, key));
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
    let text =
        |text: &str, reason: &str| events(model_wire::turn(protocol, Some(text), &[], reason));
    let calls =
        |calls: &[(String, String)]| events(model_wire::turn(protocol, None, calls, "tool_calls"));
    match reply {
        Reply::Text(answer) => text(answer, "stop"),
        Reply::Finished(answer, reason) => text(answer, reason),
        Reply::Broken(beginning) => events(model_wire::beginning(protocol, beginning)),
        Reply::FailedMidway(beginning, error) => {
            let beginning = model_wire::beginning(protocol, beginning);
            events(beginning + &model_wire::error_event(protocol, error))
        }
        Reply::Paused(beginning, rest) => {
            let (beginning, rest) =
                (model_wire::beginning(protocol, beginning), model_wire::rest(protocol, rest));
            gated(state, beginning, rest)
        }
        Reply::BrokenLater(beginning) => {
            gated(state, model_wire::beginning(protocol, beginning), String::new())
        }
        Reply::Tool(name, arguments) => calls(&[(name.into(), arguments.into())]),
        Reply::Calls(called) => calls(&called),
        Reply::ByTurn(_) => panic!("a script within a script"),
        Reply::Error(status, text) => {
            let status = StatusCode::from_u16(status).unwrap();
            // So that the next attempt does not wait.
            let headers = [("retry-after-ms", "1")];
            (status, headers, Json(json!({"error": {"message": text}}))).into_response()
        }
        Reply::Delayed(wait, answer) => {
            tokio::time::sleep(wait).await;
            text(answer, "stop")
        }
        Reply::Raw(headers, body) => {
            let mut response = Body::from(body.to_vec()).into_response();
            for (name, value) in headers {
                response.headers_mut().insert(*name, value.parse().unwrap());
            }
            response
        }
        Reply::Endless(beginning, part) => {
            let parts = stream::once(async move { beginning.to_owned() })
                .chain(stream::repeat(part.to_owned()))
                .map(Ok::<_, std::io::Error>);
            ([EVENT_STREAM], Body::from_stream(parts)).into_response()
        }
        Reply::Held(_) => panic!("what is held is held once"),
        Reply::Silence => std::future::pending().await,
    }
}

/// The beginning of a stream, and its rest once the test calls [`ModelServer::release`].
fn gated(state: ServerState, beginning: String, rest: String) -> Response {
    let rest = async move {
        state.gate.acquire().await.unwrap().forget();
        rest
    };
    let parts = stream::once(async { beginning }).chain(stream::once(rest));
    ([EVENT_STREAM], Body::from_stream(parts.map(Ok::<_, std::io::Error>))).into_response()
}

const EVENT_STREAM: (&str, &str) = ("content-type", "text/event-stream");

fn events(stream: String) -> Response {
    ([EVENT_STREAM], stream).into_response()
}
