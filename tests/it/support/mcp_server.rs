//! A scripted MCP server (streamable HTTP), of a newer or an older revision, which records the requests that it gets.

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::web::Web;

/// Which revision a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revision {
    /// 2026-07-28: every request stands for itself.
    Stateless,
    /// 2025-11-25 and before: `initialize`, and a session.
    WithSessions,
    /// One that nobody knows.
    Unknown,
}

/// What a server does in place of its protocol.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// Answers with this status and body.
    Status(u16, &'static str),
    /// Redirects to this URL.
    Redirect(String),
}

/// A request that the server got: its headers and its body.
pub(crate) type Request = (HeaderMap, Value);

#[derive(Debug)]
struct Script {
    revision: Revision,
    tools: Mutex<Vec<Value>>,
    fault: Mutex<Option<Fault>>,
    /// The `Authorization` that is required.
    wanted: Mutex<Option<String>>,
    requests: Mutex<Vec<Request>>,
    /// How long clients may keep the list of tools, in milliseconds.
    ttl: Mutex<u64>,
    /// One permit for each call of `hold` that may be answered.
    gate: Semaphore,
}

/// A scripted MCP server. It stops when dropped.
#[derive(Debug)]
pub(crate) struct McpServer {
    web: Web,
    script: Arc<Script>,
}

/// A tool of this name with an argument `text`.
pub(crate) fn tool(name: &str) -> Value {
    json!({
        "name": name,
        "description": format!("Does {name}."),
        "inputSchema": {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
        },
    })
}

impl McpServer {
    /// A server with the tools `echo`, `fail`, `hold`, `repeat_key` and `structured`.
    pub(crate) async fn start(revision: Revision) -> Self {
        let tools = ["echo", "fail", "hold", "repeat_key", "structured"].map(tool);
        let script = Arc::new(Script {
            revision,
            tools: Mutex::new(tools.into()),
            fault: Mutex::default(),
            wanted: Mutex::default(),
            requests: Mutex::default(),
            ttl: Mutex::default(),
            gate: Semaphore::new(0),
        });
        let route = post(receive).get(refuse_stream).delete(async || StatusCode::OK);
        let router = Router::new().route("/mcp", route).with_state(Arc::clone(&script));
        Self { web: Web::serve(router).await, script }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/mcp", self.web.port)
    }

    pub(crate) fn set_tools(&self, tools: impl IntoIterator<Item = Value>) {
        *self.script.tools.lock().unwrap() = tools.into_iter().collect();
    }

    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        *self.script.fault.lock().unwrap() = fault;
    }

    /// Requires this value of `Authorization`.
    pub(crate) fn require(&self, authorization: &str) {
        *self.script.wanted.lock().unwrap() = Some(authorization.to_owned());
    }

    pub(crate) fn set_ttl(&self, millis: u64) {
        *self.script.ttl.lock().unwrap() = millis;
    }

    /// Releases this many calls of `hold`.
    pub(crate) fn release(&self, calls: usize) {
        self.script.gate.add_permits(calls);
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.script.requests.lock().unwrap().clone()
    }

    /// The requests of this method so far.
    pub(crate) fn requests_of(&self, method: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|(_, body)| body["method"] == method).collect()
    }
}

/// The common stream, which no client need open.
async fn refuse_stream(State(script): State<Arc<Script>>, headers: HeaderMap) -> StatusCode {
    script.requests.lock().unwrap().push((headers, json!({"method": "GET"})));
    StatusCode::METHOD_NOT_ALLOWED
}

/// The answer of the tool `chatty`: requests and notifications without number, and the result.
fn chatty(id: &Value) -> Response {
    let mut events = String::new();
    for number in 0..1_000 {
        let ping = json!({"jsonrpc": "2.0", "id": number, "method": "ping"});
        let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
        events += &format!("data: {ping}\n\ndata: {changed}\n\n");
    }
    let result =
        json!({"resultType": "complete", "content": [{"type": "text", "text": "at last"}]});
    events += &format!("data: {}\n\n", json!({"jsonrpc": "2.0", "id": id, "result": result}));
    ([("content-type", "text/event-stream")], events).into_response()
}

async fn receive(State(script): State<Arc<Script>>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).unwrap();
    script.requests.lock().unwrap().push((headers.clone(), body.clone()));
    let fault = script.fault.lock().unwrap().clone();
    match fault {
        Some(Fault::Status(status, text)) => {
            return (StatusCode::from_u16(status).unwrap(), text).into_response();
        }
        Some(Fault::Redirect(to)) => {
            return (StatusCode::TEMPORARY_REDIRECT, [("location", to)]).into_response();
        }
        None => {}
    }
    let authorization = headers.get("authorization").map(|value| value.to_str().unwrap());
    let wanted = script.wanted.lock().unwrap().clone();
    if wanted.is_some() && authorization != wanted.as_deref() {
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", "Bearer")]).into_response();
    }
    let Some(id) = body.get("id") else { return StatusCode::ACCEPTED.into_response() };
    if body["params"]["name"] == "chatty" {
        return chatty(id);
    }
    let answer = answer(&script, &headers, &body).await;
    let (field, value) = match answer {
        Ok(result) => ("result", result),
        Err((code, message)) => ("error", json!({"code": code, "message": message})),
    };
    let message = Json(json!({"jsonrpc": "2.0", "id": id, field: value}));
    if body["method"] == "initialize" {
        return ([("mcp-session-id", "session-1")], message).into_response();
    }
    message.into_response()
}

async fn answer(
    script: &Script,
    headers: &HeaderMap,
    body: &Value,
) -> Result<Value, (i64, &'static str)> {
    let own = json!({"name": "scripted", "version": "1"});
    let is_stateless = script.revision == Revision::Stateless;
    match body["method"].as_str().unwrap() {
        "server/discover" if is_stateless => Ok(json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0,
            "cacheScope": "private", "capabilities": {"tools": {}},
            "_meta": {"io.modelcontextprotocol/serverInfo": own},
        })),
        "server/discover" if script.revision == Revision::Unknown => Ok(json!({
            "resultType": "complete", "supportedVersions": ["2031-01-01"], "ttlMs": 0,
            "cacheScope": "private", "capabilities": {"tools": {}},
        })),
        "initialize" if script.revision == Revision::WithSessions => Ok(json!({
            "protocolVersion": body["params"]["protocolVersion"], "capabilities": {"tools": {}},
            "serverInfo": own,
        })),
        "tools/list" => {
            // Two pages.
            let tools = script.tools.lock().unwrap().clone();
            let (first, rest) = tools.split_at(tools.len().min(3));
            let (tools, next) = match body["params"].get("cursor") {
                None | Some(Value::Null) => (first, (!rest.is_empty()).then_some("rest")),
                _ => (rest, None),
            };
            let ttl = *script.ttl.lock().unwrap();
            let mut result = json!({"tools": tools, "ttlMs": ttl, "cacheScope": "private"});
            if is_stateless {
                result["resultType"] = "complete".into();
            }
            if let Some(next) = next {
                result["nextCursor"] = next.into();
            }
            Ok(result)
        }
        "tools/call" => {
            let arguments = &body["params"]["arguments"];
            let text = match body["params"]["name"].as_str().unwrap() {
                "fail" => {
                    let content = json!([{"type": "text", "text": "the disk is full"}]);
                    return Ok(json!({"content": content, "isError": true}));
                }
                "hold" => {
                    script.gate.acquire().await.unwrap().forget();
                    "released".to_owned()
                }
                "repeat_key" => format!("{:?}", headers.get("authorization")),
                "structured" => {
                    return Ok(json!({
                        "resultType": "complete", "content": [],
                        "structuredContent": {"city": "Bern"},
                    }));
                }
                "echo" => arguments["text"].as_str().unwrap().to_owned(),
                _ => return Err((-32602, "there is no such tool")),
            };
            Ok(json!({
                "resultType": "complete", "content": [{"type": "text", "text": text}],
            }))
        }
        _ => Err((-32601, "the method is unknown")),
    }
}
