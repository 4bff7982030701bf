//! The plugin calls of a task can be replayed from the recording without access to the outside, with the same or
//! another component, and differences are shown.

use axum::http::Uri;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use wardgate::tenants::KeyHolder;

use crate::support::web::Web;
use crate::support::{Gateway, guest_path, poll_until, wardgate};

/// Runs `wardgate replay TASK …` on the gateway's folder; returns whether nothing differs, and the output.
fn replay(gateway: &Gateway, task: &str, more: &[&str]) -> (bool, String) {
    let data = gateway.home.path().to_str().unwrap();
    let output = wardgate(&[&["replay", task, "--data", data], more].concat());
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn assert_replay_equal(gateway: &Gateway, task: &str, calls: &[&str]) {
    let (same, message) = replay(gateway, task, &[]);
    assert!(same, "{message}");
    for call in calls {
        assert!(message.contains(&format!("{call}: the same")), "{call}: {message}");
    }
    assert!(message.contains("played, nothing differs"), "{message}");
}

/// Waits until the getter's result is recorded, which happens after the response to its caller.
async fn wait_for_getter_recording(gateway: &Gateway, task: &str) {
    let target = format!("/tasks/{task}/recording");
    poll_until("the getter's step", async || {
        let recorded = gateway.admin_request("GET", &target).expect(200).await.json();
        let calls = recorded["calls"].as_array().unwrap().clone();
        let last = calls.last().unwrap();
        (last["with"]["call"] == "get-value" && !last["came"].is_null()).then_some(())
    })
    .await;
}

fn guest_argument(name: &str) -> String {
    guest_path(name).display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn mapping_tool_and_getter_are_played_again_and_nothing_changes() {
    let gateway = Gateway::start().await;
    let query = r#"&params_mapping={"prompt":"m.text"}&getter=result.summary&json=true"#;
    let body = json!({"m": {"text": "calculate {\"expression\":\"6*7\"}"}});
    let answer = gateway.webhook(query).json(&body).expect(200).await;
    let task = answer.header("x-task-id").unwrap().to_owned();
    wait_for_getter_recording(&gateway, &task).await;
    let before = gateway.task(&task).await;
    let (ok, message) = replay(&gateway, &task, &[]);
    assert!(ok, "{message}");
    for part in [
        "mapping by dot-mapper: the same",
        "tool calculate of calculator: the same",
        "getter result.summary by dot-getter: the same",
        " ms, cpu ",
        "4 calls played, nothing differs",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(gateway.task(&task).await, before);
    assert_eq!(gateway.stored_task_count().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_world_is_what_it_was_then() {
    let echo = axum::Router::new().fallback(async |uri: Uri| format!("you: {uri}"));
    let (gateway, web) = (Gateway::start().await, Web::serve(echo).await);
    let grants = format!(
        "[[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = {}\n\
         networks = [\"127.0.0.0/8\"]\n",
        web.port
    );
    gateway.write_grants("http-fetch", &grants);
    let url = format!("http://127.0.0.1:{}/then", web.port);
    let fetched = gateway.ask(json!({"prompt": format!("http_fetch {}", json!({"url": url}))}));
    let fetched = fetched.await.task_id();
    let timed = gateway.agent_with_tool("tells_time", "").await;
    let timed = timed.ask(json!({"prompt": "time {}"})).await.task_id();
    let keeps = gateway.agent_with_tool("keeps_values", "[key-value]\nbytes = 10000\n").await;
    let count = json!({"bucket": "", "do": [["increment", "n", 1], ["get", "n"], ["keys"]]});
    let count = json!({"prompt": format!("values {count}")});
    let counted = keeps.ask(count.clone()).await.task_id();
    keeps.ask(count).await;
    let asked = gateway.agent_with_mapper("asks_time", "").await;
    let mapped = asked.webhook("").json(&json!({})).expect(200).await.task_id();
    // The server is stopped, the counter has changed, and time has passed.
    drop(web);
    assert_replay_equal(&gateway, &fetched, &["tool http_fetch of http-fetch"]);
    assert_replay_equal(&gateway, &timed, &["tool time of tells-time"]);
    assert_replay_equal(&gateway, &counted, &["tool values of keeps-values"]);
    assert_replay_equal(&gateway, &mapped, &["mapping by asks-time"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn verdicts_about_secrets_are_played_and_no_secret_is_told() {
    const SECRET: &str = "a secret of the provider";
    let gateway = Gateway::start().await;
    gateway.store_secret("key", SECRET, false).await;
    let grants = "[secrets]\n\
                  mine = { secret = \"key\", use = [\"sign\", \"verify\", \"compare\"] }\n";
    let agent = gateway.agent_with_tool("hunts_secret", grants).await;
    drop(agent);
    let agent = gateway.agent_with_tool("uses_secrets", grants).await;
    let asks = json!({"name": "mine", "algorithm": "sha256", "message": "m", "presented": SECRET});
    let task = agent.ask(json!({"prompt": format!("secret {asks}")})).await.task_id();
    let recording =
        gateway.admin_request("GET", &format!("/tasks/{task}/recording")).expect(200).await;
    let calls = recording.json()["calls"].clone();
    let reported = calls[0]["recording"].to_string();
    assert!(reported.contains("\"holds\":true") && !reported.contains(SECRET), "{reported}");
    let (same, message) = replay(&gateway, &task, &[]);
    // A signature is as sensitive as a secret, so it is not recorded, and the replay reports it as a difference.
    assert!(!same && message.contains("ok/signature: was"), "{message}");
    for kept in ["ok/verifies", "ok/matches", "ok/verifies_another"] {
        assert!(!message.contains(kept), "{kept}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_component_plays_in_the_place_of_the_one_that_ran() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper("mapper_custom", "").await;
    let body = json!({"text": "good morning", "chat": "c-1"});
    let task = agent.webhook("").json(&body).expect(200).await.task_id();
    assert_replay_equal(&gateway, &task, &["mapping by mapper-custom"]);
    let (same, message) = replay(&gateway, &task, &["--plugin", &guest_argument("counts_calls")]);
    assert!(!same, "{message}");
    for part in [
        "mapping by mapper-custom: differs",
        "ok/params/prompt: was \"good morning\", is \"1\"",
        "ok/params/task_id: was \"c-1\", is nothing",
        "ok/context: was {\"channel\":\"made-up\",\"characters\":12}, is null",
        "component: was sha256:",
        "wardgate: 1 of 1 calls came out differently",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let broken = replay(&gateway, &task, &["--plugin", &guest_argument("panics")]).1;
    assert!(broken.contains("ok: was {") && broken.contains("error: was nothing, is"), "{broken}");
    let other_role = replay(&gateway, &task, &["--plugin", &guest_argument("getter_upper")]).1;
    assert!(other_role.contains("payload-mapper"), "{other_role}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_installed_since_shows_what_it_would_have_done() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper("mapper_custom", "").await;
    let body = json!({"text": "good morning"});
    let task = agent.webhook("").json(&body).expect(200).await.task_id();
    let newer = std::fs::read(guest_path("counts_calls")).unwrap();
    let (plugins, name) = (&gateway.services.plugins, "mapper-custom".parse().unwrap());
    plugins.install(gateway.tenant, &name, newer, None).await.unwrap();
    let (same_now, message) = replay(&gateway, &task, &[]);
    assert!(
        !same_now && message.contains("is \"1\"") && message.contains("component: was"),
        "{message}"
    );
    plugins.roll_back(gateway.tenant, &name, None).await.unwrap();
    assert_replay_equal(&gateway, &task, &["mapping by mapper-custom"]);
    gateway.write_grants("mapper-custom", "[limits]\nmemory_mib = 32\n");
    let message = replay(&gateway, &task, &[]).1;
    assert!(
        message.contains("note: its settings or grants are not those that it had"),
        "{message}"
    );
    plugins.remove(gateway.tenant, &name).await.unwrap();
    let (same_now, message) = replay(&gateway, &task, &[]);
    assert!(
        !same_now && message.contains("the plugin mapper-custom cannot be had: Plugin not found")
    );
    let (_, with_file) = replay(&gateway, &task, &["--plugin", &guest_argument("mapper_custom")]);
    assert!(with_file.contains("mapping by mapper-custom: the same"), "{with_file}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_getter_is_compared_with_what_it_gave() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_getter("getter_upper", "").await;
    let asked = agent.webhook("&getter=/source").json(&json!({"prompt": "hi"})).expect(200).await;
    assert_eq!(asked.text, "\"WEBHOOK\"");
    let task = asked.header("x-task-id").unwrap().to_owned();
    wait_for_getter_recording(&gateway, &task).await;
    assert_replay_equal(&gateway, &task, &["getter /source by getter-upper"]);
    let (_, unchanged) = replay(&gateway, &task, &["--plugin", &guest_argument("getter_upper")]);
    assert!(unchanged.contains("getter /source by getter-upper: the same"), "{unchanged}");
    let (same, message) =
        replay(&gateway, &task, &["--plugin", &guest_argument("bad_json_getter")]);
    assert!(!same && message.contains("ok: was \"WEBHOOK\", is nothing"), "{message}");
    // A missing value is not null.
    let asked = agent.webhook("&getter=/nowhere").json(&json!({"prompt": "hi"})).expect(404).await;
    let task = asked.header("x-task-id").unwrap().to_owned();
    wait_for_getter_recording(&gateway, &task).await;
    let (_, message) = replay(&gateway, &task, &[]);
    assert!(message.contains("getter /nowhere by getter-upper: the same"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_however_much_the_component_wants_to() {
    let hits = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let counted = std::sync::Arc::clone(&hits);
    let web = Web::serve(axum::Router::new().fallback(async move || {
        counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }))
    .await;
    let gateway = Gateway::start().await;
    let url = format!("http://127.0.0.1:{}/", web.port);
    let grants = format!(
        "[[egress]]\nscheme = \"http\"\nhost = \"127.0.0.1\"\nport = {}\n\
         networks = [\"127.0.0.0/8\"]\n",
        web.port
    );
    // The tool `fetch` sends a request, and so does the tool of the guest that replaces it.
    let agent = gateway.agent_with_tool("calls_egress", &grants).await;
    let prompt = json!({"prompt": format!("fetch {}", json!({"url": url}))});
    let task = agent.ask(prompt).await.task_id();
    assert_eq!(hits.load(std::sync::atomic::Ordering::Relaxed), 1);
    assert_replay_equal(&gateway, &task, &["tool fetch of calls-egress"]);
    let (same, message) = replay(&gateway, &task, &["--plugin", &guest_argument("sends_many")]);
    assert!(!same, "{message}");
    assert_eq!(hits.load(std::sync::atomic::Ordering::Relaxed), 1, "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_by_a_channel_is_what_it_was() {
    let gateway = Gateway::start().await;
    gateway.store_secret("hook-token", "a token of the provider", false).await;
    gateway.install("speaks_for_a_provider", "").await;
    let hook = gateway
        .apply_channel(json!({
            "name": "hook", "agent": "tested", "secrets": {"secret": "hook-token"},
            "verifier": "speaks-for-a-provider", "mapper": "speaks-for-a-provider",
        }))
        .await;
    let sent = gateway.post(&hook).header("x-token", "a token of the provider");
    let sent = sent.header("x-delivery", "d-7").json(&json!({"text": "hi"})).send().await;
    let task = sent.header("x-task-id").unwrap().to_owned();
    gateway.wait_for_end(&task).await;
    assert_replay_equal(&gateway, &task, &["mapping by speaks-for-a-provider"]);
    let admin_path = format!("/tasks/{task}/recording");
    let recorded = gateway.admin_request("GET", &admin_path).expect(200).await;
    assert!(!recorded.text.contains("a token of the provider"), "{}", recorded.text);
    let actual = recorded.json()["calls"][0]["came"]["ok"].as_str().unwrap().to_owned();
    let actual: Value = serde_json::from_str(&actual).unwrap();
    assert_eq!(actual["delivery_id"], "d-7");
    // A key of the gateway in a channel's URL is not recorded.
    let keyed = format!("{hook}?x-api-key={}&z=1", gateway.key);
    let sent = gateway.post(&keyed).header("x-token", "a token of the provider");
    let sent = sent.header("x-delivery", "d-8").json(&json!({"text": "hi"})).send().await;
    let admin_path = format!("/tasks/{}/recording", sent.header("x-task-id").unwrap());
    let recorded = gateway.admin_request("GET", &admin_path).expect(200).await;
    assert_eq!(recorded.json()["request"]["head"]["query"], "z=1");
    assert!(!recorded.text.contains(&gateway.key), "{}", recorded.text);
    // In a GET of an agent's own webhook, the query is the payload.
    let queried = gateway.agent_with_mapper("mapper_custom", "").await;
    let got = queried.get(&format!("/api/webhooks/agents/{}?text=hello", queried.token));
    let got = got.expect(200).await.task_id();
    gateway.wait_for_final_status(&got).await;
    assert_replay_equal(&gateway, &got, &["mapping by mapper-custom"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_admin_may_replay_and_is_not_told_the_grants() {
    let gateway = Gateway::start().await;
    let grants = "[settings]\nspoken = \"for the operator alone\"\n";
    let agent = gateway.agent_with_mapper("mapper_custom", grants).await;
    let task = agent.webhook("").json(&json!({"text": "hi"})).expect(200).await.task_id();
    let key = gateway.new_key(KeyHolder::Admin(gateway.tenant)).await;
    let target = format!("/admin/tenants/{}/tasks/{task}/recording", gateway.tenant);
    let recorded = gateway.get(&target).key(&key).expect(200).await;
    assert_eq!(recorded.json()["grants"], json!({}));
    assert!(!recorded.text.contains("for the operator alone"));
    let for_operator =
        gateway.admin_request("GET", &format!("/tasks/{task}/recording")).expect(200);
    assert_eq!(for_operator.await.json()["grants"]["mapper-custom"], grants);
    // And by the command, from another machine.
    let key_file = gateway.home.write("admin.key", &key);
    let arguments = [
        "replay",
        &task,
        "--url",
        &gateway.url(""),
        "--key-file",
        key_file.to_str().unwrap(),
        "--tenant",
        &gateway.tenant.to_string(),
    ];
    let output = wardgate(&arguments);
    let message = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success(), "{message}");
    assert!(message.contains("mapping by mapper-custom: the same"), "{message}");
    assert!(message.contains("note: its settings or grants are not those"), "{message}");
    // A caller's key may not.
    gateway.get(&target).key(&gateway.key).expect(403).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replayed_is_refused_with_a_reason() {
    let gateway = Gateway::start().await;
    let plain = gateway.ask(json!({"prompt": "hello"})).await.task_id();
    let (fine, message) = replay(&gateway, &plain, &[]);
    assert!(fine && message.contains("no plugin did anything for this task"), "{message}");
    let (fine, message) = replay(&gateway, "01a20ad1-2d82-7d96-8c49-130babbf7e73", &[]);
    assert!(!fine && message.contains("Task not found"), "{message}");
    let query = r#"&params_mapping={"prompt":"m.text"}"#;
    let body = json!({"m": {"text": "calculate {\"expression\":\"6*7\"}"}});
    let two = gateway.webhook(query).json(&body).expect(200).await.task_id();
    let (fine, message) = replay(&gateway, &two, &["--plugin", &guest_argument("mapper_custom")]);
    assert!(!fine, "{message}");
    let which = "no plugin mapper-custom did anything for this task; say with --as which one it is: \
                 calculator, dot-mapper";
    assert!(message.contains(which), "{message}");
    let other = ["--plugin", &guest_argument("mapper_custom"), "--as", "dot-mapper"];
    let message = replay(&gateway, &two, &other).1;
    assert!(message.contains("error: was nothing") && !message.contains("calculator"), "{message}");
    // A tool that no plugin offers was not called.
    let unknown: Value = gateway.task(&plain).await;
    assert_eq!(unknown["status"], "completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_tokens_in_a_body_reach_no_plugin_and_are_not_kept() {
    const TOKEN: &str = "user-access-token-abc123";
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper("mapper_custom", "").await;
    let keyed = json!({"text": "hi", "x-api-key": agent.key});
    let by_agent = agent.trigger().json(&keyed).expect(200).await.task_id();
    gateway.wait_for_final_status(&by_agent).await;
    let by_key = agent.webhook("").json(&keyed).expect(200).await.task_id();
    let repeated = json!({"text": format!("use {TOKEN}"), "user_tokens": {"m": TOKEN}});
    let with_token = agent.webhook("").json(&repeated).expect(200).await.task_id();
    for (task, secret) in [(by_agent, &*agent.key), (by_key, &*agent.key), (with_token, TOKEN)] {
        let recorded =
            gateway.admin_request("GET", &format!("/tasks/{task}/recording")).expect(200).await;
        assert!(!recorded.text.contains(secret), "{}", recorded.text);
        let body = recorded.json()["request"]["body_base64"].as_str().unwrap().to_owned();
        let body = String::from_utf8(STANDARD.decode(body).unwrap()).unwrap();
        assert!(body.contains("text") && !body.contains(secret), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_not_ended_says_so() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_tool("spin_in_tool", "[limits]\ntool_cpu_ms = 600000\n").await;
    let started = agent.webhook("&asynchronous=true").json(&json!({"prompt": "spin {}"}));
    let task = started.expect(200).await.header("x-task-id").unwrap().to_owned();
    poll_until("the run", async || {
        (gateway.task(&task).await["status"] == "executing").then_some(())
    })
    .await;
    let message = replay(&gateway, &task, &[]).1;
    assert!(message.contains("the task is executing"), "{message}");
    gateway.post(&format!("/v1/tasks/{task}/stop")).key(&gateway.key).expect(200).await;
    let message = replay(&gateway, &task, &[]).1;
    assert!(!message.contains("nothing differs"), "{message}");
}
