//! The shipped integrations that answer, live: a request as its provider signs it comes in by HTTP,
//! the agent runs, and the provider's API gets the answer with a credential that the host attaches.
//! The plugins are granted what docs/INTEGRATIONS.md shows, with this machine in the place of the
//! provider.
//!
//! Signatures are made by openssl: neither by the gateway's code nor by a library of it.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::{Json, Router};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use wardgate::clock::{Clock, Timestamp};
use wardgate::sandbox::Grants;

use crate::support::model_server::{ModelServer, Reply};
use crate::support::web::Web;
use crate::support::{Call, Child, Gateway, Home, Setup, until, wardgate};

/// What a provider signs with, or sends as its token.
const SECRET: &str = "a-secret-of-the-provider";

/// What the provider's API wants to see. It is in the form of Telegram's, which stands in a path.
const CREDENTIAL: &str = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw";

/// What time it is, in seconds. The clock stands still.
const NOW: i64 = 1_800_000_000;

const FORM: &str = "application/x-www-form-urlencoded";
const JSON: &str = "application/json";

/// For machines that stall.
const LIMITS: &str = "[limits]\ncpu_ms = 5000\nwall_ms = 10000\n";

fn clock() -> Clock {
    Clock::by_hand(Timestamp::from_micros(NOW * 1_000_000))
}

/// The TOML that the documentation shows, each block with the heading that it stands under.
fn shown() -> Vec<(String, String)> {
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

/// What the documentation grants an integration, with this machine in the place of the provider.
fn granted(integration: &str, port: u16) -> String {
    let shown = shown().into_iter();
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

/// A request that a provider's API was sent.
#[derive(Debug, Clone)]
struct Sent {
    /// Its method and target.
    line: String,
    headers: HeaderMap,
    body: String,
}

impl Sent {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

type Taken = Arc<Mutex<Vec<Sent>>>;

/// A provider's API on this machine. It takes everything.
#[derive(Debug)]
struct Api {
    web: Web,
    taken: Taken,
}

impl Api {
    async fn start() -> Self {
        async fn take(
            State(taken): State<Taken>,
            method: Method,
            uri: Uri,
            headers: HeaderMap,
            body: String,
        ) -> Json<Value> {
            let line = format!("{method} {uri}");
            taken.lock().unwrap().push(Sent { line, headers, body });
            Json(json!({"ok": true}))
        }
        let taken = Taken::default();
        let router = Router::new().fallback(take).with_state(Arc::clone(&taken));
        Self { web: Web::serve(router).await, taken }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.web.port)
    }

    fn sent(&self) -> Vec<Sent> {
        self.taken.lock().unwrap().clone()
    }
}

/// A gateway with a channel of one integration in each role, and the API that it answers to.
#[derive(Debug)]
struct Live {
    gateway: Gateway,
    api: Api,
    definition: Value,
    hook: String,
}

impl Live {
    async fn start(setup: Setup, integration: &str, answer: &str) -> Self {
        let (gateway, api) = (setup.start().await, Api::start().await);
        let granted = granted(integration, api.web.port);
        let grants = Grants::parse(&granted).unwrap();
        for credential in grants.secret_names() {
            gateway.keep_secret(credential.as_str(), CREDENTIAL, false).await;
        }
        gateway.grant(integration, &granted);
        gateway.keep_secret("provider", SECRET, false).await;
        let definition = json!({
            "name": "live", "agent": "tested", "answer": answer, "verifier": integration,
            "mapper": integration, "replier": integration, "secrets": {"secret": "provider"},
            "settings": settings(integration, &api.url()),
        });
        let hook = gateway.channel(definition.clone()).await;
        Self { gateway, api, definition, hook }
    }

    /// A delivery of the provider, in the making.
    fn post(&self) -> Call {
        self.gateway.post(&self.hook).answered_by_a_plugin()
    }

    /// What the agent said in the end.
    async fn result(&self, task: &str) -> String {
        self.gateway.ended(task).await["result"].as_str().unwrap().to_owned()
    }

    /// The one request that the API was sent, once the answer of the task is delivered.
    async fn delivered(&self, task: &str) -> Sent {
        let delivery = until("the first try of a delivery", async || {
            let found = self.gateway.manage("GET", "/deliveries").expect(200).await.json();
            let ended = |one: &&Value| one["status"] == "delivered" || one["reason"].is_string();
            found.as_array().unwrap().iter().find(ended).cloned()
        })
        .await;
        let became = (&delivery["task"], &delivery["status"], &delivery["attempts"]);
        assert_eq!(became, (&json!(task), &json!("delivered"), &json!(1)), "{delivery}");
        let mut sent = self.api.sent();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.remove(0)
    }
}

/// The settings with which an integration finds its API there.
fn settings(integration: &str, url: &str) -> Value {
    match integration {
        "slack" => json!({"api-url": format!("{url}/api"), "acknowledgement": "One moment."}),
        "whatsapp" => json!({"api-url": format!("{url}/v23.0")}),
        // Each request says where its answer goes.
        "zapier-form" => json!({}),
        _ => json!({"api-url": url}),
    }
}

/// An HMAC with the secret.
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

/// A request that Slack sends at this second.
fn by_slack(call: Call, second: i64, content_type: &str, body: String) -> Call {
    let signature = format!("v0={}", hex(&hmac("sha256", &format!("v0:{second}:{body}"))));
    call.header("x-slack-request-timestamp", &second.to_string())
        .header("x-slack-signature", &signature)
        .text(content_type, body)
}

/// Somebody mentions the app in a channel.
fn mention() -> String {
    let event = json!({
        "type": "app_mention", "user": "U061F7AUR", "channel": "C123ABC456",
        "ts": "1800000000.000016", "text": "<@U0LAN0Z89> is 1 &lt; 2 &amp; why?",
    });
    json!({
        "type": "event_callback", "team_id": "T061EG9R6", "event_id": "Ev0MDYGDKJ",
        "event_time": NOW, "event": event,
    })
    .to_string()
}

/// Somebody gives a slash command in Slack.
fn command(live: &Live) -> Call {
    let response_url = format!("{}/commands/T061EG9R6/397700885554/96rGlfmi", live.api.url());
    let fields = [
        ("team_id", "T061EG9R6"),
        ("channel_id", "C123ABC456"),
        ("user_id", "U061F7AUR"),
        ("command", "/ask"),
        ("text", "is 1 &lt; 2?"),
        ("response_url", response_url.as_str()),
        ("trigger_id", "398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"),
    ];
    by_slack(live.post(), NOW, FORM, form(&fields))
}

/// Somebody writes to a bot of Telegram.
fn update(live: &Live) -> Call {
    let message = json!({
        "message_id": 1365, "date": NOW, "text": "is 1 < 2?",
        "chat": {"id": 1_111_111, "type": "private"},
        "from": {"id": 1_111_111, "is_bot": false, "first_name": "Test"},
    });
    let body = json!({"update_id": 10_000, "message": message});
    live.post().header("x-telegram-bot-api-secret-token", SECRET).json(&body)
}

/// What Twilio sends of a message, sorted by name.
const MESSAGE: [(&str, &str); 5] = [
    ("AccountSid", "AC0123456789abcdef0123456789abcdef"),
    ("Body", "is 1 < 2 & \"why\"?"),
    ("From", "+14017122661"),
    ("MessageSid", "SM11"),
    ("To", "+15558675310"),
];

/// A message that Twilio signs for this URL.
fn by_twilio(call: Call, url: &str) -> Call {
    let fields: String = MESSAGE.iter().flat_map(|(name, value)| [*name, *value]).collect();
    let signature = STANDARD.encode(hmac("sha1", &format!("{url}{fields}")));
    call.header("x-twilio-signature", &signature)
        .header("i-twilio-idempotency-token", "a4-token")
        .text(FORM, form(&MESSAGE))
}

/// Somebody writes to a number of Twilio.
fn message(live: &Live) -> Call {
    by_twilio(live.post(), &live.gateway.url(&live.hook))
}

/// A text as Slack and XML want it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[tokio::test]
async fn a_mention_in_slack_is_answered_in_its_thread() {
    let live = Live::start(Setup::new().clock(&clock()), "slack", "deliver").await;
    let acknowledged = by_slack(live.post(), NOW, JSON, mention()).expect(200).await;
    assert_eq!(acknowledged.text, "");
    let task = acknowledged.task_id();
    let result = live.result(&task).await;
    assert!(result.contains("\"received\":\"is 1 < 2 & why?\""), "{result}");

    let sent = live.delivered(&task).await;
    assert_eq!(sent.line, "POST /api/chat.postMessage");
    assert_eq!(sent.header("authorization"), format!("Bearer {CREDENTIAL}"));
    assert_eq!(sent.header("content-type"), "application/json; charset=utf-8");
    let expected = json!({
        "channel": "C123ABC456", "thread_ts": "1800000000.000016", "text": escaped(&result),
        "unfurl_links": false, "unfurl_media": false,
    });
    assert_eq!(sent.json(), expected);
}

#[tokio::test]
async fn a_slash_command_is_answered_at_its_own_url_without_a_credential() {
    let live = Live::start(Setup::new().clock(&clock()), "slack", "deliver").await;
    let task = command(&live).expect(200).await.task_id();
    let result = live.result(&task).await;
    assert!(result.contains("\"received\":\"is 1 < 2?\""), "{result}");

    let sent = live.delivered(&task).await;
    assert_eq!(sent.line, "POST /commands/T061EG9R6/397700885554/96rGlfmi");
    assert!(!sent.headers.contains_key("authorization"), "{sent:?}");
    assert_eq!(sent.header("content-type"), "application/json");
    let expected = json!({
        "text": escaped(&result), "response_type": "ephemeral",
        "unfurl_links": false, "unfurl_media": false,
    });
    assert_eq!(sent.json(), expected);
}

#[tokio::test]
async fn a_message_to_telegram_is_answered_in_its_chat_with_the_token_in_the_path() {
    let live = Live::start(Setup::new().clock(&clock()), "telegram", "deliver").await;
    let task = update(&live).expect(200).await.task_id();
    let result = live.result(&task).await;
    assert!(result.contains("\"received\":\"is 1 < 2?\""), "{result}");

    let sent = live.delivered(&task).await;
    assert_eq!(sent.line, format!("POST /bot{CREDENTIAL}/sendMessage"));
    assert!(!sent.headers.contains_key("authorization"), "{sent:?}");
    assert_eq!(sent.header("content-type"), "application/json");
    let expected = json!({
        "chat_id": 1_111_111, "text": result, "link_preview_options": {"is_disabled": true},
    });
    assert_eq!(sent.json(), expected);
}

#[tokio::test]
async fn a_message_to_whatsapp_is_answered_by_the_number_that_it_came_to() {
    let live = Live::start(Setup::new().clock(&clock()), "whatsapp", "deliver").await;
    let message = json!({
        "from": "16505551234", "id": "wamid.HBgLMTY1MDM4Nzk0MzkVAgASGBQz", "type": "text",
        "timestamp": "1800000000", "text": {"body": "Does it come in another color?"},
    });
    let value = json!({
        "messaging_product": "whatsapp", "messages": [message],
        "metadata": {"phone_number_id": "106540352242922"},
    });
    let entry = json!({"id": "1022901", "changes": [{"field": "messages", "value": value}]});
    let body = json!({"object": "whatsapp_business_account", "entry": [entry]}).to_string();
    let signature = format!("sha256={}", hex(&hmac("sha256", &body)));
    let call = live.post().header("x-hub-signature-256", &signature).text(JSON, body);
    let acknowledged = call.expect(200).await;
    assert_eq!(acknowledged.text, "");
    let task = acknowledged.task_id();
    let result = live.result(&task).await;
    assert!(result.contains("\"received\":\"Does it come in another color?\""), "{result}");

    let sent = live.delivered(&task).await;
    assert_eq!(sent.line, "POST /v23.0/106540352242922/messages");
    assert_eq!(sent.header("authorization"), format!("Bearer {CREDENTIAL}"));
    assert_eq!(sent.header("content-type"), "application/json");
    let expected = json!({
        "messaging_product": "whatsapp", "recipient_type": "individual", "to": "16505551234",
        "type": "text", "text": {"preview_url": false, "body": result},
    });
    assert_eq!(sent.json(), expected);
}

#[tokio::test]
async fn a_message_to_twilio_is_answered_from_the_number_that_it_came_to() {
    let live = Live::start(Setup::new().clock(&clock()), "twilio", "deliver").await;
    let task = message(&live).expect(200).await.task_id();
    let result = live.result(&task).await;
    assert!(result.contains("is 1 < 2 & "), "{result}");

    let sent = live.delivered(&task).await;
    let account = "AC0123456789abcdef0123456789abcdef";
    assert_eq!(sent.line, format!("POST /2010-04-01/Accounts/{account}/Messages.json"));
    assert_eq!(sent.header("authorization"), format!("Basic {CREDENTIAL}"));
    assert_eq!(sent.header("content-type"), FORM);
    let expected = [("To", "+14017122661"), ("From", "+15558675310"), ("Body", result.as_str())];
    assert_eq!(sent.body, form(&expected));
}

#[tokio::test]
async fn a_message_to_twilio_is_answered_in_the_response_where_the_channel_waits() {
    let live = Live::start(Setup::new().clock(&clock()), "twilio", "wait").await;
    let answered = message(&live).expect(200).await;
    assert_eq!(answered.header("content-type"), Some("text/xml; charset=utf-8"));
    let result = live.result(&answered.task_id()).await;
    assert!(result.contains("is 1 < 2 & "), "{result}");
    let text = escaped(&result).replace('"', "&quot;").replace('\'', "&apos;");
    let twiml = format!("<Response><Message>{text}</Message></Response>");
    assert_eq!(answered.text, format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>{twiml}"));
    let deliveries = live.gateway.manage("GET", "/deliveries").expect(200).await.json();
    assert_eq!((deliveries, live.api.sent().len()), (json!([]), 0));
}

#[tokio::test]
async fn a_form_is_answered_at_the_url_that_it_names() {
    let live = Live::start(Setup::new().clock(&clock()), "zapier-form", "deliver").await;
    let callback = format!("{}/hooks/callback/7f3a", live.api.url());
    let body = form(&[("prompt", "is 1 < 2?"), ("callback_url", callback.as_str())]);
    let call = live.post().header("x-webhook-token", SECRET).text(FORM, body);
    let task = call.expect(200).await.task_id();
    let result = live.result(&task).await;
    assert!(result.contains("\"received\":\"is 1 < 2?\""), "{result}");

    let sent = live.delivered(&task).await;
    assert_eq!(sent.line, "POST /hooks/callback/7f3a");
    assert!(!sent.headers.contains_key("authorization"), "{sent:?}");
    assert_eq!(sent.header("content-type"), "application/json");
    assert_eq!(sent.json(), json!({"id": task, "status": "completed", "result": result}));
}

#[tokio::test]
async fn an_acknowledgement_is_never_the_answer_however_late_it_is() {
    type Sends = fn(&Live) -> Call;
    let cases: [(&str, Sends, &str); 3] = [
        (
            "slack",
            command,
            concat!(
                r#"{"text":"One moment.","unfurl_links":false,"#,
                r#""unfurl_media":false,"response_type":"ephemeral"}"#
            ),
        ),
        ("telegram", update, r#"{"chat_id":1111111,"method":"sendChatAction","action":"typing"}"#),
        ("twilio", message, r#"<?xml version="1.0" encoding="UTF-8"?><Response></Response>"#),
    ];
    for (integration, send, acknowledgement) in cases {
        let live = Live::start(Setup::new().clock(&clock()), integration, "deliver").await;
        let first = send(&live).expect(200).await;
        assert_eq!(first.text, acknowledgement, "{integration}");
        live.delivered(&first.task_id()).await;
        // The provider has not seen it and tries again: with the answer in it, it would come twice.
        let again = send(&live).expect(200).await;
        assert_eq!(again.header("idempotent-replayed"), Some("true"), "{integration}");
        assert_eq!(again.text, acknowledgement, "{integration}");
        let happened = (live.gateway.tasks_stored().await, live.api.sent().len());
        assert_eq!(happened, (1, 1), "{integration}");
    }
}

#[tokio::test]
async fn slack_is_acknowledged_while_the_run_goes_on_and_what_it_repeats_starts_no_other() {
    // Whatever waited for this model would not come back at all.
    let mut model = ModelServer::start([Reply::Silence]).await;
    model.turn_time_max = Duration::from_secs(600);
    let clock = clock();
    let live = Live::start(Setup::new().clock(&clock).model(&model), "slack", "deliver").await;
    let first = by_slack(live.post(), NOW, JSON, mention()).expect(200).await;
    assert_eq!((first.text.as_str(), first.header("idempotent-replayed")), ("", None));
    let task = first.task_id();
    until("the model's turn", async || (model.asked().len() == 1).then_some(())).await;
    assert_eq!(live.gateway.task(&task).await["status"], "executing");

    // Three seconds later Slack would not have been answered in time, and sends the event again.
    clock.advance(Duration::from_secs(3));
    let again = by_slack(live.post(), NOW + 3, JSON, mention())
        .header("x-slack-retry-num", "1")
        .header("x-slack-retry-reason", "http_timeout");
    let again = again.expect(200).await;
    assert_eq!((again.text.as_str(), again.task_id()), ("", task.clone()));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("x-dedupe-source"), Some("provider"));
    assert_eq!(live.gateway.tasks_stored().await, 1);
    assert_eq!(live.gateway.task(&task).await["status"], "executing");
    assert_eq!((model.asked().len(), live.api.sent().len()), (1, 0));
}

#[tokio::test]
async fn what_twilio_signs_for_one_url_opens_no_other() {
    let live = Live::start(Setup::new().clock(&clock()), "twilio", "wait").await;
    let mut other = live.definition.clone();
    other["name"] = "other".into();
    let other = live.gateway.channel(other).await;
    let send = |to: &str, signed_for: &str| {
        let call = live.gateway.post(to).answered_by_a_plugin();
        by_twilio(call, &live.gateway.url(signed_for))
    };
    for (to, signed_for) in [(&live.hook, &other), (&other, &live.hook)] {
        let refused = send(to, signed_for).expect(401).await;
        assert_eq!(refused.detail(), "the signature does not match");
    }
    assert_eq!(live.gateway.tasks_stored().await, 0);
    send(&live.hook, &live.hook).expect(200).await;
    send(&other, &other).expect(200).await;
    assert_eq!(live.gateway.tasks_stored().await, 2);
}

#[tokio::test]
async fn what_a_recipe_signs_for_one_url_opens_no_other() {
    const BODY: &str = r#"{"text":"hi"}"#;
    let gateway = Setup::new().clock(&clock()).start().await;
    gateway.keep_secret("provider", SECRET, false).await;
    gateway.grant("hmac", LIMITS);
    let apply = async |name: &str| {
        let settings = json!({"header": "x-signature", "signed": "{method} {url}\n{body}"});
        let definition = json!({
            "name": name, "agent": "tested", "verifier": "hmac", "mapper": "hmac",
            "settings": settings, "secrets": {"secret": "provider"},
        });
        gateway.channel(definition).await
    };
    let (one, other) = (apply("one").await, apply("other").await);
    let send = |to: &str, signed_for: &str| {
        let signed = hmac("sha256", &format!("POST {}\n{BODY}", gateway.url(signed_for)));
        gateway.post(to).header("x-signature", &hex(&signed)).text(JSON, BODY)
    };
    for (to, signed_for) in [(&one, &other), (&other, &one)] {
        let refused = send(to, signed_for).expect(401).await;
        assert_eq!(refused.detail(), "the signature does not match");
    }
    assert_eq!(gateway.tasks_stored().await, 0);
    send(&one, &one).expect(200).await;
    send(&other, &other).expect(200).await;
    assert_eq!(gateway.tasks_stored().await, 2);
}

#[tokio::test]
async fn verification_that_is_switched_off_is_told_to_the_log_once() {
    let home = Home::new();
    let gateway = Child::serve(&home, &[]);
    let file = home.write("open.toml", "name = \"open\"\nagent = \"demo\"\nverifier = \"none\"\n");
    let (file, data) = (file.to_str().unwrap(), home.path().to_str().unwrap());
    let applied = wardgate(&["channel", "apply", file, "--data", data]);
    let said = String::from_utf8([applied.stdout, applied.stderr].concat()).unwrap();
    assert!(applied.status.success() && said.contains("verification is off"), "{said}");
    let (_, id) = said.split_once("/hooks/").unwrap();
    let id = id.split_whitespace().next().unwrap();
    for _ in 0..2 {
        let call = gateway.post(&format!("/hooks/{id}")).json(&json!({"text": "hi"}));
        let task = call.expect(200).await.task_id();
        assert_eq!(gateway.ended(&task).await["status"], "completed");
    }

    let (status, log) = tokio::task::spawn_blocking(move || gateway.terminate()).await.unwrap();
    assert!(status.success());
    let told: Vec<_> =
        log.lines().filter(|line| line.contains("verification is switched off")).collect();
    assert_eq!(told.len(), 1, "{log}");
    for part in ["WARN", id, "name=open"] {
        assert!(told[0].contains(part), "{part}: {}", told[0]);
    }
}

/// The text that a key of a channel file has.
fn text_of<'b>(block: &'b str, key: &str) -> &'b str {
    let mut lines = block.lines().filter_map(|line| line.strip_prefix(key));
    let value = lines.find_map(|rest| rest.strip_prefix(" = \"")).unwrap();
    value.split('"').next().unwrap()
}

#[tokio::test]
async fn every_file_that_the_documentation_shows_is_accepted() {
    let gateway = Gateway::start().await;
    let (mut channels, mut grants, mut agents) = (Vec::new(), Vec::new(), BTreeSet::new());
    for (integration, block) in shown() {
        if is_grants(&block) {
            let parsed = Grants::parse(&block);
            let parsed = parsed.unwrap_or_else(|error| panic!("{integration}: {error}"));
            let names_a_credential = parsed.secret_names().next().is_some();
            assert_eq!(names_a_credential, integration != "zapier-form", "{integration}");
            grants.push(integration);
            continue;
        }
        let agent = text_of(&block, "agent");
        if agents.insert(agent.to_owned()) {
            gateway.with_agent(|definition| definition.name = agent.parse().unwrap()).await;
        }
        gateway.grant(&integration, LIMITS);
        let below = format!("/channels/{}", text_of(&block, "name"));
        let call = gateway.manage("PUT", &below).text("application/toml", block.clone());
        let definition = call.expect(200).await.json()["definition"].clone();
        assert_eq!(definition["verifier"], integration);
        assert_eq!(definition["mapper"], integration);
        channels.push(integration);
    }
    channels.sort_unstable();
    grants.sort_unstable();
    let all = [
        "cloudevents", "github", "hmac", "shopify", "slack", "standard-webhooks", "stripe",
        "telegram", "twilio", "whatsapp", "zapier-form",
    ];
    assert_eq!(channels, all);
    assert_eq!(grants, ["slack", "telegram", "twilio", "whatsapp", "zapier-form"]);
}
