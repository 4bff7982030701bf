//! `polls`: how long a trigger takes without polling, while 500 callers each poll once a second, and at the moment
//! when 500 polls arrive together.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{broadcast, oneshot};
use wardgate::ids::TaskId;

use crate::bench_gateway::{BenchGateway, TELEGRAM, load_average, median, write};

/// Number of callers that poll.
const POLLERS: usize = 500;

/// Turns of each kind of polling.
const TURNS: usize = 3;

/// Pause between two triggers, so that the triggers themselves are not a load.
const PAUSE: Duration = Duration::from_millis(5);

/// How the callers poll.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Meanwhile {
    Nothing,
    EverySecond,
    AllAtOnce,
}

pub(crate) async fn run(round: Duration) -> anyhow::Result<()> {
    println!(
        "\npolls: milliseconds that a trigger takes, {TURNS} turns of {round:?}; medians of turns"
    );
    println!("{:>28} {:>8} {:>8} {:>8}", "meanwhile", "p50", "p99", "triggers");
    let states = [
        ("nobody polls", Meanwhile::Nothing),
        ("500 poll, each every second", Meanwhile::EverySecond),
        ("500 polls at that moment", Meanwhile::AllAtOnce),
    ];
    let mut turns: Vec<Vec<Vec<f64>>> = vec![Vec::new(); states.len()];
    for _ in 0..TURNS {
        for ((_, meanwhile), turns) in states.iter().zip(&mut turns) {
            turns.push(turn(*meanwhile, round).await?);
        }
    }
    let mut rows = Vec::new();
    for ((name, _), turns) in states.iter().zip(&turns) {
        let of = |share: f64| {
            median(&turns.iter().map(|times| percentile(times, share)).collect::<Vec<_>>())
        };
        let count: usize = turns.iter().map(Vec::len).sum();
        println!("{name:>28} {:>8.2} {:>8.2} {count:>8}", of(0.5), of(0.99));
        rows.push(
            json!({"meanwhile": name, "p50_ms": of(0.5), "p99_ms": of(0.99), "triggers": count}),
        );
    }
    write("polls", &json!({ "rows": rows, "load_average": load_average() }))
}

/// Measures one turn: the times of its triggers, in milliseconds.
async fn turn(meanwhile: Meanwhile, round: Duration) -> anyhow::Result<Vec<f64>> {
    let bench = BenchGateway::make(0).await?;
    let serving = bench.serve().await?;
    let address = serving.address;
    let trigger = bench.request("&asynchronous=true", TELEGRAM);
    // The load generator has a thread of its own.
    let (sender, receiver) = oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let measured = runtime
            .map_err(anyhow::Error::from)
            .and_then(|runtime| runtime.block_on(measure(address, &trigger, meanwhile, round)));
        let _ = sender.send(measured);
    });
    let measured = receiver.await.context("the load generator ended")?;
    serving.stop().await?;
    measured
}

async fn measure(
    address: SocketAddr,
    trigger: &[u8],
    meanwhile: Meanwhile,
    round: Duration,
) -> anyhow::Result<Vec<f64>> {
    let mut caller = connect(address).await?;
    exchange(&mut caller, trigger).await?;
    let (now, _) = broadcast::channel::<()>(4);
    let pollers = if meanwhile == Meanwhile::Nothing { 0 } else { POLLERS };
    let mut polling = tokio::task::JoinSet::new();
    for number in 0..pollers {
        polling.spawn(poll(connect(address).await?, meanwhile, number, now.subscribe()));
    }
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed() < round {
        if meanwhile == Meanwhile::AllAtOnce {
            // Until the polls of the round before are answered.
            tokio::time::sleep(PAUSE * 40).await;
            now.send(()).context("nobody polls")?;
            // Lets the pollers send before the trigger.
            tokio::task::yield_now().await;
        } else {
            tokio::time::sleep(PAUSE).await;
        }
        let sent = Instant::now();
        exchange(&mut caller, trigger).await?;
        times.push(sent.elapsed().as_secs_f64() * 1e3);
    }
    drop(now);
    polling.abort_all();
    Ok(times)
}

async fn poll(
    mut stream: TcpStream,
    meanwhile: Meanwhile,
    number: usize,
    mut now: broadcast::Receiver<()>,
) -> anyhow::Result<()> {
    let id = TaskId::random();
    let request = format!("GET /api/task_status?task_id={id} HTTP/1.1\r\nhost: bench\r\n\r\n");
    if meanwhile == Meanwhile::EverySecond {
        // Spread over the second, as are callers that started at different times.
        tokio::time::sleep(Duration::from_millis(number as u64 * 1_000 / POLLERS as u64)).await;
    }
    loop {
        match meanwhile {
            Meanwhile::AllAtOnce => {
                if let Err(broadcast::error::RecvError::Closed) = now.recv().await {
                    return Ok(());
                }
            }
            Meanwhile::EverySecond | Meanwhile::Nothing => {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        exchange(&mut stream, request.as_bytes()).await?;
    }
}

async fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sends a request and reads its response, which is short and arrives in one piece.
async fn exchange(stream: &mut TcpStream, request: &[u8]) -> anyhow::Result<()> {
    stream.write_all(request).await?;
    let mut buffer = [0; 4_096];
    let read = stream.read(&mut buffer).await?;
    let answer = buffer.get(..read).unwrap_or_default();
    anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(answer));
    Ok(())
}

fn percentile(times: &[f64], share: f64) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list of thousands"
    )]
    let place = ((sorted.len() as f64 - 1.0) * share).round().max(0.0) as usize;
    sorted.get(place).copied().unwrap_or_default()
}
