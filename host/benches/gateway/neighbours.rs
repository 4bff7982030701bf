//! `neighbours`: how long a tenant waits for its mapping while plugins of another tenant loop without end.
//!
//! A hundred calls of a plugin that computes for as long as it is let are under way all the time, first as
//! tools and then as getters (short calls, as mappings are), with quarantine switched off, which would end it at once. The neighbour sends
//! a request every two milliseconds and waits for each answer; quiet and noisy come in turns.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use wardgate::ids::{AgentId, RequestId, TenantId};
use wardgate::sandbox::{Binding, Subject};

use crate::bed::{Bed, TELEGRAM, load_average, median, write};
use crate::mapping::{encoded_spec, serve_ours};

/// Calls that loop, at every moment.
const LOOPING: usize = 100;

/// Turns of each kind, and the pause between two requests of the neighbour.
const TURNS: usize = 5;
const PAUSE: Duration = Duration::from_millis(2);

/// What the looping plugin may use: so much that only the limits of its kind of call end it.
const GRANTS: &str = "[limits]\nconcurrency = 200\n";

/// What loops: a tool, and a getter.
const LOOPS: [(&str, &str); 2] = [
    ("loops-in-tool", include_str!("loops_in_tool.wat")),
    ("loops-in-getter", include_str!("loops_in_getter.wat")),
];

/// What a turn is like.
#[derive(Clone, Copy, PartialEq)]
enum Noise {
    Quiet,
    Tools,
    ShortCalls,
}

pub(crate) async fn run(round: Duration) -> anyhow::Result<()> {
    let bed = Bed::make_with(0, |settings| settings.sandbox.quarantine_after = u64::MAX).await?;
    let request: Arc<[u8]> =
        bed.request(&format!("&params_mapping={}", encoded_spec()), TELEGRAM).into();
    let address = serve_ours(&bed).await?;
    let other = TenantId::random();
    let handles = &bed.gateway.handles;
    handles.store.create_tenant(other, &"loops".parse()?).await?;
    for (name, text) in LOOPS {
        let component = wat::parse_str(text)?;
        handles.plugins.install(other, &name.parse()?, component, Some(GRANTS)).await?;
    }
    let [tool, getter] = LOOPS.map(|(name, _)| name);
    let tool = handles.plugins.binding(other, &tool.parse()?).await?;
    let getter = handles.plugins.binding(other, &getter.parse()?).await?;
    latencies(address, &request, Duration::from_millis(300)).await?;

    println!(
        "\nneighbours: a mapping over HTTP beside {LOOPING} looping calls; load average {}",
        load_average()
    );
    println!(
        "{:>6} {:>10} {:>10} {:>10} {:>8} {:>10} {:>8}",
        "turn", "quiet p50", "p99 us", "tools p99", "ratio", "short p99", "ratio"
    );
    let (mut quiet, mut tools, mut shorts) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 1..=TURNS {
        let mut of_turn = Vec::new();
        for noise in [Noise::Quiet, Noise::Tools, Noise::ShortCalls] {
            let loops = match noise {
                Noise::Quiet => JoinSet::new(),
                Noise::Tools => looping_calls(&tool, other, noise),
                Noise::ShortCalls => looping_calls(&getter, other, noise),
            };
            // Until all of them are under way, and those of before are over.
            let expected = loops.len() as u64;
            let patience = Instant::now();
            let under_way = || -> u64 {
                let plugins = [&tool, &getter].into_iter();
                plugins.map(|plugin| plugin.account().statement().in_flight).sum()
            };
            while under_way() != expected {
                anyhow::ensure!(patience.elapsed() < Duration::from_secs(30), "they do not begin");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            of_turn.push(latencies(address, &request, round).await?);
            drop(loops);
        }
        let [q, t, m] = of_turn.as_slice() else { anyhow::bail!("three kinds of turns") };
        println!(
            "{turn:>6} {:>10.0} {:>10.0} {:>10.0} {:>8.2} {:>10.0} {:>8.2}",
            q.p50,
            q.p99,
            t.p99,
            t.p99 / q.p99,
            m.p99,
            m.p99 / q.p99
        );
        quiet.push(q.p99);
        tools.push(t.p99);
        shorts.push(m.p99);
    }
    let ratio = |noisy: &[f64]| median(noisy) / median(&quiet);
    let (of_tools, of_shorts) = (ratio(&tools), ratio(&shorts));
    println!(
        "medians of p99: quiet {:.0} us, tools {:.0} us (ratio {of_tools:.2}), short calls {:.0} us (ratio {of_shorts:.2})",
        median(&quiet),
        median(&tools),
        median(&shorts)
    );
    let figures = json!({
        "looping": LOOPING, "seconds_per_turn": round.as_secs(), "load_average": load_average(),
        "quiet_p99_us": quiet, "beside_tools_p99_us": tools, "beside_short_calls_p99_us": shorts,
        "ratio_tools": of_tools, "ratio_short_calls": of_shorts,
    });
    write("neighbours", &figures)
}

/// Calls that loop, each begun again when it was stopped, until the set is dropped.
fn looping_calls(plugin: &Arc<Binding>, tenant: TenantId, noise: Noise) -> JoinSet<()> {
    let mut calls = JoinSet::new();
    for _ in 0..LOOPING {
        let plugin = Arc::clone(plugin);
        calls.spawn(async move {
            let agent = AgentId::random();
            loop {
                let subject = Subject::of(tenant, agent, RequestId::next());
                if noise == Noise::Tools {
                    let _ = plugin.call_tool(subject, "loop".to_owned(), "{}".to_owned()).await;
                } else {
                    let _ = plugin.get_value(subject, "a".to_owned()).await;
                }
            }
        });
    }
    calls
}

/// What one connection waited, in microseconds.
struct Waited {
    p50: f64,
    p99: f64,
}

async fn latencies(
    address: SocketAddr,
    request: &Arc<[u8]>,
    time: Duration,
) -> anyhow::Result<Waited> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let request = Arc::clone(request);
    // A thread of its own: what it measures must not wait for what it measures.
    std::thread::Builder::new().name("neighbour".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let waited = runtime.map_err(anyhow::Error::from);
        let _ =
            sender.send(waited.and_then(|runtime| runtime.block_on(ask(address, &request, time))));
    })?;
    let mut waited = receiver.await.context("the neighbour ended")??;
    waited.sort_by(f64::total_cmp);
    let at = |part: usize| waited.get(waited.len() * part / 100).copied().unwrap_or_default();
    Ok(Waited { p50: at(50), p99: at(99) })
}

async fn ask(address: SocketAddr, request: &[u8], time: Duration) -> anyhow::Result<Vec<f64>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (begun, mut waited, mut buffer) = (Instant::now(), Vec::new(), vec![0; 16 << 10]);
    while begun.elapsed() < time {
        let sent = Instant::now();
        stream.write_all(request).await?;
        let read = stream.read(&mut buffer).await?;
        let answer = buffer.get(..read).unwrap_or_default();
        anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200"), "the server refused");
        waited.push(sent.elapsed().as_secs_f64() * 1e6);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(waited)
}
