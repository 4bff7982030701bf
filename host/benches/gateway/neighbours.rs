//! `neighbours`: how long a tenant waits for its mapping, and for its tools, while another tenant's plugins loop
//! without end.
//!
//! A hundred calls that compute until a limit stops them are always in flight, first as tools and then as getters
//! (short calls, as mappings are). Quarantine is switched off, since it would stop the plugin at once. The neighbour
//! sends requests one after the other, with a pause of two milliseconds after each response. It then calls a brief
//! tool in the same way, and after that a tool that computes for tens of milliseconds. Quiet and noisy turns
//! alternate.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use wardgate::ids::{AgentId, RequestId, TenantId};
use wardgate::sandbox::{Binding, Subject};

use crate::bench_gateway::{BenchGateway, TELEGRAM, load_average, median, write};
use crate::mapping::{encoded_spec, serve_ours};

/// Number of looping calls in flight.
const LOOPING: usize = 100;

/// Turns of each kind, and the pause between two requests of the neighbour.
const TURNS: usize = 5;
const PAUSE: Duration = Duration::from_millis(2);

/// The looping plugin's grants: enough concurrency that only the time limits of its calls stop it.
const GRANTS: &str = "[limits]\nconcurrency = 200\n";

/// The looping plugins: a tool and a getter.
const LOOPS: [(&str, &str); 2] = [
    ("loops-in-tool", include_str!("loops_in_tool.wat")),
    ("loops-in-getter", include_str!("loops_in_getter.wat")),
];

/// The neighbour's tool that computes for several ticks.
const COMPUTES: &str = include_str!("computes_in_tool.wat");

/// The other tenant's calls in a turn.
#[derive(Clone, Copy, PartialEq)]
enum Noise {
    Quiet,
    Tools,
    ShortCalls,
}

impl Noise {
    const ALL: [Self; 3] = [Self::Quiet, Self::Tools, Self::ShortCalls];

    fn name(self) -> &'static str {
        match self {
            Self::Quiet => "nothing",
            Self::Tools => "tools",
            Self::ShortCalls => "short calls",
        }
    }
}

pub(crate) async fn run(round: Duration) -> anyhow::Result<()> {
    let bench =
        BenchGateway::make_with(0, |settings| settings.sandbox.quarantine_after = u64::MAX).await?;
    let request: Arc<[u8]> =
        bench.request(&format!("&params_mapping={}", encoded_spec()), TELEGRAM).into();
    let address = serve_ours(&bench).await?;
    let other = TenantId::random();
    let services = &bench.gateway.services;
    services.store.create_tenant(other, &"loops".parse()?).await?;
    for (name, text) in LOOPS {
        let component = wat::parse_str(text)?;
        services.plugins.install(other, &name.parse()?, component, Some(GRANTS)).await?;
    }
    let [tool, getter] = LOOPS.map(|(name, _)| name);
    let tool = services.plugins.binding(other, &tool.parse()?).await?;
    let getter = services.plugins.binding(other, &getter.parse()?).await?;
    let brief = services.plugins.binding(bench.tenant, &"calculator".parse()?).await?;
    let (name, component) = ("computes-in-tool".parse()?, wat::parse_str(COMPUTES)?);
    services.plugins.install(bench.tenant, &name, component, None).await?;
    let long = services.plugins.binding(bench.tenant, &name).await?;
    let neighbour = Neighbour { address, request, tenant: bench.tenant, brief, long };
    neighbour.wait(Duration::from_millis(300)).await?;

    println!(
        "\nneighbours: p99 of a mapping over HTTP and of a brief tool, p50 of a tool that computes, us, \
         beside {LOOPING} looping calls; load average {}",
        load_average()
    );
    println!(
        "{:>6} {:>12} {:>9} {:>7} {:>9} {:>7} {:>9} {:>7}",
        "turn", "beside", "mapping", "ratio", "brief", "ratio", "long", "ratio"
    );
    let mut all: [Vec<Latencies>; 3] = Default::default();
    for turn in 1..=TURNS {
        for (noise, of_noise) in Noise::ALL.into_iter().zip(&mut all) {
            let loops = match noise {
                Noise::Quiet => JoinSet::new(),
                Noise::Tools => looping_calls(&tool, other, noise),
                Noise::ShortCalls => looping_calls(&getter, other, noise),
            };
            // Until all of them are in flight and those of the turn before have ended.
            let expected = loops.len() as u64;
            let patience = Instant::now();
            let under_way = || -> u64 {
                let plugins = [&tool, &getter].into_iter();
                plugins.map(|plugin| plugin.stats().snapshot().in_flight).sum()
            };
            while under_way() != expected {
                anyhow::ensure!(patience.elapsed() < Duration::from_secs(30), "they do not begin");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            of_noise.push(neighbour.wait(round).await?);
            drop(loops);
        }
        for (noise, of_noise) in Noise::ALL.into_iter().zip(&all) {
            let [quiet, ..] = &all;
            if let (Some(latencies), Some(quiet)) = (of_noise.last(), quiet.last()) {
                println!("{turn:>6} {}", latencies.row(noise, *quiet));
            }
        }
    }
    let medians = all.each_ref().map(|of_noise| Latencies::median_of(of_noise));
    let [quiet, ..] = medians;
    for (noise, latencies) in Noise::ALL.into_iter().zip(medians) {
        println!("{:>6} {}", "median", latencies.row(noise, quiet));
    }
    let figures = json!({
        "looping": LOOPING, "seconds_of_each_kind_per_turn": round.as_secs(), "load_average": load_average(),
        "us_by_turn": { "quiet": all[0], "beside_tools": all[1], "beside_short_calls": all[2] },
        "ratios": {
            "beside_tools": medians[1].ratio_to(quiet), "beside_short_calls": medians[2].ratio_to(quiet),
        },
    });
    write("neighbours", &figures)
}

/// The neighbour's waiting times, in microseconds.
#[derive(Clone, Copy, serde::Serialize)]
struct Latencies {
    mapping_p99: f64,
    brief_tool_p99: f64,
    long_tool_p50: f64,
}

impl Latencies {
    fn median_of(turns: &[Self]) -> Self {
        let of = |part: fn(&Self) -> f64| median(&turns.iter().map(part).collect::<Vec<_>>());
        Self {
            mapping_p99: of(|turn| turn.mapping_p99),
            brief_tool_p99: of(|turn| turn.brief_tool_p99),
            long_tool_p50: of(|turn| turn.long_tool_p50),
        }
    }

    fn ratio_to(self, quiet: Self) -> Self {
        Self {
            mapping_p99: self.mapping_p99 / quiet.mapping_p99,
            brief_tool_p99: self.brief_tool_p99 / quiet.brief_tool_p99,
            long_tool_p50: self.long_tool_p50 / quiet.long_tool_p50,
        }
    }

    fn row(self, noise: Noise, quiet: Self) -> String {
        let ratio = self.ratio_to(quiet);
        format!(
            "{:>12} {:>9.0} {:>7.2} {:>9.0} {:>7.2} {:>9.0} {:>7.2}",
            noise.name(),
            self.mapping_p99,
            ratio.mapping_p99,
            self.brief_tool_p99,
            ratio.brief_tool_p99,
            self.long_tool_p50,
            ratio.long_tool_p50,
        )
    }
}

/// Looping calls. Each starts again when it is stopped, until the set is dropped.
fn looping_calls(plugin: &Arc<Binding>, tenant: TenantId, noise: Noise) -> JoinSet<()> {
    let mut calls = JoinSet::new();
    for _ in 0..LOOPING {
        let plugin = Arc::clone(plugin);
        calls.spawn(async move {
            let agent = AgentId::random();
            loop {
                let subject = Subject::new(tenant, agent, RequestId::next());
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

/// The tenant that is measured, whose plugins do not loop.
struct Neighbour {
    address: SocketAddr,
    request: Arc<[u8]>,
    tenant: TenantId,
    brief: Arc<Binding>,
    long: Arc<Binding>,
}

impl Neighbour {
    /// Measures the waiting times of each kind of call, for `time` each.
    async fn wait(&self, time: Duration) -> anyhow::Result<Latencies> {
        let tool = |plugin: &Arc<Binding>, name, arguments| {
            let plugin = Arc::clone(plugin);
            call_tool(plugin, self.tenant, name, arguments, time, Handle::current())
        };
        let mapping = ask(self.address, Arc::clone(&self.request), time);
        let brief = tool(&self.brief, "calculate", r#"{"expression":"6 * 7"}"#);
        let long = tool(&self.long, "count", "{}");
        Ok(Latencies {
            mapping_p99: percentile(99, mapping).await?,
            brief_tool_p99: percentile(99, brief).await?,
            long_tool_p50: percentile(50, long).await?,
        })
    }
}

/// Measures on a thread of its own: the measurement must not wait for the gateway's threads.
async fn percentile(
    part: usize,
    waits: impl Future<Output = anyhow::Result<Vec<f64>>> + Send + 'static,
) -> anyhow::Result<f64> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("neighbour".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let latencies = runtime.map_err(anyhow::Error::from);
        let _ = sender.send(latencies.and_then(|runtime| runtime.block_on(waits)));
    })?;
    let mut latencies = receiver.await.context("the neighbour ended")??;
    latencies.sort_by(f64::total_cmp);
    latencies.get(latencies.len() * part / 100).copied().context("it has waited for nothing")
}

async fn ask(address: SocketAddr, request: Arc<[u8]>, time: Duration) -> anyhow::Result<Vec<f64>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (begun, mut latencies, mut buffer) = (Instant::now(), Vec::new(), vec![0; 16 << 10]);
    while begun.elapsed() < time {
        let sent = Instant::now();
        stream.write_all(&request).await?;
        let read = stream.read(&mut buffer).await?;
        let answer = buffer.get(..read).unwrap_or_default();
        anyhow::ensure!(answer.starts_with(b"HTTP/1.1 200"), "the server refused");
        latencies.push(sent.elapsed().as_secs_f64() * 1e6);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(latencies)
}

async fn call_tool(
    plugin: Arc<Binding>,
    tenant: TenantId,
    name: &'static str,
    arguments: &'static str,
    time: Duration,
    gateway: Handle,
) -> anyhow::Result<Vec<f64>> {
    let (begun, mut latencies) = (Instant::now(), Vec::new());
    while begun.elapsed() < time {
        let sent = Instant::now();
        let subject = Subject::new(tenant, AgentId::random(), RequestId::next());
        // On the gateway's runtime, as in production.
        let plugin = Arc::clone(&plugin);
        let called = gateway.spawn(async move {
            plugin.call_tool(subject, name.to_owned(), arguments.to_owned()).await
        });
        called.await?.value.map_err(|error| anyhow::anyhow!("{error:?}"))?;
        latencies.push(sent.elapsed().as_secs_f64() * 1e6);
        tokio::time::sleep(PAUSE).await;
    }
    Ok(latencies)
}
