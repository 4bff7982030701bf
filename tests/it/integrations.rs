//! The bundled integrations against the published examples of their providers: every vector of `tests/vectors` runs
//! against the component in its sandbox, and over HTTP through a channel.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use wardgate::clock::{Clock, Timestamp};
use wardgate::fixture::{Case, PluginHarness};
use wardgate::plugins::bundled_component;
use wardgate::sandbox::Grants;
use wardgate::settings::Settings;

use crate::support::{Gateway, Home, Setup};

const INTEGRATIONS: [&str; 11] = [
    "cloudevents", "github", "hmac", "shopify", "slack", "standard-webhooks", "stripe", "telegram",
    "twilio", "whatsapp", "zapier-form",
];

/// The name of the secret that an integration signs with; all others are for verification.
const SIGNING_SECRET: &str = "challenge";

fn vectors(integration: &str) -> Vec<Value> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors");
    let text = std::fs::read_to_string(folder.join(format!("{integration}.json"))).unwrap();
    let vectors: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert!(vectors.len() > 10, "{integration}");
    vectors
}

/// Converts a vector into a golden case for one of the functions.
fn case(vector: &Value, call: &str) -> Case {
    let (path, query) = vector["target"]
        .as_str()
        .unwrap_or("/")
        .split_once('?')
        .unwrap_or_else(|| (vector["target"].as_str().unwrap_or("/"), ""));
    let mut request = json!({
        "method": vector["method"].as_str().unwrap_or("POST"),
        "path": path, "query": query, "headers": vector["headers"],
    });
    if call != "verify" {
        // Only the verifier sees credentials.
        let secrets = vector["secrets"].as_object().unwrap().values();
        let secrets: Vec<_> = secrets.flat_map(|values| values.as_array().unwrap()).collect();
        request["headers"].as_object_mut().unwrap().retain(|name, value| {
            let value = value.as_str().unwrap();
            let tells = |secret: &&&Value| value.contains(secret.as_str().unwrap());
            name != "authorization" && !secrets.iter().any(|secret| tells(&secret))
        });
    }
    match &vector["body"] {
        Value::String(text) => request["body_base64"] = STANDARD.encode(text).into(),
        Value::Object(body) => request["body_base64"] = body["base64"].clone(),
        _ => {}
    }
    let now = vector["now"].as_i64().unwrap_or_default();
    let now = Timestamp::from_micros(now * 1_000_000).iso();
    let mut case = json!({
        "call": call, "request": request, "now": now,
        "settings": vector["settings"], "secrets": vector["secrets"],
    });
    if let Some(values) = case["secrets"].get_mut(SIGNING_SECRET) {
        *values = json!({"value": values[0], "use": ["sign"]});
    }
    if let Some(url) = vector["attributes"]["channel-url"].as_str() {
        case["channel_url"] = url.into();
    }
    if vector["task"].is_object() {
        case["task"] = vector["task"].clone();
    }
    Case::parse(&case.to_string()).unwrap()
}

/// How an outcome differs from what the vector expects.
fn problem(expected: &Value, outcome: &Value) -> Option<String> {
    let differs = |expected: Value| {
        let found = wardgate::fixture::differences("", &expected, outcome);
        (!found.is_empty()).then(|| found.iter().map(ToString::to_string).collect::<String>())
    };
    match expected {
        Value::String(word) if word == "ok" => {
            outcome.get("ok").is_none().then(|| format!("expected ok, got {outcome}"))
        }
        Value::String(code) => differs(json!({"failure": {"code": code}})),
        Value::Object(mapped) if mapped.contains_key("failure") => {
            differs(json!({"failure": {"code": mapped["failure"]}}))
        }
        mapped => {
            let mut mapped = mapped.clone();
            if mapped["params"] == json!({}) {
                // No parameters are expected; outcomes other than `run` have none anyway.
                mapped.as_object_mut().unwrap().remove("params");
            }
            differs(json!({"ok": mapped}))
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_vector_verifies_and_maps_in_the_sandbox_as_its_provider_publishes_it() {
    let home = Home::new();
    let harness =
        PluginHarness::open(home.path(), &Settings::of_defaults().unwrap().sandbox).unwrap();
    let (mut problems, mut held) = (Vec::new(), 0);
    for integration in INTEGRATIONS {
        let name = integration.parse().unwrap();
        let loaded = harness.load(bundled_component(&name).unwrap().into()).await.unwrap();
        let patient = Grants::parse("[limits]\ncpu_ms = 5000\nwall_ms = 10000\n").unwrap();
        let binding = harness.bind(name, loaded, patient);
        for vector in vectors(integration) {
            for (call, expected) in
                [("verify", "verify"), ("map-payload", "map"), ("reply", "reply")]
            {
                let expected = vector["expect"].get(expected).filter(|value| !value.is_null());
                let Some(expected) = expected else { continue };
                let ran = harness.run_scripted(&binding, &case(&vector, call)).await.unwrap();
                // In a gateway, a channel always has a URL.
                if vector["name"] == "the channel's URL is not known" {
                    continue;
                }
                held += 1;
                if let Some(problem) = problem(expected, &ran.outcome) {
                    problems.push(format!("{integration} {call} {}: {problem}", vector["name"]));
                }
            }
        }
    }
    assert!(problems.is_empty(), "{} of {held}\n{}", problems.len(), problems.join("\n"));
    assert!(held > 500, "{held}");
}

/// Whether a secret that the plugin opens is missing or does not fit its binding, which is the operator's fault.
fn is_not_set_up(vector: &Value) -> bool {
    vector["not_set_up"] == true
}

/// A gateway whose channels are created as the vectors need them.
struct VectorChannels {
    gateway: Gateway,
    clock: Clock,
    known: BTreeMap<String, Option<String>>,
}

impl VectorChannels {
    async fn start() -> Self {
        let clock = Clock::manual(Timestamp::from_micros(0));
        let gateway = Setup::new().clock(&clock).start().await;
        for plugin in INTEGRATIONS {
            gateway.write_grants(plugin, "[limits]\ncpu_ms = 5000\nwall_ms = 10000\n");
        }
        Self { gateway, clock, known: BTreeMap::new() }
    }

    /// The path of a channel with the vector's settings and secrets; `None` if they are refused.
    async fn channel_path(&mut self, integration: &str, vector: &Value) -> Option<String> {
        let key = format!("{integration}{}{}", vector["settings"], vector["secrets"]);
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let number = self.known.len();
        let mut names = Map::new();
        for (name, values) in vector["secrets"].as_object().unwrap() {
            let secret = format!("secret-{number}-{name}");
            // The oldest value first; each newer one rotates the secret.
            for value in values.as_array().unwrap().iter().rev() {
                self.gateway.store_secret(&secret, value.as_str().unwrap(), true).await;
            }
            let binding = match name.as_str() {
                SIGNING_SECRET => json!({"secret": secret, "use": ["sign"]}),
                _ => secret.into(),
            };
            names.insert(name.clone(), binding);
        }
        let definition = json!({
            "name": format!("channel-{number}"), "agent": "tested",
            "verifier": integration, "mapper": integration,
            "settings": vector["settings"], "secrets": names,
        });
        let path = format!("/channels/channel-{number}");
        let answer = self.gateway.admin_request("PUT", &path).json(&definition).send().await;
        let path = match answer.status {
            200 => {
                let url = answer.json()["url"].as_str().unwrap().to_owned();
                url.strip_prefix(&format!("http://{}", self.gateway.listen)).map(str::to_owned)
            }
            422 => None,
            status => panic!("{status}: {}", answer.text),
        };
        self.known.insert(key, path.clone());
        path
    }

    /// Sets the clock, forwards or backwards.
    fn set_clock(&self, seconds: i64) {
        self.clock.set(Timestamp::from_micros(seconds * 1_000_000));
    }
}

/// The expected response: the status, and the body if a plugin writes it.
fn expected_response(expect: &Value) -> (u16, Option<Value>) {
    let status_of = |code: &str| match code {
        "invalid-input" => 400,
        "unauthorized" => 401,
        "forbidden" => 403,
        "not-found" => 404,
        _ => 500,
    };
    if let Some(code) = expect["verify"].as_str().filter(|code| *code != "ok") {
        return (status_of(code), None);
    }
    let map = &expect["map"];
    if let Some(code) = map["failure"].as_str() {
        return (status_of(code), None);
    }
    match map["action"].as_str() {
        Some("reply") => {
            let status = map["reply"]["status"].as_u64().unwrap_or(200);
            (u16::try_from(status).unwrap(), map["reply"].get("body").cloned())
        }
        Some("ignore") => (200, Some(json!({"status": "Ignored"}))),
        _ => (200, None),
    }
}

/// Whether a vector needs something that a channel of this gateway cannot have: the URL of the provider's example, or
/// a path in the signed text.
fn needs_another_url(vector: &Value) -> bool {
    let signed = vector["settings"]["signed"].as_str().unwrap_or_default();
    vector["attributes"].is_object() || ["{path}", "{url}"].iter().any(|part| signed.contains(part))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_vector_is_answered_over_http_through_a_channel() {
    let mut channels = VectorChannels::start().await;
    let (mut problems, mut sent, mut refused) = (Vec::new(), 0, 0);
    for integration in INTEGRATIONS {
        for vector in vectors(integration) {
            // An empty secret cannot be stored.
            let secrets = vector["secrets"].as_object().unwrap().values();
            let empty = secrets.flat_map(|values| values.as_array().unwrap()).any(|v| v == "");
            if vector["expect"].get("verify").is_none() || needs_another_url(&vector) || empty {
                continue;
            }
            let Some(hook) = channels.channel_path(integration, &vector).await else {
                // The plugin rejects these settings.
                assert_ne!(vector["expect"]["verify"], "ok", "{integration} {}", vector["name"]);
                refused += 1;
                continue;
            };
            channels.set_clock(vector["now"].as_i64().unwrap_or(1_700_000_000));
            let query = vector["target"].as_str().and_then(|target| target.split_once('?'));
            let target = query.map_or(hook.clone(), |(_, query)| format!("{hook}?{query}"));
            let method = vector["method"].as_str().unwrap_or("POST");
            let mut call = channels.gateway.request(method, &target).answered_by_a_plugin();
            for (name, value) in vector["headers"].as_object().unwrap() {
                call = call.header(name, value.as_str().unwrap());
            }
            call = match &vector["body"] {
                Value::String(text) => call.body(text.clone()),
                Value::Object(body) => {
                    call.body(STANDARD.decode(body["base64"].as_str().unwrap()).unwrap())
                }
                _ => call,
            };
            let answer = call.send().await;
            sent += 1;
            let (status, body) = if is_not_set_up(&vector) {
                (503, None)
            } else {
                expected_response(&vector["expect"])
            };
            let actual =
                serde_json::from_str(&answer.text).unwrap_or(Value::from(answer.text.clone()));
            let same = body
                .is_none_or(|body| body == actual || body.as_str() == Some(answer.text.as_str()));
            // A vector about the signature only does not say what the mapper returns.
            let unsaid = vector["expect"].get("map").is_none() && answer.status == 400;
            // And a binary body is refused before the mapper is called.
            let unsaid = unsaid || (vector["body"].is_object() && answer.status == 400);
            if !unsaid && (answer.status != status || !same) {
                let (name, text) = (&vector["name"], &answer.text);
                problems.push(format!(
                    "{integration} {name}: expected {status}, got {} {text}",
                    answer.status
                ));
            }
        }
    }
    assert!(problems.is_empty(), "{} of {sent}\n{}", problems.len(), problems.join("\n"));
    assert!(sent > 250 && refused > 0, "{sent} {refused}");
}

#[tokio::test]
async fn a_retried_delivery_of_github_starts_one_run() {
    let mut channels = VectorChannels::start().await;
    let vector = vectors("github").into_iter().find(|vector| {
        vector["expect"]["verify"] == "ok" && vector["expect"]["map"]["delivery_id"].is_string()
    });
    let vector = vector.unwrap();
    let hook = channels.channel_path("github", &vector).await.unwrap();
    let deliver = async || {
        let mut call =
            channels.gateway.post(&hook).body(vector["body"].as_str().unwrap().to_owned());
        for (name, value) in vector["headers"].as_object().unwrap() {
            call = call.header(name, value.as_str().unwrap());
        }
        call.expect(200).await
    };
    let (first, again) = (deliver().await, deliver().await);
    assert_eq!(first.task_id(), again.task_id());
    assert_eq!(again.header("x-dedupe-source"), Some("provider"));
    channels.gateway.wait_for_end(&first.task_id()).await;
    assert_eq!(channels.gateway.stored_task_count().await, 1);
    // After 23 hours, it still counts as the same delivery.
    channels.clock.advance(Duration::from_hours(23));
    assert_eq!(deliver().await.task_id(), first.task_id());
}
