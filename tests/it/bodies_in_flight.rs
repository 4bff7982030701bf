//! The memory of request bodies in flight is bounded for the whole gateway and per channel, tenant and address.
//! A sender that uses up its share does not affect others, and when it disconnects, the memory is released.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use wardgate::settings::{HttpSettings, Settings};

use crate::support::{
    Answer, Call, Client, EVENT_TIMEOUT, Gateway, GatewayProcess, Home, Setup, agent, poll_until,
};

/// A body size just below the one from which the budget applies.
const UNBUDGETED_BODY_BYTES: usize = 16_000;

async fn gateway(change: impl FnOnce(&mut HttpSettings)) -> Gateway {
    // The budgets here are smaller than the longest body, because megabytes would make the tests slow.
    let change = |settings: &mut Settings| change(&mut settings.http);
    Setup::new().settings_beyond_bounds(change).start().await
}

/// Creates a channel without authentication and returns its path.
async fn create_channel(gateway: &Gateway, name: &str) -> String {
    gateway.apply_channel(json!({"name": name, "agent": "tested", "verifier": "none"})).await
}

/// A JSON body of this many bytes.
fn body(bytes: usize) -> String {
    let padding = bytes - r#"{"pad":""}"#.len();
    format!(r#"{{"pad":"{}"}}"#, "x".repeat(padding))
}

/// The head of a request with a body of this length.
fn head(target: &str, headers: &str, length: usize) -> String {
    format!("POST {target} HTTP/1.1\r\nhost: x\r\n{headers}content-length: {length}\r\n\r\n")
}

/// Sends a body except for its last byte, and keeps the connection open.
async fn hold_body(caller: &Client, target: &str, headers: &str, length: usize) -> TcpStream {
    let request = format!("{}{}", head(target, headers, length), "x".repeat(length - 1));
    caller.send_raw(request.as_bytes()).await
}

/// The metrics, read with an operator's key.
async fn metrics(caller: &Client, operator: &str) -> String {
    caller.get("/metrics").key(operator).expect(200).await.text
}

fn held_bytes(metrics: &str) -> usize {
    let line = metrics.lines().find_map(|line| line.strip_prefix("wardgate_body_bytes_held "));
    line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

async fn wait_for_held_bytes(caller: &Client, operator: &str, condition: impl Fn(usize) -> bool) {
    poll_until("bytes of bodies held", async || {
        condition(held_bytes(&metrics(caller, operator).await)).then_some(())
    })
    .await;
}

fn assert_out_of_memory_budget(answer: &Answer, fault: &str, subject: &str) {
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("x-wardgate-retry"), Some("safe"));
    assert_eq!(answer.header("x-wardgate-fault"), Some(fault), "{}", answer.text);
    assert!(answer.text.contains(subject), "{}", answer.text);
}

/// A request with a body of this length to every surface that reads one.
fn requests_to_every_surface(
    gateway: &Gateway,
    hook: &str,
    bytes: usize,
) -> Vec<(&'static str, Call)> {
    let at_agent = |route: &str| gateway.post_to_agent(route).text("application/json", body(bytes));
    let named = json!({"name": "n".repeat(bytes)});
    vec![
        ("hook", gateway.post(hook).text("application/json", body(bytes))),
        ("webhook", gateway.webhook("&prompt=hi").text("application/json", body(bytes))),
        ("agent's own webhook", gateway.trigger().text("application/json", body(bytes))),
        ("invoke", at_agent("invoke")),
        ("admin", gateway.post("/admin/tenants").key(&gateway.operator_key()).json(&named)),
    ]
}

#[tokio::test]
async fn over_the_budget_every_surface_refuses_until_somebody_hangs_up() {
    let gateway = gateway(|http| http.held_body_bytes_max = 300_000).await;
    let (hook, operator) = (create_channel(&gateway, "hook").await, gateway.operator_key());
    let holder = hold_body(&gateway, &hook, "", 100_000).await;
    wait_for_held_bytes(&gateway, &operator, |held| held == 100_000).await;
    for (surface, call) in requests_to_every_surface(&gateway, &hook, 70_000) {
        let answer = call.send().await;
        // The share that is used up: the holder belongs to this channel, this tenant and this address.
        let subject = match surface {
            "hook" => "requests by this channel",
            "admin" => "requests from this address",
            _ => "requests of this tenant",
        };
        assert_out_of_memory_budget(&answer, "policy", subject);
        let docsgpt = answer.json()["success"] == json!(false);
        assert_eq!(docsgpt, surface == "agent's own webhook", "{}", answer.text);
    }
    assert_eq!(gateway.stored_task_count().await, 0);
    // Small bodies are exempt.
    gateway.post(&hook).text("application/json", body(UNBUDGETED_BODY_BYTES)).expect(200).await;
    gateway.trigger().text("application/json", body(UNBUDGETED_BODY_BYTES)).expect(200).await;

    drop(holder);
    for (surface, call) in requests_to_every_surface(&gateway, &hook, 70_000) {
        wait_for_held_bytes(&gateway, &operator, |held| held == 0).await;
        let answer = call.send().await;
        // The bodies are invalid for these two, which now get to read them.
        let expected = if matches!(surface, "invoke" | "admin") { 422 } else { 200 };
        assert_eq!(answer.status, expected, "{surface}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_channels_share_is_its_own() {
    let gateway = gateway(|http| http.held_body_bytes_per_channel_max = 100_000).await;
    let (flooded, other) =
        (create_channel(&gateway, "flooded").await, create_channel(&gateway, "other").await);
    let holder = hold_body(&gateway, &flooded, "", 100_000).await;
    wait_for_held_bytes(&gateway, &gateway.operator_key(), |held| held == 100_000).await;
    let send = |hook: &str| gateway.post(hook).text("application/json", body(50_000));
    assert_out_of_memory_budget(&send(&flooded).send().await, "policy", "this channel");
    send(&other).expect(200).await;
    gateway.trigger().text("application/json", body(50_000)).expect(200).await;
    drop(holder);
    wait_for_held_bytes(&gateway, &gateway.operator_key(), |held| held == 0).await;
    send(&flooded).expect(200).await;
}

#[tokio::test]
async fn a_tenants_share_is_its_own() {
    let gateway = gateway(|http| http.held_body_bytes_per_tenant_max = 100_000).await;
    let other = gateway.new_tenant("other").await;
    let other = gateway.new_agent(other, agent("another")).await;
    let hook = create_channel(&gateway, "hook").await;
    let (target, key) =
        (format!("/?agent_id={}", gateway.agent), format!("x-api-key: {}\r\n", gateway.key));
    let holder = hold_body(&gateway, &target, &key, 100_000).await;
    wait_for_held_bytes(&gateway, &gateway.operator_key(), |held| held == 100_000).await;
    let surfaces = requests_to_every_surface(&gateway, &hook, 50_000).into_iter();
    for (surface, call) in surfaces.filter(|(surface, _)| *surface != "admin") {
        let answer = call.send().await;
        assert_eq!(answer.status, 503, "{surface}: {}", answer.text);
        assert_out_of_memory_budget(&answer, "policy", "this tenant");
    }
    other.webhook("").text("application/json", body(50_000)).expect(200).await;
    drop(holder);
    wait_for_held_bytes(&gateway, &gateway.operator_key(), |held| held == 0).await;
    gateway.webhook("").text("application/json", body(50_000)).expect(200).await;
}

#[tokio::test]
async fn an_addresss_share_is_its_own() {
    let gateway = gateway(|http| http.held_body_bytes_per_address_max = 100_000).await;
    let elsewhere = gateway.with_local_address(IpAddr::from([127, 0, 0, 2]));
    let hook = create_channel(&gateway, "hook").await;
    let holder = hold_body(&gateway, &hook, "", 100_000).await;
    wait_for_held_bytes(&gateway, &gateway.operator_key(), |held| held == 100_000).await;
    for (_, call) in requests_to_every_surface(&gateway, &hook, 50_000) {
        assert_out_of_memory_budget(&call.send().await, "policy", "this address");
    }
    elsewhere.webhook("").text("application/json", body(50_000)).expect(200).await;
    elsewhere.post(&hook).text("application/json", body(50_000)).expect(200).await;
    drop(holder);
    wait_for_held_bytes(&gateway, &gateway.operator_key(), |held| held == 0).await;
    gateway.webhook("").text("application/json", body(50_000)).expect(200).await;
}

#[tokio::test]
async fn a_long_answer_counts_for_the_address_that_it_goes_to() {
    let gateway = gateway(|http| http.held_body_bytes_per_address_max = 120_000).await;
    let [long, short] = [90_000, 100].map(|bytes| {
        let call =
            gateway.webhook("&asynchronous=true").json(&json!({"prompt": "x".repeat(bytes)}));
        call.expect(200)
    });
    let [long, short] = [long.await.task_id(), short.await.task_id()];
    gateway.wait_for_end(&short).await;
    // The response holds both the prompt and the result, which together exceed the address's share.
    poll_until("the long one to end", async || {
        let services = &gateway.services;
        let task = services.store.task(gateway.tenant, long.parse().unwrap()).await.unwrap();
        task.unwrap().status.is_final().then_some(())
    })
    .await;
    let answer = gateway.get(&format!("/v1/tasks/{long}")).key(&gateway.key).send().await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert_out_of_memory_budget(&answer, "policy", "this address");
    gateway.get(&format!("/v1/tasks/{short}")).key(&gateway.key).expect(200).await;
    wait_for_held_bytes(&gateway, &gateway.operator_key(), |held| held == 0).await;
}

#[tokio::test]
async fn a_declared_length_is_a_claim_and_chunks_count_as_they_come() {
    let gateway = gateway(|http| http.held_body_bytes_per_channel_max = 100_000).await;
    let (hook, operator) = (create_channel(&gateway, "hook").await, gateway.operator_key());
    let mut claims = Vec::new();
    for _ in 0..20 {
        claims.push(gateway.send_raw(head(&hook, "", 9_000_000).as_bytes()).await);
    }
    gateway.post(&hook).text("application/json", body(90_000)).expect(200).await;
    wait_for_held_bytes(&gateway, &operator, |held| held == 0).await;
    let chunked = "transfer-encoding: chunked\r\n\r\n186a0\r\n";
    let chunked = format!("POST {hook} HTTP/1.1\r\nhost: x\r\n{chunked}{}", "x".repeat(60_000));
    let _holder = gateway.send_raw(chunked.as_bytes()).await;
    wait_for_held_bytes(&gateway, &operator, |held| held > 60_000).await;
    let call = gateway.post(&hook).text("application/json", body(90_000));
    assert_out_of_memory_budget(&call.send().await, "policy", "this channel");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_counts_until_its_verifier_has_done_with_it() {
    let gateway = gateway(|_| ()).await;
    let limits = "[limits]\ncpu_ms = 60000\nwall_ms = 60000\n";
    gateway.install("spins_in_verify", limits).await;
    let definition = json!({"name": "hook", "agent": "tested", "verifier": "spins-in-verify"});
    let (hook, operator) = (gateway.apply_channel(definition).await, gateway.operator_key());
    let call = gateway.post(&hook).text("application/json", body(50_000));
    let verified = tokio::spawn(call.send());
    poll_until("the verifier at work", async || {
        let result = metrics(&gateway, &operator).await;
        let in_flight = result.lines().find_map(|line| {
            let line = line.strip_prefix("wardgate_plugin_calls_in_flight{")?;
            line.split_once("plugin=\"spins-in-verify\"} ")?.1.parse::<f64>().ok()
        });
        (in_flight == Some(1.0)).then(|| assert_eq!(held_bytes(&result), 50_000))
    })
    .await;
    // The caller disconnects, so the verifier is stopped.
    verified.abort();
    wait_for_held_bytes(&gateway, &operator, |held| held == 0).await;
}

#[tokio::test]
async fn a_stranger_who_sends_slowly_is_cut_off_and_a_caller_with_a_key_is_not() {
    let gateway = gateway(|http| {
        http.stranger_body_grace = Duration::from_millis(200);
        http.stranger_body_bytes_per_second_min = 1 << 20;
    })
    .await;
    let hook = create_channel(&gateway, "hook").await;
    // The sender stalls, or sends one byte at a time.
    let close = "connection: close\r\n";
    let stalls = head(&hook, close, 100_000) + &"x".repeat(20_000);
    assert_eq!(gateway.exchange_raw(stalls.as_bytes()).await.0, 408);
    let drips = gateway.send_raw(head(&hook, close, 100_000).as_bytes()).await;
    let (mut answer, mut drips) = drips.into_split();
    let dripping = tokio::spawn(async move {
        while drips.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut text = String::new();
    let read = tokio::time::timeout(EVENT_TIMEOUT, answer.read_to_string(&mut text)).await;
    assert!(read.is_ok() && text.starts_with("HTTP/1.1 408 "), "{text}");
    dripping.abort();

    let key = format!("x-api-key: {}\r\n{close}", gateway.key);
    let request = head(&format!("/?agent_id={}", gateway.agent), &key, 16) + r#"{"prompt": "#;
    let mut proven = gateway.send_raw(request.as_bytes()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    proven.write_all(b"\"hi\"}").await.unwrap();
    let mut text = String::new();
    let _ = tokio::time::timeout(EVENT_TIMEOUT, proven.read_to_string(&mut text)).await;
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

#[tokio::test]
async fn where_nothing_can_come_of_a_body_it_is_not_read() {
    let gateway = Gateway::start().await;
    gateway.store_secret("hook-token", "a token of the provider", false).await;
    gateway.install("speaks_for_a_provider", "").await;
    let definition = |enabled: bool| {
        json!({
            "name": "hook", "agent": "tested", "secrets": {"secret": "hook-token"},
            "verifier": "speaks-for-a-provider", "enabled": enabled,
        })
    };
    let hook = gateway.apply_channel(definition(true)).await;
    // Only the head is sent: a gateway that waited for the body would respond 408 after seconds.
    let ask = async |target: &str, length: usize| {
        gateway.exchange_raw(head(target, "connection: close\r\n", length).as_bytes()).await.0
    };
    assert_eq!(ask("/hooks/5f0c7a52-58d0-4b6f-8a5c-0d3f6a1b2c3d", 9).await, 404);
    assert_eq!(ask(&hook, 99_999_999).await, 413);
    assert_eq!(ask(&format!("{hook}?a=%FF"), 9).await, 400);
    gateway.apply_channel(definition(false)).await;
    assert_eq!(ask(&hook, 9).await, 404);
    gateway.apply_channel(definition(true)).await;
    gateway.admin_request("DELETE", "/plugins/speaks-for-a-provider").expect(204).await;
    assert_eq!(ask(&hook, 9).await, 503);
    assert_eq!(gateway.stored_task_count().await, 0);
}

/// A child gateway with a channel without authentication, the channel's path, and the operator's key.
async fn start_process(home: &Home, settings: &str) -> (GatewayProcess, String, String) {
    let settings = home.write("settings.toml", settings);
    let child = GatewayProcess::serve(home, &["--settings", settings.to_str().unwrap()]);
    let text = |name: &str| child.startup_line[name].as_str().unwrap().to_owned();
    let (tenant, operator) = (text("organization_id"), text("operator_key"));
    let target = format!("/admin/tenants/{tenant}/channels/hook");
    let definition = json!({"name": "hook", "agent": "demo", "verifier": "none"});
    let applied = child.request("PUT", &target).key(&operator).json(&definition).expect(200).await;
    let url = applied.json()["url"].as_str().unwrap().to_owned();
    let hook = url.strip_prefix(&format!("http://{}", child.listen)).unwrap().to_owned();
    (child, hook, operator)
}

const BODY_BYTES_9_MB: usize = 9_000_000;
const BYTES_100_MIB: u64 = 100 << 20;

/// Starts this many concurrent senders, each of which holds a body of nine megabytes.
async fn hold_many_bodies(caller: &Client, hook: &str, senders: usize) -> Vec<TcpStream> {
    let mut flood = JoinSet::new();
    for _ in 0..senders {
        let (caller, hook) = (caller.clone(), hook.to_owned());
        flood.spawn(async move { hold_body(&caller, &hook, "", BODY_BYTES_9_MB).await });
    }
    flood.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_two_hundred_uploads_the_memory_is_given_back() {
    // Wide budgets, so that this tests memory only.
    let wide = "[http]\nheld_body_bytes_max = 4000000000\nheld_body_bytes_per_channel_max = 1000000000\n\
                held_body_bytes_per_tenant_max = 1000000000\nheld_body_bytes_per_address_max = 0\n";
    let home = Home::new();
    let (child, hook, operator) = start_process(&home, wide).await;
    let before = child.resident_bytes();
    let mut peak = 0;
    for _ in 0..5 {
        let senders = hold_many_bodies(&child, &hook, 40).await;
        wait_for_held_bytes(&child, &operator, |held| held == 40 * BODY_BYTES_9_MB).await;
        peak = peak.max(child.resident_bytes());
        drop(senders);
        wait_for_held_bytes(&child, &operator, |held| held == 0).await;
    }
    assert!(peak > before + 3 * BYTES_100_MIB, "{before} {peak}: the bodies were not in memory");
    poll_until("memory that is given back", async || {
        (child.resident_bytes() < before + BYTES_100_MIB).then_some(())
    })
    .await;
    let after = child.resident_bytes();
    println!(
        "resident: {} MiB before, {} at most, {} after",
        before >> 20,
        peak >> 20,
        after >> 20
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_a_hook_does_not_grow_the_gateway_and_others_are_served() {
    let home = Home::new();
    let (child, hook, operator) = start_process(&home, "").await;
    let before = child.resident_bytes();
    let mut flood = JoinSet::new();
    for _ in 0..200 {
        let (caller, hook) = (child.clone(), hook.clone());
        flood.spawn(async move {
            let mut sender = hold_body(&caller, &hook, "", BODY_BYTES_9_MB).await;
            let mut status = [0; 12];
            sender
                .read_exact(&mut status)
                .await
                .map(|_| String::from_utf8_lossy(&status).into_owned())
        });
    }
    // All but a few get 503. The channel's share is three such bodies.
    for _ in 0..190 {
        let answered = tokio::time::timeout(EVENT_TIMEOUT, flood.join_next()).await;
        let status = answered.expect("an answer").unwrap().unwrap();
        assert_eq!(status.unwrap(), "HTTP/1.1 503");
    }
    let peak = child.resident_bytes();
    assert!(
        peak < before + BYTES_100_MIB,
        "{} MiB before, {} with the flood",
        before >> 20,
        peak >> 20
    );
    let body = json!({"prompt": "hi", "pad": "x".repeat(1_000_000)});
    assert_eq!(child.ask(body).await.json()["status"], Value::from("completed"));
    drop(flood);
    wait_for_held_bytes(&child, &operator, |held| held == 0).await;
    println!("resident: {} MiB before, {} with 200 senders of 9 MB", before >> 20, peak >> 20);
}
