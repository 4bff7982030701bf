//! `compile-bomb`: how long a tenant waits for an installation, and for a call, while ten other tenants install
//! components that the compiler cannot finish within its limits.
//!
//! Each of the ten installs one bomb after the other, and a new one whenever one is rejected, so that ten
//! compilations are always pending. The neighbour installs a component of a Rust plugin that was never installed
//! before, and calls a bundled plugin. Quiet and noisy turns alternate.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;
use wardgate::ids::{AgentId, PluginName, RequestId, TenantId};
use wardgate::plugins::Plugins;
use wardgate::sandbox::Subject;

use crate::bench_gateway::{BenchGateway, load_average, median, write};

/// Number of tenants that install bombs.
const HOSTILE: usize = 10;

/// Turns of each kind, quiet and noisy.
const TURNS: usize = 3;

/// Installations and calls of the neighbour in a turn.
const INSTALLATIONS: usize = 10;
const CALLS: usize = 500;

/// The neighbour's waiting times in one or more turns.
#[derive(Debug, Default)]
struct Latencies {
    installations_ms: Vec<f64>,
    calls_us: Vec<f64>,
}

pub(crate) async fn run() -> anyhow::Result<()> {
    let bench = BenchGateway::make(0).await?;
    let plugins = &bench.gateway.services.plugins;
    println!(
        "\ncompile-bomb: an installation, ms, and a call, us, beside {HOSTILE} tenants' bombs; load average {}",
        load_average()
    );
    let header = ["install p50", "max", "call p50", "p99"];
    println!(
        "{:>6} {:>8} {:>12} {:>9} {:>9} {:>9}",
        "turn", "beside", header[0], header[1], header[2], header[3]
    );
    let (mut quiet, mut noisy) = (Latencies::default(), Latencies::default());
    for turn in 1..=TURNS {
        row(turn, "nothing", &measure(plugins, bench.tenant).await?, &mut quiet);
        let mut bombs = JoinSet::new();
        for number in 0..HOSTILE {
            bombs.spawn(bomb(plugins.clone(), turn * HOSTILE + number));
        }
        // Until the first bombs have moved from the slots for quick compilations to those for long ones.
        tokio::time::sleep(Duration::from_secs(5)).await;
        row(turn, "bombs", &measure(plugins, bench.tenant).await?, &mut noisy);
        bombs.shutdown().await;
    }
    let ratio = |of: fn(&Latencies) -> &Vec<f64>| median(of(&noisy)) / median(of(&quiet));
    let (installations, calls) = (ratio(|w| &w.installations_ms), ratio(|w| &w.calls_us));
    println!("{:>6} {:>8} {installations:>11.1}x {:>9} {calls:>8.1}x", "median", "ratio", "");
    let figures = json!({
        "hostile_tenants": HOSTILE, "load_average": load_average(),
        "quiet": { "installations_ms": quiet.installations_ms, "call_p50_us": median(&quiet.calls_us) },
        "beside_bombs": { "installations_ms": noisy.installations_ms, "call_p50_us": median(&noisy.calls_us) },
        "ratios": { "installation": installations, "call": calls },
    });
    write("compile-bomb", &figures)
}

fn row(turn: usize, beside: &str, latencies: &Latencies, all: &mut Latencies) {
    let max = latencies.installations_ms.iter().copied().fold(0.0, f64::max);
    let mut calls = latencies.calls_us.clone();
    calls.sort_by(f64::total_cmp);
    let p99 = calls.get(calls.len() * 99 / 100).copied().unwrap_or_default();
    println!(
        "{turn:>6} {beside:>8} {:>12.0} {max:>9.0} {:>9.0} {p99:>9.0}",
        median(&latencies.installations_ms),
        median(&latencies.calls_us)
    );
    all.installations_ms.extend(&latencies.installations_ms);
    all.calls_us.extend(&latencies.calls_us);
}

/// Measures the neighbour's installations and calls.
async fn measure(plugins: &Plugins, tenant: TenantId) -> anyhow::Result<Latencies> {
    let calculator: PluginName = "calculator".parse()?;
    let mut latencies = Latencies::default();
    for _ in 0..INSTALLATIONS {
        let component = unique_variant(plugins.component(tenant, &calculator).await?);
        let begun = Instant::now();
        plugins.install(tenant, &"own".parse()?, component, None).await?;
        latencies.installations_ms.push(begun.elapsed().as_secs_f64() * 1_000.0);
    }
    for _ in 0..CALLS {
        let begun = Instant::now();
        let binding = plugins.binding(tenant, &calculator).await?;
        let subject = Subject::new(tenant, AgentId::random(), RequestId::next());
        let arguments = r#"{"expression":"6*7"}"#.to_owned();
        let called = binding.call_tool(subject, "calculate".to_owned(), arguments).await;
        anyhow::ensure!(called.value.is_ok(), "{:?}", called.value);
        latencies.calls_us.push(begun.elapsed().as_secs_f64() * 1_000_000.0);
    }
    Ok(latencies)
}

/// The same component with a random custom section, so that there is no compiled code of it.
fn unique_variant(mut component: Vec<u8>) -> Vec<u8> {
    let section = [b"\x03own".as_slice(), AgentId::random().to_string().as_bytes()].concat();
    component.extend([0, section.len() as u8]);
    component.extend(section);
    component
}

/// Installs one bomb after the other for a tenant of its own.
async fn bomb(plugins: Plugins, number: usize) -> anyhow::Result<()> {
    let (tenant, name) = (TenantId::random(), "bomb".parse()?);
    for round in 0.. {
        let component = loops(4_000 + number * 10 + round)?;
        // Rejected after a while, as intended.
        let _ = plugins.install(tenant, &name, component, None).await;
    }
    Ok(())
}

/// A function with `count` locals that are live through `count` nested loops: the compiler's work is the product.
fn loops(count: usize) -> anyhow::Result<Vec<u8>> {
    let locals = "i32 ".repeat(count);
    let (begin, end) = ("loop ".repeat(count), "end ".repeat(count));
    let used: String = (0..count).map(|local| format!("local.get {local} drop ")).collect();
    let function = format!("(local {locals}) {begin} {used} br 0 {end}");
    Ok(wat::parse_str(format!("(component (core module (func {function})))"))?)
}
