//! A server that speaks OpenAI's chat completions, answers what the test told it to, and remembers what
//! it was asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use wardgate::settings::{ModelSettings, Settings};

use super::web::Web;

/// What comes back for one turn.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// The model says this.
    Text(&'static str),
    /// The model asks for a tool, with these arguments as JSON text.
    Tool(&'static str, &'static str),
    /// The server answers with this status and text.
    Error(u16, &'static str),
    /// The model says this, after a while.
    Late(Duration, &'static str),
    /// The server never answers.
    Silence,
}

/// What the server was asked: the body, and the header `authorization`.
pub(crate) type Asked = (Value, String);

type Script = Arc<Mutex<(VecDeque<Reply>, Vec<Asked>)>>;

/// A model's server. The last reply of its script is given again and again.
#[derive(Debug)]
pub(crate) struct ModelServer {
    web: Web,
    script: Script,
    /// How long the gateway waits for one turn.
    pub(crate) turn_time_max: Duration,
}

/// The key that the gateway has for it.
pub(crate) const MODEL_KEY: &str = "sk-test-model-key-0123456789";

impl ModelServer {
    pub(crate) async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        let script: Script = Arc::new(Mutex::new((replies.into_iter().collect(), Vec::new())));
        let router = Router::new()
            .route("/v1/chat/completions", post(complete))
            .with_state(Arc::clone(&script));
        Self { web: Web::serve(router).await, script, turn_time_max: Duration::from_secs(2) }
    }

    /// Puts it into a gateway's settings as the model `scripted`.
    pub(crate) fn put_into(&self, settings: &mut Settings) {
        let model = ModelSettings::OpenaiCompatible {
            base_url: format!("http://127.0.0.1:{}/v1", self.web.port).parse().unwrap(),
            model: "scripted-1".to_owned(),
            api_key: MODEL_KEY.into(),
            turn_time_max: self.turn_time_max,
        };
        settings.models.insert("scripted".to_owned(), model);
    }

    /// The same as a settings file, with all the time in the world for one turn.
    pub(crate) fn as_toml(&self) -> String {
        format!(
            "[models.scripted]\nkind = \"openai-compatible\"\nmodel = \"scripted-1\"\n\
             base_url = \"http://127.0.0.1:{}/v1\"\napi_key = \"{MODEL_KEY}\"\nseconds_max = 600\n",
            self.web.port,
        )
    }

    /// From now on it replies like this.
    pub(crate) fn reply(&self, reply: Reply) {
        self.script.lock().unwrap().0 = VecDeque::from([reply]);
    }

    /// Everything that it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.script.lock().unwrap().1.clone()
    }
}

async fn complete(
    State(script): State<Script>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let reply = {
        let mut script = script.lock().unwrap();
        let key = headers.get("authorization").map(|key| key.to_str().unwrap().to_owned());
        script.1.push((body, key.unwrap_or_default()));
        if script.0.len() > 1 { script.0.pop_front() } else { script.0.front().cloned() }
    };
    let message = match reply.expect("a script has at least one reply") {
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
        Reply::Late(wait, text) => {
            tokio::time::sleep(wait).await;
            json!({"role": "assistant", "content": text})
        }
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
