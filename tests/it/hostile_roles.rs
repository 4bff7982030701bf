//! A plugin that misbehaves as verifier, replier or in `about` is stopped within its limits: the run that was started
//! is kept, the error names the plugin where the caller is trusted, and calls of other plugins are not affected.

use std::time::{Duration, Instant};

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use wardgate::clock::{Clock, Timestamp};

use crate::support::{Answer, Call, Gateway, Home, Setup, guest_path, poll_until, wardgate};

/// Longer than the limits below, shorter than a request that hangs.
const HANG_THRESHOLD: Duration = Duration::from_secs(50);

/// Tight limits on CPU time and output, with enough wall time to reach them. The concurrency is one, so that a call
/// whose slot is not released would block all later calls.
const LIMITS: &str = "[limits]\nconcurrency = 1\noutput_bytes = 100000\ncpu_ms = 100\n\
                      wall_ms = 40000\ntool_cpu_ms = 100\ntool_wall_ms = 40000\n";

/// The reason for a plugin that never returns.
const CPU_LIMIT_REASON: &str = "computed for longer than the 100 ms";

/// Creates a channel without authentication, with these members; returns its path.
async fn hook(gateway: &Gateway, more: Value) -> String {
    let mut definition = json!({"name": "hook", "agent": "tested", "verifier": "none"});
    for (name, value) in more.as_object().unwrap() {
        definition[name] = value.clone();
    }
    gateway.apply_channel(definition).await
}

/// Calls the same gateway's well-behaved agent.
async fn neighbour(gateway: &Gateway) {
    let call = gateway.webhook(r#"&params_mapping={"prompt":"a"}"#).json(&json!({"a": "fine"}));
    assert_eq!(call.expect(200).await.report()["received"], "fine");
}

/// Sends a request that involves the bad plugin, concurrently with one of a neighbour.
async fn send_beside_neighbour(gateway: &Gateway, call: Call) -> Answer {
    // A first call beforehand, because bundled plugins may still have to be compiled.
    neighbour(gateway).await;
    let started = Instant::now();
    let (answer, ()) = tokio::join!(call.send(), neighbour(gateway));
    assert!(started.elapsed() < HANG_THRESHOLD, "{:?}", started.elapsed());
    answer
}

/// Checks that a refusal names the plugin and what it did.
fn assert_plugin_fault(answer: &Answer, status: u16, plugin: &str, what: &str) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.header("x-wardgate-fault"), Some("guest"));
    let detail = answer.detail();
    assert!(detail.contains(&format!("plugin {plugin} ")) && detail.contains(what), "{detail}");
}

/// The number of a plugin's calls that the host ended, by reason. Checks that none is in flight.
async fn refused_calls(gateway: &Gateway, plugin: &str) -> Value {
    let state =
        gateway.admin_request("GET", &format!("/plugins/{plugin}")).expect(200).await.json();
    assert_eq!(state["calls"]["in_flight"], 0, "{state}");
    state["calls"]["refused"].clone()
}

/// Waits until this many deliveries have been given up, and returns them, newest first.
async fn wait_for_dead_deliveries(gateway: &Gateway, number: usize) -> Vec<Value> {
    poll_until("deliveries that were given up", async || {
        let dead = gateway.admin_request("GET", "/deliveries?status=dead").expect(200).await.json();
        let dead = dead.as_array().unwrap().clone();
        (dead.len() == number).then_some(dead)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verifier_that_spins_lets_nobody_in() {
    let gateway = Gateway::start().await;
    gateway.install("spins_in_verify", LIMITS).await;
    let hook = hook(&gateway, json!({"verifier": "spins-in-verify"})).await;
    for _ in 0..2 {
        let call = gateway.post(&hook).json(&json!({"text": "hi"}));
        let answer = send_beside_neighbour(&gateway, call).await;
        // One request does not show whose fault it is, and the sender must not learn about the plugin.
        assert_eq!(
            (answer.status, &*answer.detail()),
            (408, "looking at the request took too long")
        );
        assert_eq!(answer.header("x-wardgate-fault"), Some("caller"));
        assert_eq!(answer.header("x-wardgate-retry"), Some("safe"));
        assert_eq!(answer.header("x-task-id"), None);
    }
    assert_eq!(gateway.stored_task_count().await, 4, "the neighbour's and nothing else");
    assert_eq!(refused_calls(&gateway, "spins-in-verify").await, json!({"request-too-much": 2}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replier_that_spins_in_its_reply_leaves_the_run_alone() {
    let gateway = Gateway::start().await;
    gateway.install("spins_in_reply", LIMITS).await;
    for answer in ["acknowledge", "wait"] {
        let more = json!({"name": answer, "replier": "spins-in-reply", "answer": answer});
        let hook = hook(&gateway, more).await;
        let call = gateway.post(&hook).json(&json!({"text": "hi"}));
        let refused = send_beside_neighbour(&gateway, call).await;
        // The sender is not authenticated, so it must not learn about the plugin.
        assert_eq!(
            (refused.status, &*refused.detail()),
            (408, "looking at the request took too long")
        );
        // The run exists: repeating the request would start another one.
        assert_eq!(refused.header("x-wardgate-retry"), Some("never"), "{answer}");
        let task = gateway.wait_for_end(&refused.task_id()).await;
        assert_eq!(task["status"], "completed", "{answer}: {task}");
    }
    assert_eq!(gateway.stored_task_count().await, 6, "one of each channel, and the neighbour's");
    assert_eq!(refused_calls(&gateway, "spins-in-reply").await, json!({"request-too-much": 2}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replier_that_spins_in_its_delivery_is_given_up() {
    let gateway = Gateway::start().await;
    gateway.install("spins_in_deliver", LIMITS).await;
    let more = json!({"replier": "spins-in-deliver", "answer": "deliver"});
    let hook = hook(&gateway, more).await;
    let call = gateway.post(&hook).json(&json!({"text": "hi"})).answered_by_a_plugin();
    let taken = send_beside_neighbour(&gateway, call).await;
    assert_eq!((taken.status, taken.text.as_str()), (200, "taken"));
    let (dead, ()) = tokio::join!(wait_for_dead_deliveries(&gateway, 1), neighbour(&gateway));
    let task = taken.task_id();
    assert_eq!((&dead[0]["task"], &dead[0]["attempts"]), (&json!(task), &json!(1)));
    let reason = dead[0]["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("plugin spins-in-deliver: ") && reason.contains(CPU_LIMIT_REASON),
        "{reason}"
    );
    assert_eq!(gateway.task(&task).await["status"], "completed", "the run is none the worse");
    assert_eq!(refused_calls(&gateway, "spins-in-deliver").await, json!({"request-too-much": 1}));
}

#[tokio::test]
async fn a_replier_that_panics_in_its_delivery_is_given_up_and_never_tried_again() {
    let clock = Clock::manual(Timestamp::from_micros(1_800_000_000_000_000));
    let gateway = Setup::new().clock(&clock).start().await;
    gateway.install("panics_in_deliver", LIMITS).await;
    let more = json!({"replier": "panics-in-deliver", "answer": "deliver"});
    let hook = hook(&gateway, more).await;
    let send = async || {
        let call = gateway.post(&hook).json(&json!({"text": "hi"})).answered_by_a_plugin();
        call.expect(200).await.task_id()
    };
    let first = send().await;
    let (dead, ()) = tokio::join!(wait_for_dead_deliveries(&gateway, 1), neighbour(&gateway));
    let reason = dead[0]["reason"].as_str().unwrap();
    let subject = reason.starts_with("plugin panics-in-deliver: ");
    assert!(subject && reason.contains("it crashed ("), "{reason}");
    // Far longer than any pause between two attempts. When the second delivery has been processed, so has this one.
    clock.advance(Duration::from_secs(24 * 60 * 60));
    let second = send().await;
    let dead = wait_for_dead_deliveries(&gateway, 2).await;
    for (delivery, task) in dead.iter().zip([&second, &first]) {
        assert_eq!((&delivery["task"], &delivery["attempts"]), (&json!(task), &json!(1)));
        assert_eq!(gateway.task(task).await["status"], "completed");
    }
    assert_eq!(refused_calls(&gateway, "panics-in-deliver").await, json!({"request-too-much": 2}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_spins_over_its_settings_is_installed_with_a_note_and_works() {
    let gateway = Gateway::start().await;
    let component = Part::bytes(std::fs::read(guest_path("spins_in_check")).unwrap());
    let form = Form::new().part("component", component).text("grants", LIMITS);
    let call = gateway.admin_request("PUT", "/plugins/spins-in-check").multipart(form);
    let installed = send_beside_neighbour(&gateway, call).await;
    assert_eq!(installed.status, 200, "{}", installed.text);
    let note = format!("it could not check its settings: it {CPU_LIMIT_REASON} it is granted");
    assert_eq!(installed.json()["notes"], json!([note]));
    let grants = gateway.admin_request("PUT", "/plugins/spins-in-check/grants");
    let granted = send_beside_neighbour(&gateway, grants.text("application/toml", LIMITS)).await;
    assert_eq!((granted.status, granted.text.as_str()), (200, LIMITS));

    let mapper = "spins-in-check".parse().unwrap();
    let agent = gateway.agent_with(|agent| agent.mapper = Some(mapper)).await;
    assert_eq!(agent.ask(json!({})).await.report()["received"], "mapped");
    let refused = refused_calls(&gateway, "spins-in-check").await;
    assert_eq!(refused, json!({}), "what an installation asks is none of its calls");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_whose_plugin_cannot_say_what_its_settings_are_is_not_made() {
    for (guest, status, what) in [
        ("spins_in_check", 504, CPU_LIMIT_REASON),
        ("floods_schema", 502, "handed over more than the 100000 bytes"),
    ] {
        let gateway = Gateway::start().await;
        // The schema is not requested before it is needed.
        let plugin = gateway.install(guest, LIMITS).await.to_string();
        let definition =
            json!({"name": "hook", "agent": "tested", "verifier": "none", "mapper": plugin});
        let call = gateway.admin_request("PUT", "/channels/hook").json(&definition);
        let refused = send_beside_neighbour(&gateway, call).await;
        assert_plugin_fault(&refused, status, &plugin, what);
        gateway.admin_request("GET", "/channels/hook").expect(404).await;
    }
}

#[test]
fn whoever_inspects_a_plugin_is_told_what_it_could_not_say() {
    let home = Home::new();
    let grants = home.write("grants.toml", LIMITS).display().to_string();
    for (guest, call, refusal) in [
        ("spins_in_check", "check-config", "out-of-cpu-time"),
        ("floods_schema", "config-schema", "output-too-large"),
    ] {
        let component = guest_path(guest).display().to_string();
        let output = wardgate(&["plugin", "inspect", &component, "--grants", &grants]);
        let message = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(output.status.success(), "{message}");
        assert!(
            message.contains(&format!("{call} failed: ")) && message.contains(refusal),
            "{message}"
        );
        assert!(message.contains("payload-mapper, about"), "the rest is told: {message}");
    }
}
