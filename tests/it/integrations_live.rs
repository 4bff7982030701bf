//! The bundled integrations that send answers, end to end: a request arrives by HTTP as its provider signs it, the
//! agent runs, and the provider's API receives the answer with a credential that the host attaches. The plugins get
//! the grants that docs/INTEGRATIONS.md shows, with a local server in place of the provider.
//!
//! Signatures are made by openssl, independent of the gateway's code and libraries.

mod acknowledgements;
mod documented;
mod slack;
mod telegram;
mod twilio;
mod whatsapp;
mod without_a_provider;
mod zapier;

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::{Json, Router};
use serde_json::{Value, json};
use wardgate::clock::{Clock, Timestamp};
use wardgate::sandbox::Grants;

use crate::support::web::Web;
use crate::support::{Call, Gateway, Setup, poll_until};

/// The key that the provider signs with, or the token that it sends.
const SECRET: &str = "a-secret-of-the-provider";

/// The credential of the provider's API, in the format of Telegram's, which is part of a path.
const CREDENTIAL: &str = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw";

/// The time in seconds. The clock stands still.
const NOW: i64 = 1_800_000_000;

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

/// Generous limits, for slow machines.
const LIMITS: &str = "[limits]\ncpu_ms = 5000\nwall_ms = 10000\n";

fn clock() -> Clock {
    Clock::manual(Timestamp::from_micros(NOW * 1_000_000))
}

/// The TOML blocks in the documentation, each with its heading.
fn documented_blocks() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = std::fs::read_to_string(root.join("docs/INTEGRATIONS.md")).unwrap();
    let (mut heading, mut blocks) = (String::new(), Vec::new());
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("### ") {
            heading = name.to_owned();
        } else if line == "```toml" {
            let block = lines.by_ref().take_while(|line| *line != "```");
            blocks.push((heading.clone(), block.map(|line| format!("{line}\n")).collect()));
        }
    }
    assert_eq!(blocks.len(), text.matches("```toml").count(), "each block is found");
    blocks
}

fn is_grants(block: &str) -> bool {
    block.starts_with("[[egress]]")
}

/// The grants of an integration in the documentation, with a local server in place of the provider.
fn documented_grants(integration: &str, port: u16) -> String {
    let shown = documented_blocks().into_iter();
    let mut shown = shown.filter(|(heading, block)| heading == integration && is_grants(block));
    let (_, shown) = shown.next().unwrap();
    let here = format!(
        "host = \"127.0.0.1\"\nscheme = \"http\"\nport = {port}\nnetworks = [\"127.0.0.0/8\"]\n"
    );
    let lines = shown.lines().map(|line| match line.starts_with("host = ") {
        true => here.clone(),
        false => format!("{line}\n"),
    });
    lines.collect::<String>() + LIMITS
}

/// A request that the provider's API received.
#[derive(Debug, Clone)]
struct ReceivedRequest {
    /// The method and target.
    request_line: String,
    headers: HeaderMap,
    body: String,
}

impl ReceivedRequest {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

type ReceivedRequests = Arc<Mutex<Vec<ReceivedRequest>>>;

/// A local stand-in for a provider's API. It accepts everything.
#[derive(Debug)]
struct ProviderApi {
    web: Web,
    received: ReceivedRequests,
}

impl ProviderApi {
    async fn start() -> Self {
        async fn record(
            State(received): State<ReceivedRequests>,
            method: Method,
            uri: Uri,
            headers: HeaderMap,
            body: String,
        ) -> Json<Value> {
            let request_line = format!("{method} {uri}");
            received.lock().unwrap().push(ReceivedRequest { request_line, headers, body });
            Json(json!({"ok": true}))
        }
        let received = ReceivedRequests::default();
        let router = Router::new().fallback(record).with_state(Arc::clone(&received));
        Self { web: Web::serve(router).await, received }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.web.port)
    }

    fn received_requests(&self) -> Vec<ReceivedRequest> {
        self.received.lock().unwrap().clone()
    }
}

/// A gateway with a channel that uses one integration in each role, and the API that it delivers to.
#[derive(Debug)]
struct LiveChannel {
    gateway: Gateway,
    api: ProviderApi,
    definition: Value,
    hook: String,
}

impl LiveChannel {
    async fn start(setup: Setup, integration: &str, answer: &str) -> Self {
        let (gateway, api) = (setup.start().await, ProviderApi::start().await);
        let granted = documented_grants(integration, api.web.port);
        let grants = Grants::parse(&granted).unwrap();
        for credential in grants.secret_names() {
            gateway.store_secret(credential.as_str(), CREDENTIAL, false).await;
        }
        gateway.write_grants(integration, &granted);
        gateway.store_secret("provider", SECRET, false).await;
        let definition = json!({
            "name": "live", "agent": "tested", "answer": answer, "verifier": integration,
            "mapper": integration, "replier": integration, "secrets": {"secret": "provider"},
            "settings": settings(integration, &api.url()),
        });
        let hook = gateway.apply_channel(definition.clone()).await;
        Self { gateway, api, definition, hook }
    }

    /// A request of the provider to the channel, to be completed by the test.
    fn post(&self) -> Call {
        self.gateway.post(&self.hook).answered_by_a_plugin()
    }

    /// Waits for the task's end, and returns its result.
    async fn result(&self, task: &str) -> String {
        self.gateway.wait_for_end(task).await["result"].as_str().unwrap().to_owned()
    }

    /// Waits until the task's answer is delivered, and returns the only request that the API received.
    async fn delivered(&self, task: &str) -> ReceivedRequest {
        let delivery = poll_until("the first try of a delivery", async || {
            let found = self.gateway.admin_request("GET", "/deliveries").expect(200).await.json();
            let ended = |one: &&Value| one["status"] == "delivered" || one["reason"].is_string();
            found.as_array().unwrap().iter().find(ended).cloned()
        })
        .await;
        let became = (&delivery["task"], &delivery["status"], &delivery["attempts"]);
        assert_eq!(became, (&json!(task), &json!("delivered"), &json!(1)), "{delivery}");
        let mut sent = self.api.received_requests();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }
}

/// The settings that point an integration to its API at this URL.
fn settings(integration: &str, url: &str) -> Value {
    match integration {
        "slack" => json!({"api-url": format!("{url}/api"), "acknowledgement": "One moment."}),
        "whatsapp" => json!({"api-url": format!("{url}/v23.0")}),
        "twilio" => json!({"api-url": url, "conversations-url": url}),
        // Each request contains the URL for its answer.
        "zapier-form" => json!({}),
        _ => json!({"api-url": url}),
    }
}

/// The HMAC of a message with the secret.
fn hmac(hash: &str, message: &str) -> Vec<u8> {
    let mut openssl = Command::new("openssl")
        .args(["dgst", &format!("-{hash}"), "-hmac", SECRET, "-binary"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs openssl");
    openssl.stdin.take().unwrap().write_all(message.as_bytes()).unwrap();
    let output = openssl.wait_with_output().unwrap();
    assert!(output.status.success() && output.stdout.len() >= 20, "{output:?}");
    output.stdout
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn form(fields: &[(&str, &str)]) -> String {
    let url = reqwest::Url::parse_with_params("http://form", fields).unwrap();
    url.query().unwrap().to_owned()
}

/// A text escaped as Slack and XML require.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
