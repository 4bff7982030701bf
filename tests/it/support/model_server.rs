//! A server for OpenAI's chat completions, which returns scripted replies and records the requests that it receives.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use wardgate::settings::{ModelSettings, Settings};

use super::poll_until;
use super::web::Web;

/// The scripted reply for one turn.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A text.
    Text(&'static str),
    /// A call of a tool, with these arguments as JSON text.
    Tool(&'static str, &'static str),
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
        let model = ModelSettings::OpenaiCompatible {
            base_url: format!("http://127.0.0.1:{}/v1", self.web.port).parse().unwrap(),
            model: "scripted-1".to_owned(),
            api_key: MODEL_KEY.into(),
            turn_time_max: self.turn_time_max,
        };
        settings.models.insert("scripted".to_owned(), model);
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
) -> (StatusCode, Json<Value>) {
    let mut reply = {
        let mut script = state.script.lock().unwrap();
        let key = headers.get("authorization").map(|key| key.to_str().unwrap().to_owned());
        script.1.push((body, key.unwrap_or_default()));
        let reply =
            if script.0.len() > 1 { script.0.pop_front() } else { script.0.front().cloned() };
        reply.expect("a script has at least one reply")
    };
    if let Reply::Held(held) = reply {
        // A client that disconnects while it waits consumes no permit.
        state.gate.acquire().await.unwrap().forget();
        reply = held.clone();
    }
    let message = match reply {
        Reply::Text(text) => json!({"role": "assistant", "content": text}),
        Reply::Tool(name, arguments) => json!({
            "role": "assistant",
            "content": null,
            "tool_calls": [{
                "id": "call_abc",
                "type": "function",
                "function": {"name": name, "arguments": arguments},
            }],
        }),
        Reply::Error(status, text) => {
            let status = StatusCode::from_u16(status).unwrap();
            return (status, Json(json!({"error": {"message": text}})));
        }
        Reply::Delayed(wait, text) => {
            tokio::time::sleep(wait).await;
            json!({"role": "assistant", "content": text})
        }
        Reply::Held(_) => panic!("what is held is held once"),
        Reply::Silence => std::future::pending().await,
    };
    let answer = json!({
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "scripted-1",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
    });
    (StatusCode::OK, Json(answer))
}
