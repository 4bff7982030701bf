//! `accept`: asynchronous `POST /`, stored durably before the response, against the same rows written into the same
//! kind of store by as many producers without HTTP.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use wardgate::ids::TaskId;
use wardgate::store::Store;
use wardgate::tasks::{Input, NewTask, StoredRequest, Surface, User};

use crate::bench_gateway::{BenchGateway, TELEGRAM, load_average, median, write};
use crate::load::requests_per_second;

/// Number of connections, and of producers without HTTP.
const CONNECTIONS: [usize; 4] = [1, 16, 64, 256];

/// Alternating turns of each side.
const TURNS: usize = 5;

pub(crate) async fn run(round: Duration) -> anyhow::Result<()> {
    println!("\naccept: durably accepted/s, {TURNS} turns of {round:?}; medians");
    println!(
        "{:>12} {:>12} {:>12} {:>8} {:>18} {:>8}",
        "connections", "HTTP", "raw store", "ratio", "HTTP, runs too", "ratio"
    );
    let mut rows = Vec::new();
    for connections in CONNECTIONS {
        let (mut http, mut raw, mut running) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..TURNS {
            // Each turn has a fresh store, so that no turn starts with the rows of earlier ones.
            http.push(over_http(0, connections, round).await?);
            raw.push(into_store(connections, round).await?);
            running.push(over_http(64, connections, round).await?);
        }
        let ratio = |of: &[f64]| {
            median(&of.iter().zip(&raw).map(|(http, raw)| http / raw).collect::<Vec<_>>())
        };
        println!(
            "{connections:>12} {:>12.0} {:>12.0} {:>8.3} {:>18.0} {:>8.3}",
            median(&http),
            median(&raw),
            ratio(&http),
            median(&running),
            ratio(&running),
        );
        rows.push(json!({
            "connections": connections,
            "http_per_second": http,
            "raw_per_second": raw,
            "ratio": ratio(&http),
            "http_with_runs_per_second": running,
            "ratio_with_runs": ratio(&running),
        }));
    }
    write("accept", &json!({ "rows": rows, "load_average": load_average() }))
}

/// Tasks per second through the gateway. With `runs_max` 0, tasks are accepted and not run. Otherwise, the same
/// process runs them meanwhile, which takes two more commits for each.
async fn over_http(runs_max: usize, connections: usize, round: Duration) -> anyhow::Result<f64> {
    let bench = BenchGateway::make(runs_max).await?;
    let request = bench.request("&asynchronous=true", TELEGRAM).into();
    let serving = bench.serve().await?;
    let accepted = requests_per_second(serving.address, request, connections, round).await;
    serving.stop().await?;
    accepted
}

/// Tasks per second written directly into the store: the same rows, the same group commit.
async fn into_store(producers: usize, round: Duration) -> anyhow::Result<f64> {
    let bench = BenchGateway::make(0).await?;
    let store = bench.gateway.services.store.clone();
    let (accepted, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..producers {
        let task = new_task(&bench);
        running.spawn(produce(store.clone(), task, Arc::clone(&accepted), Arc::clone(&stop)));
    }
    tokio::time::sleep(round / 10).await;
    let (before, begun) = (accepted.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(round).await;
    let done = accepted.load(Ordering::Relaxed) - before;
    let seconds = begun.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    while let Some(producer) = running.join_next().await {
        producer??;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of seconds are far below 2^52")]
    Ok(done as f64 / seconds)
}

async fn produce(
    store: Store,
    task: NewTask,
    accepted: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        store.accept(NewTask { id: TaskId::random(), ..task.clone() }).await?;
        accepted.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn new_task(bench: &BenchGateway) -> NewTask {
    NewTask {
        id: TaskId::random(),
        tenant: bench.tenant,
        agent: bench.agent,
        thread: None,
        thread_surface: Surface::Api,
        source: "webhook",
        input: Input { prompt: None, payload: TELEGRAM.to_owned(), user: User::default() },
        mapping: None,
        idempotency: None,
        request: StoredRequest {
            channel: None,
            head: r#"{"method":"POST","path":"/","query":"","headers":[]}"#.to_owned(),
            body: TELEGRAM.into(),
        },
        deliver: false,
        sealed_tokens: None,
    }
}
