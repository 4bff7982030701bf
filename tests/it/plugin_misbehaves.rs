//! A component that misbehaves is stopped within its limits: the error names the plugin and what it did, nothing is
//! left behind, and a neighbour's concurrent request is not affected. One test for each guest of `tests/guests`.

mod neighbours;
mod of_host_calls;
mod raw;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use tokio::task::JoinSet;

use crate::support::events::EventStream;
use crate::support::{Answer, Gateway, INTERFACE_VERSION, guest_path, poll_until};

/// Longer than the limits below, shorter than a request that hangs.
const HANG_THRESHOLD: Duration = Duration::from_secs(50);

/// Checks that a refusal names the plugin and what it did.
fn assert_plugin_fault(answer: &Answer, status: u16, plugin: &str, what: &str) {
    assert_eq!(answer.status, status, "{}", answer.text);
    assert_eq!(answer.header("x-wardgate-fault"), Some("guest"));
    let detail = answer.detail();
    assert!(detail.contains(&format!("plugin {plugin} ")) && detail.contains(what), "{detail}");
}

/// Calls the same gateway's well-behaved agent, and returns the time that it took.
async fn neighbour(gateway: &Gateway) -> Duration {
    let started = Instant::now();
    let call = gateway.webhook(r#"&params_mapping={"prompt":"a"}"#).json(&json!({"a": "fine"}));
    assert_eq!(call.expect(200).await.report()["received"], "fine");
    started.elapsed()
}

/// Calls an agent whose mapper misbehaves, on both surfaces and concurrently with a neighbour. Unless the test is
/// about time limits, the mapper gets enough time to be stopped for its misbehaviour.
async fn assert_mapper_refused(guest: &str, limits: &str, status: u16, what: &str) {
    let gateway = Gateway::start().await;
    let patient = match status {
        504 if limits.contains("wall_ms") => "",
        504 => "wall_ms = 40000\n",
        _ => "wall_ms = 40000\ncpu_ms = 5000\n",
    };
    // The concurrency is one, so that a call whose slot is not released would block all later calls.
    let limits = format!("[limits]\nconcurrency = 1\n{patient}{limits}");
    let agent = gateway.agent_with_mapper(guest, &limits).await;
    // A first call beforehand, because bundled plugins may still have to be compiled.
    neighbour(&gateway).await;
    let started = Instant::now();
    let (answer, quick) =
        tokio::join!(agent.webhook("").json(&json!({})).send(), neighbour(&gateway));
    let plugin = guest.replace('_', "-");
    assert_plugin_fault(&answer, status, &plugin, what);
    assert!(
        started.elapsed() < HANG_THRESHOLD && quick < HANG_THRESHOLD,
        "{:?} {quick:?}",
        started.elapsed()
    );
    let answer = agent.trigger().json(&json!({})).expect(status).await;
    assert!(answer.json()["message"].as_str().unwrap().contains(what), "{}", answer.text);
    assert_eq!(gateway.stored_task_count().await, 2, "the neighbour's and nothing else");
    assert_idle_and_healthy(&gateway, &plugin).await;
}

/// Checks that no call of the plugin is in flight, and that the gateway works.
async fn assert_idle_and_healthy(gateway: &Gateway, plugin: &str) {
    assert_eq!(in_flight(gateway, plugin).await, 0);
    neighbour(gateway).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spin_forever() {
    assert_mapper_refused("spin_forever", "", 504, "computed for longer than the 200 ms").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_spin_do_not_starve_a_neighbour() {
    let gateway = Gateway::start().await;
    let limits = "[limits]\ncpu_ms = 600000\nwall_ms = 600000\n";
    let agent = gateway.agent_with_mapper("spin_forever", limits).await;
    neighbour(&gateway).await;
    let mut spinning = JoinSet::new();
    for _ in 0..20 {
        let request = agent.webhook("").json(&json!({})).request;
        spinning.spawn(async move { drop(request.send().await) });
    }
    poll_until("all that spin", async || {
        (in_flight(&gateway, "spin-forever").await == 20).then_some(())
    })
    .await;
    for _ in 0..10 {
        neighbour(&gateway).await;
    }
    // Counted, not timed: the neighbour got ten responses while all of these calls were in flight.
    assert_eq!(in_flight(&gateway, "spin-forever").await, 20);
    drop(spinning);
    poll_until("their end", async || {
        (in_flight(&gateway, "spin-forever").await == 0).then_some(())
    })
    .await;
}

/// How many calls of a plugin are in flight.
async fn in_flight(gateway: &Gateway, plugin: &str) -> u64 {
    let plugins = &gateway.services.plugins;
    let binding = plugins.binding(gateway.tenant, &plugin.parse().unwrap()).await.unwrap();
    binding.stats().snapshot().in_flight
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sleeps() {
    assert_mapper_refused("sleeps", "wall_ms = 1000", 504, "took longer than the 1000 ms").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eat_memory() {
    assert_mapper_refused("eat_memory", "memory_mib = 16", 502, "more than the 16 MiB").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_output() {
    assert_mapper_refused("flood_output", "", 502, "handed over more than the 4194304 bytes").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flood_params() {
    assert_mapper_refused("flood_params", "", 502, "handed over more than").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_recursion() {
    // The guest's compiler determines which of its two stacks overflows first.
    assert_mapper_refused("deep_recursion", "", 502, "crashed (").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panics() {
    assert_mapper_refused("panics", "", 502, "crashed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_action() {
    assert_mapper_refused("bad_action", "", 502, "explode").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_param() {
    assert_mapper_refused("bad_param", "", 502, "x-api-key").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_json() {
    assert_mapper_refused("bad_json", "", 502, "its context").await;
}

#[tokio::test]
async fn no_role() {
    let gateway = Gateway::start().await;
    let refused = gateway.try_install(&guest_path("no_role"), "").await.unwrap_err().to_string();
    assert!(refused.contains("no-role") && refused.contains("payload-mapper"), "{refused}");
}

#[tokio::test]
async fn wrong_version() {
    let gateway = Gateway::start().await;
    let refused = gateway.try_install(&guest_path("wrong_version"), "").await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("0.9.0") && refused.contains(INTERFACE_VERSION), "{refused}");
}

#[tokio::test]
async fn a_plugin_without_the_role_it_is_named_for() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper("getter_upper", "").await;
    let answer = agent.webhook("").json(&json!({})).send().await;
    assert_plugin_fault(&answer, 502, "getter-upper", "payload-mapper");
}

#[tokio::test]
async fn flood_reply() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_getter("flood_reply", "").await;
    let small = agent.webhook("&getter=1").json(&json!({"prompt": "x"})).expect(200).await;
    assert_eq!(small.text.len(), 1 << 20);
    let answer = agent.webhook("&getter=8").json(&json!({"prompt": "x"})).send().await;
    assert_plugin_fault(&answer, 502, "flood-reply", "handed over more than the 4194304 bytes");
}

#[tokio::test]
async fn bad_json_getter() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_getter("bad_json_getter", "").await;
    let answer = agent.webhook("&getter=x").json(&json!({"prompt": "x"})).send().await;
    assert_plugin_fault(&answer, 502, "bad-json-getter", "not JSON");
}

/// Checks that a tool's failure is reported to the model and that the run continues.
async fn assert_tool_refused(guest: &str, call: &str, grants: &str, what: &str) {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_tool(guest, grants).await;
    neighbour(&gateway).await;
    let started = Instant::now();
    let (answer, quick) =
        tokio::join!(agent.ask(json!({"prompt": format!("{call} {{}}")})), neighbour(&gateway));
    assert!(started.elapsed() < HANG_THRESHOLD && quick < HANG_THRESHOLD);
    let tool = answer.report()["tools"][0].clone();
    assert_eq!((&tool["name"], &tool["is_error"]), (&json!(call), &json!(true)));
    assert!(tool["result"].as_str().unwrap().contains(what), "{tool}");
    let step = &agent.thread(&answer.task_id()).await[2];
    assert_eq!(step["plugin"], guest.replace('_', "-"));
    assert_eq!(answer.json()["status"], "completed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spin_in_tool() {
    let grants = "[limits]\ntool_cpu_ms = 100\n";
    assert_tool_refused("spin_in_tool", "spin", grants, "computed for longer than the 100 ms")
        .await;
}

#[tokio::test]
async fn bad_json_tool() {
    assert_tool_refused("bad_json_tool", "broken", "", "not JSON").await;
}

/// Runs an agent with this mapper, and returns what the mapper reports in its prompt.
async fn mapper_report(guest: &str, body: Value) -> String {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper(guest, "").await;
    agent.ask(body).await.report()["received"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn logs_flood() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper("logs_flood", "").await;
    let answer = agent.ask(json!({})).await;
    assert_eq!(answer.report()["received"], "logged", "logging too much is no failure");
    let thread = agent.thread(&answer.task_id()).await;
    let logged = thread[0]["mapping"]["logs"].to_string().len();
    assert!((1_000..32_000).contains(&logged), "{logged}");
}

#[tokio::test]
async fn asks_secret() {
    assert_eq!(mapper_report("asks_secret", json!({"secret": "host.key"})).await, "forbidden");
}

#[tokio::test]
async fn reads_environment() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let found = mapper_report("reads_environment", json!({"address": address})).await;
    let nothing = json!({
        "environment": [], "arguments": [], "root": false, "passwd": false, "network": false,
    });
    assert_eq!(serde_json::from_str::<Value>(&found).unwrap(), nothing);
}

#[tokio::test]
async fn counts_calls() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper("counts_calls", "").await;
    for _ in 0..3 {
        // Each call has its own instance, so no state carries over to the next.
        assert_eq!(agent.ask(json!({})).await.report()["received"], "1");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_waits_for_a_plugin_with_all_its_calls_in_flight() {
    let gateway = Gateway::start().await;
    let grants =
        "[limits]\nconcurrency = 1\nwall_ms = 300\ntool_cpu_ms = 600000\ntool_wall_ms = 600000\n";
    let agent = gateway.agent_with_tool("spin_in_tool", grants).await;
    let spinning = EventStream::start_run_until_tool_call(&agent, "spin {}").await;
    // The only granted call spins, so a second run cannot even list the tools.
    let waiting = agent.start_run("no tool").await;
    poll_until("a call that found no room", async || {
        let state = gateway.admin_request("GET", "/plugins/spin-in-tool").expect(200).await.json();
        (state["calls"]["refused"]["busy"].as_u64() > Some(0)).then_some(())
    })
    .await;
    // A direct call of the tool is refused as busy: nothing was started, and a retry is safe.
    let path = format!("/agents/{}/operations/spin", agent.agent);
    let busy = agent.post(&path).key(&agent.key).json(&json!({})).send().await;
    assert_eq!(
        (busy.status, busy.header("x-wardgate-fault")),
        (503, Some("host")),
        "{}",
        busy.text
    );
    assert_eq!(
        (busy.header("x-wardgate-retry"), busy.header("retry-after")),
        (Some("safe"), Some("1"))
    );
    assert_eq!(agent.stop_task(&spinning).await["status"], "stopped", "it span all along");
    assert_eq!(agent.wait_for_end(&waiting).await["status"], "completed");
}

/// A guest that no test uses would prove nothing.
#[test]
fn every_guest_has_its_test() {
    let package = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut tests, mut folders) = (String::new(), vec![package.join("it")]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                tests.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    let guests = package.join("guests");
    let files = ["examples", "raw"].map(|folder| std::fs::read_dir(guests.join(folder)).unwrap());
    for file in files.into_iter().flatten() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let named = tests.contains(&format!("\"{name}\""));
        assert!(named, "write a test for {}", path.display());
    }
}
