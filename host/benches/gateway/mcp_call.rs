//! `mcp-call`: what a call of an MCP server's tool through a run takes beyond the same call sent directly, at 200 at a time,
//! and what runs that wait for a slow server cost others.
//!
//! The model is that of `agent-turn`. The time between its answer and the next request of the run contains what every
//! turn takes (assembling, recording, sending) and the call. The same call is sent directly by 200 clients, each after a
//! pause as long as the model's. Both are measured in turns, in one run. Then as many runs of another agent wait for a
//! server that does not answer, and the first agent is measured alone and beside them, in turns.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::routing::post;
use axum::{Json, Router};
use rand::RngExt as _;
use serde_json::{Value, json};
use wardgate::ids::AgentId;
use wardgate::settings::{ModelSettings, Settings};
use wardgate::tenants::{AgentDefinition, Installer, McpServerDefinition, Precondition};
use wardgate::tool::Tool;

use crate::agent_turn::{Gaps, RUNS, Script, THINKING_MS, serve_model};
use crate::bench_gateway::{BenchGateway, TELEGRAM, load_average, median, write};
use crate::load::load;

/// Number of turns.
const TURNS: usize = 3;

/// Serves an MCP server on a thread of its own, and returns its port. A call takes this long.
async fn serve_mcp(time: Duration) -> anyhow::Result<u16> {
    let (sender, port) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("mcp".to_owned()).spawn(move || -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            let _ = sender.send(listener.local_addr()?.port());
            let answer = async move |Json(body): Json<Value>| {
                if body.get("method").and_then(Value::as_str) == Some("tools/call") {
                    tokio::time::sleep(time).await;
                }
                Json(answer(&body))
            };
            Ok(axum::serve(listener, Router::new().route("/mcp", post(answer))).await?)
        })
    })?;
    port.await.context("the MCP server does not serve")
}

fn answer(body: &Value) -> Value {
    let result = match body.get("method").and_then(Value::as_str) {
        Some("server/discover") => json!({
            "resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 600_000,
            "cacheScope": "private", "capabilities": {"tools": {}},
        }),
        Some("tools/list") => json!({
            "resultType": "complete", "ttlMs": 600_000, "cacheScope": "private",
            "tools": [{"name": "echo", "description": "Repeats.", "inputSchema": {
                "type": "object", "properties": {"text": {"type": "string"}},
            }}],
        }),
        _ => json!({"resultType": "complete", "content": [{"type": "text", "text": "hello"}]}),
    };
    json!({"jsonrpc": "2.0", "id": body.get("id"), "result": result})
}

/// The tool, as a gateway knows it.
fn echo() -> anyhow::Result<Tool> {
    let listed = answer(&json!({"method": "tools/list"}));
    let tool = listed.pointer("/result/tools/0").context("the server has no tool")?;
    let text = |field: &str| tool.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Tool {
        name: text("name"),
        description: text("description"),
        input_schema: tool.get("inputSchema").cloned().unwrap_or_default(),
        output_schema: None,
        destructive: true,
        idempotent: false,
    })
}

/// Times of the same call sent directly, in milliseconds, by as many clients as there are runs.
async fn direct(port: u16, time: Duration) -> anyhow::Result<Gaps> {
    let http = wardgate::tls::http_client().build()?;
    let times = Arc::new(Mutex::new(Vec::new()));
    let until = Instant::now() + time;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..RUNS {
        let (http, times) = (http.clone(), Arc::clone(&times));
        clients.spawn(async move {
            let body = json!({
                "jsonrpc": "2.0", "id": 1, "method": "tools/call",
                "params": {"name": "echo", "arguments": {"text": "hello"}},
            });
            while Instant::now() < until {
                let thinking = rand::rng().random_range(THINKING_MS);
                tokio::time::sleep(Duration::from_millis(thinking)).await;
                let sent = Instant::now();
                let request = http.post(format!("http://127.0.0.1:{port}/mcp"));
                let request = request.header("content-type", "application/json");
                let answer = request.body(body.to_string()).send().await?;
                answer.bytes().await?;
                let took = sent.elapsed().as_secs_f64() * 1e3;
                times.lock().unwrap_or_else(PoisonError::into_inner).push(took);
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Gaps::of(&mut times))
}

/// The ports of two models and of two MCP servers: quick and slow.
struct Ports {
    models: [u16; 2],
    servers: [u16; 2],
}

/// A gateway whose agents use the quick model and server, and the slow ones.
async fn make(ports: &Ports) -> anyhow::Result<(BenchGateway, AgentId)> {
    let names = ["quick", "slow"];
    let models = names.iter().zip(ports.models).map(|(name, port)| {
        let model = json!({
            "kind": "openai-compatible", "model": "scripted",
            "base_url": format!("http://127.0.0.1:{port}/"),
        });
        Ok(((*name).to_owned(), serde_json::from_value::<ModelSettings>(model)?))
    });
    let models = models.collect::<anyhow::Result<Vec<_>>>()?;
    let change = |settings: &mut Settings| {
        settings.models.extend(models);
        settings.queue.runs_per_tenant_max = 2 * RUNS;
    };
    // A tenant has no more runs than it leaves places free.
    let mut bench = BenchGateway::make_with(5 * RUNS, change).await?;
    let store = bench.gateway.services.store.clone();
    let mut agents = Vec::new();
    for (name, port) in names.into_iter().zip(ports.servers) {
        let server = json!({"url": format!("http://127.0.0.1:{port}/mcp"), "seconds_max": 3600});
        let server: McpServerDefinition = serde_json::from_value(server)?;
        store.put_mcp_server(bench.tenant, &name.parse()?, &server, Installer::Operator).await?;
        // By the operator's word it only reads: the intent of another tool would be synced to disk first.
        let policy = json!({"policy": "allow", "only_reads": true, "digest": echo()?.digest()});
        let definition = json!({
            "name": name, "model": name, "mcp_servers": [{"server": name}],
            "tool_policies": {format!("{name}__echo"): policy},
        });
        let definition: AgentDefinition = serde_json::from_value(definition)?;
        let agent = AgentId::random();
        store.put_agent(bench.tenant, agent, &definition, Precondition::Absent).await?;
        agents.push(agent);
    }
    let [quick, slow] = agents[..] else { anyhow::bail!("two agents") };
    bench.agent = quick;
    Ok((bench, slow))
}

pub(crate) async fn run(round: Duration) -> anyhow::Result<()> {
    let script = Script::new("quick__echo", r#"{"text":"hello"}"#);
    let slow_script = Script::new("slow__echo", r#"{"text":"hello"}"#);
    let ports = Ports {
        models: [serve_model(script.clone()).await?, serve_model(slow_script).await?],
        servers: [serve_mcp(Duration::ZERO).await?, serve_mcp(Duration::from_secs(3600)).await?],
    };
    println!("\nmcp-call: {RUNS} at a time, in ms; load average {}", load_average());
    println!(
        "{:>12} {:>12} {:>8} {:>12} {:>12} {:>8}",
        "direct p50", "in run p50", "added", "alone p99", "beside p99", "ratio"
    );
    let (mut added, mut ratios, mut rows) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let sent = direct(ports.servers[0], round).await?;
        let (bench, slow) = make(&ports).await?;
        let serving = bench.serve().await?;
        let request: Arc<[u8]> = bench.request("", TELEGRAM).into();
        load(serving.address, Arc::clone(&request), RUNS, round).await?;
        let alone = script.take_gaps();
        // As many runs wait for the slow server from now on.
        let http = wardgate::tls::http_client().build()?;
        for _ in 0..RUNS {
            let url = format!("http://{}/?agent_id={slow}&asynchronous=true", serving.address);
            let request = http.post(url).header("x-api-key", bench.key.reveal());
            let request = request.header("content-type", "application/json").body(TELEGRAM);
            request.send().await?.error_for_status()?;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        load(serving.address, request, RUNS, round).await?;
        let beside = script.take_gaps();
        serving.stop().await?;
        let (more, ratio) = (alone.p50 - sent.p50, beside.p99 / alone.p99);
        println!(
            "{:>12.2} {:>12.2} {more:>8.2} {:>12.2} {:>12.2} {ratio:>8.2}",
            sent.p50, alone.p50, alone.p99, beside.p99
        );
        added.push(more);
        ratios.push(ratio);
        rows.push(json!({
            "direct_p50_ms": sent.p50, "direct_p99_ms": sent.p99, "calls": alone.turns,
            "in_run_p50_ms": alone.p50, "in_run_p99_ms": alone.p99,
            "beside_slow_p50_ms": beside.p50, "beside_slow_p99_ms": beside.p99,
        }));
    }
    println!("load average {}", load_average());
    let figures = json!({
        "at_a_time": RUNS, "added_p50_ms": median(&added), "p99_ratio_beside_slow": median(&ratios),
        "turns": rows, "load_average": load_average(),
    });
    write("mcp-call", &figures)
}
