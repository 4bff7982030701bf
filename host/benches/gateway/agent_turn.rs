//! `agent-turn`: how long the gateway takes between two turns of a model, at 200 concurrent runs, and how many runs of two
//! turns and one tool it does in a second.
//!
//! A scripted model streams a call of `calculate`, and then an answer. Its server, on a thread of its own, notes when it
//! has sent an answer and when the next request of the same run arrives: in between, the gateway assembles the answer,
//! records the turn, calls the tool, records its result, and sends the conversation. In the first part the model thinks
//! for 150 to 450 ms, as models do, so that 200 runs are spread over time; then for 300 ms each, so that the turns of all
//! 200 end at once and wait for each other. In the last part it answers at once. Raw accepts, of the same request by a
//! gateway that runs nothing, are measured in turns with that part.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::post;
use rand::RngExt as _;
use serde_json::json;
use wardgate::ids::AgentId;
use wardgate::settings::{ModelSettings, Settings};
use wardgate::tenants::{AgentDefinition, Precondition};

use crate::bench_gateway::{BenchGateway, TELEGRAM, load_average, median, write};
use crate::load::load;

/// Runs at a time in the first part.
pub(crate) const RUNS: usize = 200;

/// Connections in the second part.
const CONNECTIONS: usize = 64;

/// How long the model thinks in the first part, in milliseconds.
pub(crate) const THINKING_MS: std::ops::Range<u64> = 150..450;
/// How long it thinks if the turns of all runs are to end at once.
const THINKING_AT_ONCE_MS: std::ops::Range<u64> = 300..301;

/// Number of turns of the second part.
const TURNS: usize = 3;

/// The scripted model.
#[derive(Clone)]
pub(crate) struct Script {
    /// The tool that it calls, and the arguments.
    call: (&'static str, &'static str),
    thinking_ms: Arc<Mutex<std::ops::Range<u64>>>,
    /// When the first answer of each run was sent, by the mark around its payload.
    answered: Arc<Mutex<HashMap<String, Instant>>>,
    /// The times between the turns of a run, in milliseconds.
    gaps: Arc<Mutex<Vec<f64>>>,
}

impl Script {
    /// A model that calls this tool and thinks as models do.
    pub(crate) fn new(tool: &'static str, arguments: &'static str) -> Self {
        let thinking_ms = Arc::new(Mutex::new(THINKING_MS));
        Self {
            call: (tool, arguments),
            thinking_ms,
            answered: Arc::default(),
            gaps: Arc::default(),
        }
    }

    fn call(&self) -> String {
        let (name, arguments) = self.call;
        let function = json!({"name": name, "arguments": arguments});
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"role\":\"assistant\",\"tool_calls\":[{{\"index\":0,\
             \"id\":\"call_1\",\"type\":\"function\",\"function\":{function}}}]}}}}]}}\n\n\
             data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"tool_calls\"}}]}}\n\ndata: [DONE]\n\n"
        )
    }

    /// Takes the times between turns.
    pub(crate) fn take_gaps(&self) -> Gaps {
        let mut gaps =
            std::mem::take(&mut *self.gaps.lock().unwrap_or_else(PoisonError::into_inner));
        Gaps::of(&mut gaps)
    }
}

const ANSWER: &str = concat!(
    r#"data: {"choices":[{"delta":{"role":"assistant","content":"It is "}}]}"#,
    "\n\n",
    r#"data: {"choices":[{"delta":{"content":"42."}}]}"#,
    "\n\n",
    r#"data: {"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
    "\n\ndata: [DONE]\n\n"
);

async fn complete(State(script): State<Script>, body: String) -> impl IntoResponse {
    let arrived = Instant::now();
    let mark = body.split_once("[payload ").and_then(|(_, rest)| rest.split_once(']'));
    let mark = mark.map(|(mark, _)| mark.to_owned()).unwrap_or_default();
    let before = script.answered.lock().unwrap_or_else(PoisonError::into_inner).remove(&mark);
    if let Some(before) = before {
        let gap = arrived.duration_since(before).as_secs_f64() * 1e3;
        script.gaps.lock().unwrap_or_else(PoisonError::into_inner).push(gap);
    }
    let thinking = script.thinking_ms.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if !thinking.is_empty() {
        let thinking = rand::rng().random_range(thinking);
        tokio::time::sleep(Duration::from_millis(thinking)).await;
    }
    let answer = match before {
        Some(_) => ANSWER.to_owned(),
        None => {
            let now = Instant::now();
            script.answered.lock().unwrap_or_else(PoisonError::into_inner).insert(mark, now);
            script.call()
        }
    };
    ([("content-type", "text/event-stream")], answer)
}

/// Serves the model on a thread of its own, and returns its port.
pub(crate) async fn serve_model(script: Script) -> anyhow::Result<u16> {
    let (sender, port) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("model".to_owned()).spawn(move || -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            let _ = sender.send(listener.local_addr()?.port());
            let router =
                Router::new().route("/chat/completions", post(complete)).with_state(script);
            Ok(axum::serve(listener, router).await?)
        })
    })?;
    port.await.context("the model does not serve")
}

/// A gateway whose agent uses the scripted model and may calculate.
async fn make(runs_max: usize, port: u16) -> anyhow::Result<BenchGateway> {
    let model = json!({
        "kind": "openai-compatible", "model": "scripted", "base_url": format!("http://127.0.0.1:{port}/"),
    });
    let model: ModelSettings = serde_json::from_value(model)?;
    let change = |settings: &mut Settings| {
        settings.models.insert("scripted".to_owned(), model);
        settings.queue.runs_per_tenant_max = runs_max.max(1);
    };
    let mut bench = BenchGateway::make_with(runs_max, change).await?;
    let definition = json!({"name": "turns", "model": "scripted", "tools": ["calculator"]});
    let definition: AgentDefinition = serde_json::from_value(definition)?;
    bench.agent = AgentId::random();
    let store = &bench.gateway.services.store;
    store.put_agent(bench.tenant, bench.agent, &definition, Precondition::Absent).await?;
    Ok(bench)
}

/// The times between two turns, in milliseconds.
pub(crate) struct Gaps {
    pub(crate) turns: usize,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Gaps {
    pub(crate) fn of(times: &mut [f64]) -> Self {
        times.sort_by(f64::total_cmp);
        let percentile = |of: usize| times.get(times.len() * of / 100).copied().unwrap_or_default();
        Self { turns: times.len(), p50: percentile(50), p99: percentile(99) }
    }
}

impl std::fmt::Display for Gaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { turns, p50, p99 } = self;
        write!(f, "p50 {p50:.2} ms, p99 {p99:.2} ms of {turns}")
    }
}

/// Measures the times between turns while the model thinks for as long as this.
async fn gaps(
    script: &Script,
    port: u16,
    thinking_ms: std::ops::Range<u64>,
    round: Duration,
) -> anyhow::Result<Gaps> {
    *script.thinking_ms.lock().unwrap_or_else(PoisonError::into_inner) = thinking_ms;
    let bench = make(RUNS, port).await?;
    let serving = bench.serve().await?;
    load(serving.address, bench.request("", TELEGRAM).into(), RUNS, round).await?;
    serving.stop().await?;
    Ok(script.take_gaps())
}

pub(crate) async fn run(round: Duration) -> anyhow::Result<()> {
    let script = Script::new("calculate", r#"{"expression":"6*7"}"#);
    let port = serve_model(script.clone()).await?;
    let spread = gaps(&script, port, THINKING_MS, round).await?;
    println!(
        "\nagent-turn: {RUNS} runs at a time; between two turns of a run, spread: {spread}; load average {}",
        load_average()
    );
    let at_once = gaps(&script, port, THINKING_AT_ONCE_MS, round).await?;
    println!("the turns of all runs end at once: {at_once}; load average {}", load_average());

    *script.thinking_ms.lock().unwrap_or_else(PoisonError::into_inner) = 0..0;
    println!("{:>10} {:>10} {:>8}", "runs/s", "accepts/s", "ratio");
    let (mut runs, mut accepts) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let bench = make(CONNECTIONS, port).await?;
        let serving = bench.serve().await?;
        let request = bench.request("", TELEGRAM).into();
        let done = load(serving.address, request, CONNECTIONS, round).await?.per_second;
        serving.stop().await?;
        let bench = make(0, port).await?;
        let serving = bench.serve().await?;
        let request = bench.request("&asynchronous=true", TELEGRAM).into();
        let raw = load(serving.address, request, CONNECTIONS, round).await?.per_second;
        serving.stop().await?;
        println!("{done:>10.0} {raw:>10.0} {:>8.3}", done / raw);
        runs.push(done);
        accepts.push(raw);
    }
    write(
        "agent-turn",
        &json!({
            "runs": RUNS, "turns": spread.turns, "gap_p50_ms": spread.p50, "gap_p99_ms": spread.p99,
            "at_once_p50_ms": at_once.p50, "at_once_p99_ms": at_once.p99,
            "runs_per_second": median(&runs), "accepts_per_second": median(&accepts),
            "load_average": load_average(),
        }),
    )
}
