//! `task-cost`: CPU time and bytes on disk for a whole task, from its acceptance to its end.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::time::Duration;

use serde_json::json;

use crate::bench_gateway::{BenchGateway, TELEGRAM, load_average, median, write};
use crate::load::{cpu_time, load};

/// Number of connections. Each waits for the end of its task before it sends the next.
const CONNECTIONS: usize = 64;

/// Number of turns.
const TURNS: usize = 5;

/// The rate of one turn, and its cost per task.
struct Cost {
    per_second: f64,
    cpu_micros: f64,
    disk_bytes: f64,
}

pub(crate) async fn run(round: Duration) -> anyhow::Result<()> {
    println!(
        "\ntask-cost: accept to finish, {CONNECTIONS} connections, {TURNS} turns of {round:?}"
    );
    println!("{:>10} {:>14} {:>14}", "tasks/s", "CPU us/task", "disk B/task");
    let mut costs = Vec::new();
    for _ in 0..TURNS {
        let cost = turn(round).await?;
        println!("{:>10.0} {:>14.0} {:>14.0}", cost.per_second, cost.cpu_micros, cost.disk_bytes);
        costs.push(cost);
    }
    let of = |part: fn(&Cost) -> f64| median(&costs.iter().map(part).collect::<Vec<_>>());
    let (per_second, cpu_micros, disk_bytes) =
        (of(|cost| cost.per_second), of(|cost| cost.cpu_micros), of(|cost| cost.disk_bytes));
    println!("{per_second:>10.0} {cpu_micros:>14.0} {disk_bytes:>14.0}   medians");
    write(
        "task-cost",
        &json!({
            "connections": CONNECTIONS,
            "payload_bytes": TELEGRAM.len(),
            "tasks_per_second": per_second,
            "cpu_micros_per_task": cpu_micros,
            "disk_bytes_per_task": disk_bytes,
            "load_average": load_average(),
        }),
    )
}

async fn turn(round: Duration) -> anyhow::Result<Cost> {
    let bench = BenchGateway::make(CONNECTIONS).await?;
    let request = bench.request("", TELEGRAM).into();
    let serving = bench.serve().await?;
    let before = cpu_time("self")?;
    let done = load(serving.address, request, CONNECTIONS, round).await?;
    let cpu = cpu_time("self")?.saturating_sub(before).saturating_sub(done.cpu);
    serving.stop().await?;
    // Moves the write-ahead log into the database file, whose size is measured.
    bench.gateway.services.store.close().await;
    let bytes = std::fs::metadata(bench.folder.path().join("wardgate.db"))?.len();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (tasks, bytes) = (done.answered as f64, bytes as f64);
    Ok(Cost {
        per_second: done.per_second,
        cpu_micros: cpu.as_secs_f64() * 1e6 / tasks,
        disk_bytes: bytes / tasks,
    })
}
