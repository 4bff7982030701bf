//! The memory of request bodies in flight is bounded for the whole gateway and per channel, tenant and address.
//! A sender that uses up its share does not affect others, and when it disconnects, the memory is released.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use wardgate::settings::{HttpSettings, Settings};

use crate::support::{Answer, Call, Child, Client, Gateway, Home, PATIENCE, Setup, agent, until};

/// A body size just below the one from which the budget applies.
const SMALL: usize = 16_000;

async fn gateway(change: impl FnOnce(&mut HttpSettings)) -> Gateway {
    // The budgets here are smaller than the longest body, because megabytes would make the tests slow.
    let change = |settings: &mut Settings| change(&mut settings.http);
    Setup::new().settings_beyond_bounds(change).start().await
}

/// Creates a channel without authentication and returns its path.
async fn hook(gateway: &Gateway, name: &str) -> String {
    gateway.channel(json!({"name": name, "agent": "tested", "verifier": "none"})).await
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
async fn holds(caller: &Client, target: &str, headers: &str, length: usize) -> TcpStream {
    let request = format!("{}{}", head(target, headers, length), "x".repeat(length - 1));
    caller.send_raw(request.as_bytes()).await
}

/// The metrics, read with an operator's key.
async fn metrics(caller: &Client, operator: &str) -> String {
    caller.get("/metrics").key(operator).expect(200).await.text
}

fn held_of(metrics: &str) -> usize {
    let line = metrics.lines().find_map(|line| line.strip_prefix("wardgate_body_bytes_held "));
    line.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

async fn until_held(caller: &Client, operator: &str, is_so: impl Fn(usize) -> bool) {
    until("bytes of bodies held", async || {
        is_so(held_of(&metrics(caller, operator).await)).then_some(())
    })
    .await;
}

fn refused(answer: &Answer, fault: &str, subject: &str) {
    assert_eq!(answer.status, 503, "{}", answer.text);
    assert_eq!(answer.header("retry-after"), Some("1"));
    assert_eq!(answer.header("x-wardgate-retry"), Some("safe"));
    assert_eq!(answer.header("x-wardgate-fault"), Some(fault), "{}", answer.text);
    assert!(answer.text.contains(subject), "{}", answer.text);
}

/// A request with a body of this length to every surface that reads one.
fn everywhere(gateway: &Gateway, hook: &str, bytes: usize) -> Vec<(&'static str, Call)> {
    let at_agent = |route: &str| gateway.at_agent(route).text("application/json", body(bytes));
    let named = json!({"name": "n".repeat(bytes)});
    vec![
        ("hook", gateway.post(hook).text("application/json", body(bytes))),
        ("webhook", gateway.webhook("&prompt=hi").text("application/json", body(bytes))),
        ("agent's own webhook", gateway.trigger().text("application/json", body(bytes))),
        ("invoke", at_agent("invoke")),
        ("admin", gateway.post("/admin/tenants").key(&gateway.operator()).json(&named)),
    ]
}

#[tokio::test]
async fn over_the_budget_every_surface_refuses_until_somebody_hangs_up() {
    let gateway = gateway(|http| http.held_body_bytes_max = 300_000).await;
    let (hook, operator) = (hook(&gateway, "hook").await, gateway.operator());
    let holder = holds(&gateway, &hook, "", 100_000).await;
    until_held(&gateway, &operator, |held| held == 100_000).await;
    for (surface, call) in everywhere(&gateway, &hook, 70_000) {
        let answer = call.send().await;
        // The share that is used up: the holder belongs to this channel, this tenant and this address.
        let subject = match surface {
            "hook" => "requests by this channel",
            "admin" => "requests from this address",
            _ => "requests of this tenant",
        };
        refused(&answer, "policy", subject);
        let docsgpt = answer.json()["success"] == json!(false);
        assert_eq!(docsgpt, surface == "agent's own webhook", "{}", answer.text);
    }
    assert_eq!(gateway.tasks_stored().await, 0);
    // Small bodies are exempt.
    gateway.post(&hook).text("application/json", body(SMALL)).expect(200).await;
    gateway.trigger().text("application/json", body(SMALL)).expect(200).await;

    drop(holder);
    for (surface, call) in everywhere(&gateway, &hook, 70_000) {
        until_held(&gateway, &operator, |held| held == 0).await;
        let answer = call.send().await;
        // The bodies are invalid for these two, which now get to read them.
        let expected = if matches!(surface, "invoke" | "admin") { 422 } else { 200 };
        assert_eq!(answer.status, expected, "{surface}: {}", answer.text);
    }
}

#[tokio::test]
async fn a_channels_share_is_its_own() {
    let gateway = gateway(|http| http.held_body_bytes_per_channel_max = 100_000).await;
    let (flooded, other) = (hook(&gateway, "flooded").await, hook(&gateway, "other").await);
    let holder = holds(&gateway, &flooded, "", 100_000).await;
    until_held(&gateway, &gateway.operator(), |held| held == 100_000).await;
    let send = |hook: &str| gateway.post(hook).text("application/json", body(50_000));
    refused(&send(&flooded).send().await, "policy", "this channel");
    send(&other).expect(200).await;
    gateway.trigger().text("application/json", body(50_000)).expect(200).await;
    drop(holder);
    until_held(&gateway, &gateway.operator(), |held| held == 0).await;
    send(&flooded).expect(200).await;
}

#[tokio::test]
async fn a_tenants_share_is_its_own() {
    let gateway = gateway(|http| http.held_body_bytes_per_tenant_max = 100_000).await;
    let other = gateway.new_tenant("other").await;
    let other = gateway.new_agent(other, agent("another")).await;
    let hook = hook(&gateway, "hook").await;
    let (target, key) =
        (format!("/?agent_id={}", gateway.agent), format!("x-api-key: {}\r\n", gateway.key));
    let holder = holds(&gateway, &target, &key, 100_000).await;
    until_held(&gateway, &gateway.operator(), |held| held == 100_000).await;
    let surfaces = everywhere(&gateway, &hook, 50_000).into_iter();
    for (surface, call) in surfaces.filter(|(surface, _)| *surface != "admin") {
        let answer = call.send().await;
        assert_eq!(answer.status, 503, "{surface}: {}", answer.text);
        refused(&answer, "policy", "this tenant");
    }
    other.webhook("").text("application/json", body(50_000)).expect(200).await;
    drop(holder);
    until_held(&gateway, &gateway.operator(), |held| held == 0).await;
    gateway.webhook("").text("application/json", body(50_000)).expect(200).await;
}

#[tokio::test]
async fn an_addresss_share_is_its_own() {
    let gateway = gateway(|http| http.held_body_bytes_per_address_max = 100_000).await;
    let elsewhere = gateway.at_address(IpAddr::from([127, 0, 0, 2]));
    let hook = hook(&gateway, "hook").await;
    let holder = holds(&gateway, &hook, "", 100_000).await;
    until_held(&gateway, &gateway.operator(), |held| held == 100_000).await;
    for (_, call) in everywhere(&gateway, &hook, 50_000) {
        refused(&call.send().await, "policy", "this address");
    }
    elsewhere.webhook("").text("application/json", body(50_000)).expect(200).await;
    elsewhere.post(&hook).text("application/json", body(50_000)).expect(200).await;
    drop(holder);
    until_held(&gateway, &gateway.operator(), |held| held == 0).await;
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
    gateway.ended(&short).await;
    // The response holds both the prompt and the result, which together exceed the address's share.
    until("the long one to end", async || {
        let services = &gateway.services;
        let task = services.store.task(gateway.tenant, long.parse().unwrap()).await.unwrap();
        task.unwrap().status.is_final().then_some(())
    })
    .await;
    let answer = gateway.get(&format!("/v1/tasks/{long}")).key(&gateway.key).send().await;
    assert_eq!(answer.status, 503, "{}", answer.text);
    refused(&answer, "policy", "this address");
    gateway.get(&format!("/v1/tasks/{short}")).key(&gateway.key).expect(200).await;
    until_held(&gateway, &gateway.operator(), |held| held == 0).await;
}

#[tokio::test]
async fn a_declared_length_is_a_claim_and_chunks_count_as_they_come() {
    let gateway = gateway(|http| http.held_body_bytes_per_channel_max = 100_000).await;
    let (hook, operator) = (hook(&gateway, "hook").await, gateway.operator());
    let mut claims = Vec::new();
    for _ in 0..20 {
        claims.push(gateway.send_raw(head(&hook, "", 9_000_000).as_bytes()).await);
    }
    gateway.post(&hook).text("application/json", body(90_000)).expect(200).await;
    until_held(&gateway, &operator, |held| held == 0).await;
    let chunked = "transfer-encoding: chunked\r\n\r\n186a0\r\n";
    let chunked = format!("POST {hook} HTTP/1.1\r\nhost: x\r\n{chunked}{}", "x".repeat(60_000));
    let _holder = gateway.send_raw(chunked.as_bytes()).await;
    until_held(&gateway, &operator, |held| held > 60_000).await;
    let call = gateway.post(&hook).text("application/json", body(90_000));
    refused(&call.send().await, "policy", "this channel");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_counts_until_its_verifier_has_done_with_it() {
    let gateway = gateway(|_| ()).await;
    let limits = "[limits]\ncpu_ms = 60000\nwall_ms = 60000\n";
    gateway.install("spins_in_verify", limits).await;
    let definition = json!({"name": "hook", "agent": "tested", "verifier": "spins-in-verify"});
    let (hook, operator) = (gateway.channel(definition).await, gateway.operator());
    let call = gateway.post(&hook).text("application/json", body(50_000));
    let verified = tokio::spawn(call.send());
    until("the verifier at work", async || {
        let result = metrics(&gateway, &operator).await;
        let in_flight = result.lines().find_map(|line| {
            let line = line.strip_prefix("wardgate_plugin_calls_in_flight{")?;
            line.split_once("plugin=\"spins-in-verify\"} ")?.1.parse::<f64>().ok()
        });
        (in_flight == Some(1.0)).then(|| assert_eq!(held_of(&result), 50_000))
    })
    .await;
    // The caller disconnects, so the verifier is stopped.
    verified.abort();
    until_held(&gateway, &operator, |held| held == 0).await;
}

#[tokio::test]
async fn a_stranger_who_sends_slowly_is_cut_off_and_a_caller_with_a_key_is_not() {
    let gateway = gateway(|http| {
        http.stranger_body_grace = Duration::from_millis(200);
        http.stranger_body_bytes_per_second_min = 1 << 20;
    })
    .await;
    let hook = hook(&gateway, "hook").await;
    // The sender stalls, or sends one byte at a time.
    let close = "connection: close\r\n";
    let stalls = head(&hook, close, 100_000) + &"x".repeat(20_000);
    assert_eq!(gateway.raw(stalls.as_bytes()).await.0, 408);
    let drips = gateway.send_raw(head(&hook, close, 100_000).as_bytes()).await;
    let (mut answer, mut drips) = drips.into_split();
    let dripping = tokio::spawn(async move {
        while drips.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let mut text = String::new();
    let read = tokio::time::timeout(PATIENCE, answer.read_to_string(&mut text)).await;
    assert!(read.is_ok() && text.starts_with("HTTP/1.1 408 "), "{text}");
    dripping.abort();

    let key = format!("x-api-key: {}\r\n{close}", gateway.key);
    let request = head(&format!("/?agent_id={}", gateway.agent), &key, 16) + r#"{"prompt": "#;
    let mut proven = gateway.send_raw(request.as_bytes()).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    proven.write_all(b"\"hi\"}").await.unwrap();
    let mut text = String::new();
    let _ = tokio::time::timeout(PATIENCE, proven.read_to_string(&mut text)).await;
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

#[tokio::test]
async fn where_nothing_can_come_of_a_body_it_is_not_read() {
    let gateway = Gateway::start().await;
    gateway.keep_secret("hook-token", "a token of the provider", false).await;
    gateway.install("speaks_for_a_provider", "").await;
    let definition = |enabled: bool| {
        json!({
            "name": "hook", "agent": "tested", "secrets": {"secret": "hook-token"},
            "verifier": "speaks-for-a-provider", "enabled": enabled,
        })
    };
    let hook = gateway.channel(definition(true)).await;
    // Only the head is sent: a gateway that waited for the body would respond 408 after seconds.
    let ask = async |target: &str, length: usize| {
        gateway.raw(head(target, "connection: close\r\n", length).as_bytes()).await.0
    };
    assert_eq!(ask("/hooks/5f0c7a52-58d0-4b6f-8a5c-0d3f6a1b2c3d", 9).await, 404);
    assert_eq!(ask(&hook, 99_999_999).await, 413);
    assert_eq!(ask(&format!("{hook}?a=%FF"), 9).await, 400);
    gateway.channel(definition(false)).await;
    assert_eq!(ask(&hook, 9).await, 404);
    gateway.channel(definition(true)).await;
    gateway.manage("DELETE", "/plugins/speaks-for-a-provider").expect(204).await;
    assert_eq!(ask(&hook, 9).await, 503);
    assert_eq!(gateway.tasks_stored().await, 0);
}

/// A child gateway with a channel without authentication, the channel's path, and the operator's key.
async fn child(home: &Home, settings: &str) -> (Child, String, String) {
    let settings = home.write("settings.toml", settings);
    let child = Child::serve(home, &["--settings", settings.to_str().unwrap()]);
    let text = |name: &str| child.line[name].as_str().unwrap().to_owned();
    let (tenant, operator) = (text("organization_id"), text("operator_key"));
    let target = format!("/admin/tenants/{tenant}/channels/hook");
    let definition = json!({"name": "hook", "agent": "demo", "verifier": "none"});
    let applied = child.request("PUT", &target).key(&operator).json(&definition).expect(200).await;
    let url = applied.json()["url"].as_str().unwrap().to_owned();
    let hook = url.strip_prefix(&format!("http://{}", child.listen)).unwrap().to_owned();
    (child, hook, operator)
}

const MEGABYTES_9: usize = 9_000_000;
const MIB_100: u64 = 100 << 20;

/// Starts this many concurrent senders, each of which holds a body of nine megabytes.
async fn flood(caller: &Client, hook: &str, senders: usize) -> Vec<TcpStream> {
    let mut flood = JoinSet::new();
    for _ in 0..senders {
        let (caller, hook) = (caller.clone(), hook.to_owned());
        flood.spawn(async move { holds(&caller, &hook, "", MEGABYTES_9).await });
    }
    flood.join_all().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_two_hundred_uploads_the_memory_is_given_back() {
    // Wide budgets, so that this tests memory only.
    let wide = "[http]\nheld_body_bytes_max = 4000000000\nheld_body_bytes_per_channel_max = 1000000000\n\
                held_body_bytes_per_tenant_max = 1000000000\nheld_body_bytes_per_address_max = 0\n";
    let home = Home::new();
    let (child, hook, operator) = child(&home, wide).await;
    let before = child.resident_bytes();
    let mut peak = 0;
    for _ in 0..5 {
        let senders = flood(&child, &hook, 40).await;
        until_held(&child, &operator, |held| held == 40 * MEGABYTES_9).await;
        peak = peak.max(child.resident_bytes());
        drop(senders);
        until_held(&child, &operator, |held| held == 0).await;
    }
    assert!(peak > before + 3 * MIB_100, "{before} {peak}: the bodies were not in memory");
    until("memory that is given back", async || {
        (child.resident_bytes() < before + MIB_100).then_some(())
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
    let (child, hook, operator) = child(&home, "").await;
    let before = child.resident_bytes();
    let mut flood = JoinSet::new();
    for _ in 0..200 {
        let (caller, hook) = (child.clone(), hook.clone());
        flood.spawn(async move {
            let mut sender = holds(&caller, &hook, "", MEGABYTES_9).await;
            let mut status = [0; 12];
            sender
                .read_exact(&mut status)
                .await
                .map(|_| String::from_utf8_lossy(&status).into_owned())
        });
    }
    // All but a few get 503. The channel's share is three such bodies.
    for _ in 0..190 {
        let answered = tokio::time::timeout(PATIENCE, flood.join_next()).await;
        let status = answered.expect("an answer").unwrap().unwrap();
        assert_eq!(status.unwrap(), "HTTP/1.1 503");
    }
    let peak = child.resident_bytes();
    assert!(peak < before + MIB_100, "{} MiB before, {} with the flood", before >> 20, peak >> 20);
    let body = json!({"prompt": "hi", "pad": "x".repeat(1_000_000)});
    assert_eq!(child.ask(body).await.json()["status"], Value::from("completed"));
    drop(flood);
    until_held(&child, &operator, |held| held == 0).await;
    println!("resident: {} MiB before, {} with 200 senders of 9 MB", before >> 20, peak >> 20);
}
