//! The work of the host for a guest's calls is bounded like the guest's own work.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use serde_json::{Value, json};

use super::{
    HANG_THRESHOLD, assert_idle_and_healthy, assert_mapper_refused, assert_plugin_fault, neighbour,
};
use crate::support::web::Web;
use crate::support::{Answer, Client, Gateway, Setup};

/// Grants of a secret and of key-value storage, for guests that exhaust them.
const SECRET_AND_KEY_VALUE_GRANTS: &str = "[secrets]\nsigning = { secret = \"webhook\", \
                       use = [\"sign\", \"compare\"] }\n[key-value]\nbytes = 1000\n\
                       [limits]\nconcurrency = 1\nwall_ms = 50000\n";

/// Calls an agent whose mapper exhausts its grants, twice, concurrently with a neighbour.
async fn assert_refused_with_grants(guest: &str, limits: &str, status: u16, what: &str) {
    let gateway = Gateway::start().await;
    gateway.store_secret("webhook", "a key of the tenant", false).await;
    let agent =
        gateway.agent_with_mapper(guest, &format!("{SECRET_AND_KEY_VALUE_GRANTS}{limits}")).await;
    neighbour(&gateway).await;
    let plugin = guest.replace('_', "-");
    for _ in 0..2 {
        let call = agent.webhook("").json(&json!({}));
        let (answer, _) = tokio::join!(call.send(), neighbour(&gateway));
        assert_plugin_fault(&answer, status, &plugin, what);
    }
    assert_idle_and_healthy(&gateway, &plugin).await;
}

#[tokio::test]
async fn leaks_secrets() {
    assert_refused_with_grants("leaks_secrets", "cpu_ms = 5000", 502, "more than the 256 handles")
        .await;
}

#[tokio::test]
async fn leaks_buckets() {
    assert_refused_with_grants("leaks_buckets", "cpu_ms = 5000", 502, "more than the 256 handles")
        .await;
}

#[tokio::test]
async fn leaks_pollables() {
    assert_mapper_refused("leaks_pollables", "", 502, "more than the 256 handles").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signs_forever() {
    // The host's work for a guest counts as the guest's CPU time.
    assert_refused_with_grants(
        "signs_forever",
        "cpu_ms = 100",
        504,
        "computed for longer than the 100 ms",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn matches_forever() {
    assert_refused_with_grants(
        "matches_forever",
        "cpu_ms = 50000",
        502,
        "bytes of documents to look through",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn looks_forever() {
    let gateway = Gateway::start().await;
    let limits = "[limits]\ncpu_ms = 20000\nwall_ms = 50000\n";
    let agent = gateway.agent_with_mapper("looks_forever", limits).await;
    neighbour(&gateway).await;
    let payload = json!({"text": "x".repeat(1 << 20)});
    let call = agent.webhook("").json(&payload);
    let (answer, _) = tokio::join!(call.send(), neighbour(&gateway));
    // With a large payload, this may not be the plugin's fault: it makes as many look-ups in a small one.
    assert_eq!((answer.status, answer.header("x-wardgate-fault")), (413, Some("caller")));
    assert!(answer.detail().contains("bytes of documents to look through"), "{}", answer.text);
    assert_idle_and_healthy(&gateway, "looks-forever").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asks_forever() {
    assert_mapper_refused("asks_forever", "", 504, "computed for longer than the 200 ms").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_stdout() {
    assert_mapper_refused("floods_stdout", "", 504, "computed for longer than the 200 ms").await;
}

#[tokio::test]
async fn wants_random() {
    assert_mapper_refused("wants_random", "", 502, "broke the interface").await;
}

#[tokio::test]
async fn reads_clock_forever() {
    let gateway = Gateway::start().await;
    let limits = "[limits]\ncpu_ms = 20000\nwall_ms = 50000\n";
    let agent = gateway.agent_with_mapper("reads_clock_forever", limits).await;
    let before = gateway.home.database_bytes().len();
    assert_eq!(agent.ask(json!({})).await.report()["received"], "read", "reading it is no failure");
    let kept = gateway.home.database_bytes().len() - before;
    assert!(kept < 4 << 20, "a hundred thousand answers are not kept: {kept}");
}

#[tokio::test]
async fn logs_lines() {
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_mapper("logs_lines", "").await;
    let answer = agent.ask(json!({})).await;
    let thread = agent.thread(&answer.task_id()).await;
    let logs = thread[0]["mapping"]["logs"].as_array().unwrap();
    assert_eq!(logs.len(), 1, "one call is one line: {logs:?}");
    let line = logs[0].as_str().unwrap();
    assert!(line.contains("forged") && line.contains("end"), "{line}");
    assert!(!line.chars().any(char::is_control), "{line:?}");
}

/// Calls a getter that returns what the interface forbids.
async fn assert_getter_refused(guest: &str, path: &str, what: &str) {
    let gateway = Gateway::start().await;
    let limits = "[limits]\nconcurrency = 1\ncpu_ms = 5000\nwall_ms = 40000\n";
    let agent = gateway.agent_with_getter(guest, limits).await;
    let plugin = guest.replace('_', "-");
    for _ in 0..2 {
        let call = agent.webhook(&format!("&getter={path}")).json(&json!({"prompt": "x"}));
        let (answer, _) = tokio::join!(call.send(), neighbour(&gateway));
        assert_plugin_fault(&answer, 502, &plugin, what);
    }
    assert_idle_and_healthy(&gateway, &plugin).await;
}

#[tokio::test]
async fn not_utf8() {
    assert_getter_refused("not_utf8", "x", "utf-8").await;
}

#[tokio::test]
async fn beyond_memory() {
    assert_getter_refused("beyond_memory", "x", "broke the interface").await;
    assert_getter_refused("beyond_memory", "long", "broke the interface").await;
}

#[tokio::test]
async fn floods_tools() {
    let gateway = Gateway::start().await;
    let limits = "[limits]\nconcurrency = 1\ncpu_ms = 5000\nwall_ms = 40000\n";
    let agent = gateway.agent_with_tool("floods_tools", limits).await;
    for _ in 0..2 {
        let (answer, _) = tokio::join!(agent.ask(json!({"prompt": "hello"})), neighbour(&gateway));
        // The run goes on without these tools, and its trace says why.
        assert_eq!(answer.json()["status"], "completed", "{}", answer.text);
        let thread = json!(agent.thread(&answer.task_id()).await).to_string();
        assert!(thread.contains("floods-tools") && thread.contains("handed over"), "{thread}");
    }
    assert_idle_and_healthy(&gateway, "floods-tools").await;
}

/// Makes the guest recurse to a depth and send a request from there.
async fn dive(agent: &Client, depth: u64, url: &str) -> Value {
    let arguments = json!({"depth": depth, "url": url});
    let answer: Answer = agent.ask(json!({"prompt": format!("dive {arguments}")})).await;
    answer.report()["tools"][0].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_call_at_the_end_of_the_guests_stack_has_the_stack_that_it_needs() {
    let (gateway, web) = (Gateway::start().await, Web::serve_egress_targets().await);
    let rule = "[[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = PORT\n\
                networks = [\"127.0.0.0/8\"]\n[limits]\ntool_cpu_ms = 10000\n";
    let grants = rule.replace("PORT", &web.port.to_string());
    let agent = gateway.agent_with_tool("calls_host_at_depth", &grants).await;
    let url = format!("http://127.0.0.1:{}/open/hello", web.port);
    let (mut fits, mut crashes) = (0, 1 << 20);
    while crashes - fits > 1 {
        let depth = (fits + crashes) / 2;
        let tool = dive(&agent, depth, &url).await;
        if tool["is_error"] == true {
            let reason = tool["result"].as_str().unwrap();
            assert!(reason.contains("crashed (") || reason.contains("cut off"), "{reason}");
            crashes = depth;
        } else {
            assert_eq!(tool["result"], "200", "at {depth}");
            fits = depth;
        }
        // A success in between, because ten crashes in a row would open the circuit breaker.
        dive(&agent, 0, &url).await;
    }
    assert!(fits > 100, "{fits}");
    neighbour(&gateway).await;
}

#[tokio::test]
async fn of_what_a_call_logs_as_many_bytes_are_kept_as_are_granted() {
    let gateway = Gateway::start().await;
    for (granted, lines) in [(2_000, 2), (0, 0)] {
        let limits = format!("[limits]\nlog_bytes = {granted}\ncpu_ms = 5000\nwall_ms = 40000\n");
        let agent = gateway.agent_with_mapper("logs_flood", &limits).await;
        let answer = agent.ask(json!({})).await;
        assert_eq!(answer.report()["received"], "logged", "logging too much is no failure");
        let thread = agent.thread(&answer.task_id()).await;
        let logs = thread[0]["mapping"]["logs"].as_array().unwrap();
        assert_eq!(logs.len(), lines, "{granted}: {logs:?}");
        let bytes: usize = logs.iter().map(|line| line.as_str().unwrap().len()).sum();
        // The line that is cut ends with an ellipsis.
        assert!((granted..=granted + '…'.len_utf8()).contains(&bytes), "{granted}: {bytes}");
    }
}

#[tokio::test]
async fn memory_beyond_what_the_settings_allow_is_not_had_by_a_grant_of_it() {
    let setup = Setup::new().settings(|settings| settings.sandbox.memory_mib_max = 32);
    let gateway = setup.start().await;
    let limits = "[limits]\nconcurrency = 1\nmemory_mib = 128\ncpu_ms = 5000\nwall_ms = 40000\n";
    let agent = gateway.agent_with_mapper("eat_memory", limits).await;
    neighbour(&gateway).await;
    for _ in 0..2 {
        let call = agent.webhook("").json(&json!({}));
        let (answer, _) = tokio::join!(call.send(), neighbour(&gateway));
        assert_plugin_fault(&answer, 502, "eat-memory", "MiB of memory it is granted");
    }
    let plugins = &gateway.services.plugins;
    let binding = plugins.binding(gateway.tenant, &"eat-memory".parse().unwrap()).await.unwrap();
    let peak = binding.stats().snapshot().memory_bytes_peak;
    // The last growth, which is refused, may be counted.
    assert!((24 << 20..48 << 20).contains(&peak), "{peak}");
    assert_idle_and_healthy(&gateway, "eat-memory").await;
}

/// An endless response, one byte at a time.
async fn trickle() -> Body {
    let bytes = futures::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Some((Ok::<_, Infallible>("x"), ()))
    });
    Body::from_stream(bytes)
}

/// Makes a mapper fetch such a response, with this time limit for the call and, optionally, for the request.
async fn trickled(wall_ms: u32, timeout_ms: Option<u32>) -> Answer {
    let web = Web::serve(Router::new().fallback(get(trickle))).await;
    let gateway = Gateway::start().await;
    let grants = format!(
        "[[egress]]\nhost = \"127.0.0.1\"\nscheme = \"http\"\nport = {}\n\
         networks = [\"127.0.0.0/8\"]\n\
         [limits]\nconcurrency = 1\ncpu_ms = 5000\nwall_ms = {wall_ms}\n",
        web.port
    );
    let agent = gateway.agent_with_mapper("fetches_first", &grants).await;
    neighbour(&gateway).await;
    let url = format!("http://127.0.0.1:{}/", web.port);
    let call = agent.webhook("").json(&json!({"url": url, "timeout_ms": timeout_ms}));
    let started = Instant::now();
    let (answer, _) = tokio::join!(call.send(), neighbour(&gateway));
    assert!(started.elapsed() < HANG_THRESHOLD, "{:?}", started.elapsed());
    assert_eq!(gateway.stored_task_count().await, 2, "the neighbour's and nothing else");
    assert_idle_and_healthy(&gateway, "fetches-first").await;
    answer
}

#[tokio::test]
async fn an_answer_that_trickles_in_takes_the_calls_time_and_no_more() {
    let answer = trickled(1_000, None).await;
    assert_eq!(answer.status, 504, "{}", answer.text);
    let (fault, detail) = (answer.header("x-wardgate-fault").unwrap(), answer.detail());
    // The timeouts of the plugin and of its request expire at the same moment, so either may be reported.
    let ends = [
        ("guest", "took longer than the 1000 ms"),
        ("upstream", "did not answer in time"),
        ("upstream", "did not end in the time it had"),
    ];
    let is_said = ends.iter().any(|(subject, what)| fault == *subject && detail.contains(what));
    assert!(is_said, "{fault}: {detail}");
}

#[tokio::test]
async fn an_answer_that_trickles_in_is_given_up_when_the_plugin_says() {
    let answer = trickled(60_000, Some(300)).await;
    assert_eq!(answer.status, 504, "{}", answer.text);
    assert_eq!(answer.header("x-wardgate-fault"), Some("upstream"));
    let detail = answer.detail();
    let ends = ["did not answer in time", "did not end in the time it had"];
    assert!(ends.iter().any(|what| detail.contains(what)), "{detail}");
}

#[tokio::test]
async fn a_setting_that_is_granted_is_read_and_any_other_is_none() {
    let limits = "[limits]\ncpu_ms = 5000\nwall_ms = 40000\ntool_cpu_ms = 10000\n";
    let grants = format!("[settings]\ngreeting = \"hello\"\nnothing = \"\"\n{limits}");
    let gateway = Gateway::start().await;
    let agent = gateway.agent_with_tool("reads_settings", &grants).await;
    let read = async || {
        let names = json!({"names": ["greeting", "nothing", "Greeting", "farewell", ""]});
        let answer = agent.ask(json!({"prompt": format!("settings {names}")})).await;
        let called = answer.report()["tools"][0].clone();
        assert_eq!(called["is_error"], false, "{called}");
        called["result"].clone()
    };
    let reported = read().await;
    assert_eq!(reported["named"], json!(["hello", "", null, null, null]));
    assert_eq!(reported["all"], json!([["greeting", "hello"], ["nothing", ""]]));
    // After their removal from the grants, the next call does not see them.
    let grants = gateway.admin_request("PUT", "/plugins/reads-settings/grants");
    grants.text("application/toml", limits).expect(200).await;
    let reported = read().await;
    assert_eq!(reported["named"], json!([null, null, null, null, null]));
    assert_eq!(reported["all"], json!([]));
}
