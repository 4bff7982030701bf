//! `many` and `ten-thousand`: a thousand, and ten thousand, different installed plugins.
//!
//! Each is a bundled plugin with a number in a custom section, so that each has its own digest and compiled code.
//! `many` uses the Slack plugin (120 KB of Rust); `ten-thousand` uses the mapper (52 KB), since each has to be
//! compiled once. They are installed into `target/bench/many-<N>`, which later runs reuse.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use futures::StreamExt as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use wardgate::clock::Clock;
use wardgate::gateway::DataFolder;
use wardgate::ids::{AgentId, PluginName, RequestId, TenantId};
use wardgate::plugins::{Plugins, bundled_component};
use wardgate::request::{IncomingRequest, Payload};
use wardgate::sandbox::{Binding, Mapped, Subject};
use wardgate::settings::Settings;

use crate::bench_gateway::{load_average, median, target, write};

/// The payload: an event from Slack, as in its documentation.
const EVENT: &str = r#"{"token":"x","team_id":"T1","type":"event_callback","event_id":"Ev1",
"event_time":1234567890,"event":{"type":"app_mention","user":"U061F7AUR","text":"<@U0LAN0Z89> is it everything?",
"ts":"1515449522.000016","channel":"C123ABC456","event_ts":"1515449522000016"}}"#;

/// Number of plugins of `many`.
const MANY: usize = 1_000;

/// Number of timed starts of a gateway.
const STARTS: usize = 5;

/// Alternating turns of each side.
const TURNS: usize = 7;

pub(crate) async fn run(round: Duration) -> anyhow::Result<()> {
    let folder = installed(MANY, "slack").await?;
    let empty = installed(0, "slack").await?;
    println!("\nmany: {MANY} different plugins of 120 KB; load average {}", load_average());
    let load_average = load_average();
    let starts = measure_starts(&folder.path, &empty.path, MANY)?;
    let calls = calls(&folder, round).await?;
    let figures = json!({
        "plugins": MANY, "load_average": load_average, "starts": starts, "calls": calls,
    });
    write("many", &figures)
}

/// Times starts, and the first call of each plugin, for ten thousand plugins.
pub(crate) async fn ten_thousand() -> anyhow::Result<()> {
    let many = 10_000;
    let folder = installed(many, "dot-mapper").await?;
    let empty = installed(0, "dot-mapper").await?;
    println!("\nten-thousand: {many} different plugins; load average {}", load_average());
    let starts = measure_starts(&folder.path, &empty.path, many)?;
    // Nothing is loaded yet: each plugin loads at its first call.
    let plugins = folder.open().await?;
    let caller = Caller::new(folder.tenant)?;
    let before = private_bytes(std::process::id())?;
    let begun = Instant::now();
    for number in 0..many {
        caller.call(&folder.plugin(&plugins, number).await?).await?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let grown = mib(private_bytes(std::process::id())?.saturating_sub(before));
    let each = seconds * 1e6 / f64::from(u32::try_from(many)?);
    println!(
        "first calls of all, one by one: {seconds:.2} s, {each:.0} us each; {grown:.1} MiB more"
    );
    let calls = json!({ "seconds": seconds, "microseconds_each": each, "private_mib": grown });
    write("ten-thousand", &json!({ "plugins": many, "starts": starts, "first_calls": calls }))
}

/// A data folder with installed plugins.
struct Folder {
    path: PathBuf,
    tenant: TenantId,
}

impl Folder {
    async fn open(&self) -> anyhow::Result<Plugins> {
        let data = DataFolder::open(&self.path, Clock::system()).await?;
        data.plugins(&Settings::of_defaults()?)
    }

    async fn plugin(&self, plugins: &Plugins, number: usize) -> anyhow::Result<Arc<Binding>> {
        Ok(plugins.binding(self.tenant, &name(number)?).await?)
    }
}

fn name(number: usize) -> anyhow::Result<PluginName> {
    Ok(format!("plugin-{number}").parse()?)
}

/// A bundled plugin with a unique custom section.
fn variant(of: &str, number: usize) -> anyhow::Result<Vec<u8>> {
    let shipped = bundled_component(&of.parse()?).context("a plugin that ships")?;
    let mut component = shipped.to_vec();
    let (section, text) = ("number", number.to_string());
    // A custom section: id, length, length of the name, name, content.
    component.extend([0, u8::try_from(1 + section.len() + text.len())?]);
    component.push(u8::try_from(section.len())?);
    component.extend(section.bytes().chain(text.bytes()));
    Ok(component)
}

/// A folder with `many` plugins, created unless an earlier run has created it.
async fn installed(many: usize, of: &str) -> anyhow::Result<Folder> {
    let path = target().join(format!("bench/many-{many}"));
    let whole = path.join("whole");
    if let Ok(tenant) = std::fs::read_to_string(&whole) {
        return Ok(Folder { path, tenant: tenant.parse()? });
    }
    if path.exists() {
        std::fs::remove_dir_all(&path)?;
    }
    let tenant = TenantId::random();
    let data = DataFolder::open(&path, Clock::system()).await?;
    data.store.create_tenant(tenant, &"many".parse()?).await?;
    let mut settings = Settings::of_defaults()?;
    settings.sandbox.compilations_max = 2;
    let plugins = data.plugins(&settings)?;
    let mut installing = futures::stream::iter(0..many)
        .map(|number| {
            let plugins = &plugins;
            async move {
                plugins.install(tenant, &name(number)?, variant(of, number)?, None).await?;
                anyhow::Ok(())
            }
        })
        .buffer_unordered(4);
    let mut done = 0;
    while let Some(one) = installing.next().await {
        one?;
        done += 1;
        if done % 100 == 0 {
            print!("\rinstalling {done} of {many}, once");
            std::io::stdout().flush()?;
        }
    }
    drop(installing);
    println!("\rinstalled {many} plugins in {}", path.display());
    std::fs::write(path.join("bench.key"), data.operator_key().reveal())?;
    data.store.close().await;
    std::fs::write(whole, tenant.to_string())?;
    Ok(Folder { path, tenant })
}

/// Starts the gateway program on both folders, alternating. Measures the time until all plugins are loaded, and the
/// private memory then.
fn measure_starts(full: &Path, empty: &Path, many: usize) -> anyhow::Result<serde_json::Value> {
    println!(
        "{:>6} {:>12} {:>14} {:>12} {:>14}",
        "start", "none: s", "private MiB", "all: s", "MiB more"
    );
    let (mut seconds, mut grown) = (Vec::new(), Vec::new());
    for turn in 1..=STARTS {
        let (none, base) = start(empty, 0)?;
        let (all, memory) = start(full, many)?;
        let more = mib(memory) - mib(base);
        println!("{turn:>6} {none:>12.3} {:>14.1} {all:>12.3} {more:>14.1}", mib(base));
        seconds.push(all);
        grown.push(more);
    }
    println!("median {:>42.3} {:>14.1}", median(&seconds), median(&grown));
    Ok(json!({ "seconds_until_loaded": seconds, "private_mib_more": grown }))
}

fn start(folder: &Path, many: usize) -> anyhow::Result<(f64, u64)> {
    let key = std::fs::read_to_string(folder.join("bench.key"))?;
    let begun = Instant::now();
    let mut gateway = Gateway::spawn(folder, many)?;
    let address = gateway.address()?;
    let bundled = wardgate::plugins::bundled().count();
    while loaded(&address, &key)? < many + bundled {
        anyhow::ensure!(begun.elapsed() < Duration::from_secs(60), "they are never loaded");
        std::thread::sleep(Duration::from_millis(5));
    }
    let seconds = begun.elapsed().as_secs_f64();
    std::thread::sleep(Duration::from_millis(500));
    Ok((seconds, private_bytes(gateway.0.id())?))
}

/// A `wardgate serve` process, killed on drop.
struct Gateway(Child);

impl Gateway {
    fn spawn(folder: &Path, preload: usize) -> anyhow::Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wardgate"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--log", "error", "--data"]).arg(folder);
        command.env("WARDGATE_PLUGINS__PRELOAD_MAX", preload.to_string());
        // Room for all of them and the bundled plugins.
        command.env("WARDGATE_SANDBOX__LOADED_MAX", (2 * MANY.max(preload)).to_string());
        Ok(Self(command.stdout(Stdio::piped()).spawn().context("wardgate serve")?))
    }

    fn address(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let stdout = self.0.stdout.take().context("its output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let line: serde_json::Value = serde_json::from_str(&line).context("its first line")?;
        Ok(line.get("listen").and_then(|at| at.as_str()).context("its address")?.to_owned())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The number of loaded components that the gateway at this address reports.
fn loaded(address: &str, key: &str) -> anyhow::Result<usize> {
    let mut stream = TcpStream::connect(address)?;
    let request = format!(
        "GET /metrics HTTP/1.1\r\nhost: bench\r\nx-api-key: {}\r\nconnection: close\r\n\r\n",
        key.trim()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let figure = answer.lines().find_map(|line| line.strip_prefix("wardgate_components_loaded "));
    Ok(figure.with_context(|| format!("no figure in {answer}"))?.trim().parse()?)
}

/// Private memory of a process, in bytes: memory that is not shared with another process and not backed by a file.
/// Clean mapped pages of compiled code belong to the page cache, which drops them when memory is short.
fn private_bytes(process: u32) -> anyhow::Result<u64> {
    let rollup = std::fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
    let private = rollup.lines().filter(|line| line.starts_with("Private_Dirty:"));
    let kibibytes = private.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    Ok(kibibytes.sum::<u64>() << 10)
}

#[expect(clippy::cast_precision_loss, reason = "memory of a process is far below 2^52 bytes")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The tenant, agent and request of all calls.
struct Caller {
    tenant: TenantId,
    agent: AgentId,
    request: Arc<IncomingRequest>,
}

impl Caller {
    fn new(tenant: TenantId) -> anyhow::Result<Self> {
        let body = Bytes::from_static(EVENT.as_bytes());
        let request = Arc::new(IncomingRequest {
            method: Method::POST,
            path: "/hooks/bench".to_owned(),
            query: String::new(),
            headers: HeaderMap::new(),
            body: body.clone(),
            payload: Payload::parse(body)?,
            unreadable: None,
        });
        Ok(Self { tenant, agent: AgentId::random(), request })
    }

    async fn call(&self, plugin: &Arc<Binding>) -> anyhow::Result<()> {
        let request = Some(Arc::clone(&self.request));
        let subject =
            Subject { request, ..Subject::new(self.tenant, self.agent, RequestId::next()) };
        match plugin.map_payload(subject, None).await.value {
            Ok(Mapped::Run { .. }) => Ok(()),
            other => anyhow::bail!("it mapped to {other:?}"),
        }
    }
}

/// Measures how much longer the first call of a plugin with cached compiled code takes than a warm call; and the rate
/// of calls to random plugins against the rate of calls to one plugin, alternating.
async fn calls(folder: &Folder, round: Duration) -> anyhow::Result<serde_json::Value> {
    let caller = Caller::new(folder.tenant)?;
    let plugins = folder.open().await?;
    let (mut first, mut warm) = (Vec::new(), Vec::new());
    for number in 0..MANY {
        let mut timed = Vec::new();
        for _ in 0..2 {
            let begun = Instant::now();
            caller.call(&folder.plugin(&plugins, number).await?).await?;
            timed.push(begun.elapsed().as_secs_f64() * 1e6);
        }
        first.extend(timed.first());
        warm.extend(timed.last());
    }
    let (over, first, warm) = (median(&first) - median(&warm), quantiles(&first), quantiles(&warm));
    println!(
        "first call of each from a warm code cache: {first:?} us (p50, p99); the second: {warm:?} us; \
         over warm {over:.0} us"
    );
    let mut bindings = Vec::new();
    for number in 0..MANY {
        bindings.push(folder.plugin(&plugins, number).await?);
    }
    println!("{:>6} {:>12} {:>12} {:>8}", "turn", "at random/s", "the same/s", "ratio");
    let (mut spread, mut same, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 1..=TURNS {
        let a = rate(&caller, &bindings, round).await?;
        let b = rate(&caller, bindings.get(..1).unwrap_or_default(), round).await?;
        println!("{turn:>6} {a:>12.0} {b:>12.0} {:>8.3}", a / b);
        spread.push(a);
        same.push(b);
        ratios.push(a / b);
    }
    let ratio = median(&ratios);
    println!("median {:>12.0} {:>12.0} {ratio:>8.3}", median(&spread), median(&same));
    Ok(json!({
        "first_call_us_p50_p99": first, "second_call_us_p50_p99": warm, "first_over_warm_us": over,
        "at_random_per_second": spread, "same_per_second": same, "ratios": ratios, "ratio": ratio,
    }))
}

/// Calls per second, one after the other, each to a random plugin.
async fn rate(caller: &Caller, among: &[Arc<Binding>], time: Duration) -> anyhow::Result<f64> {
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    let (begun, mut done) = (Instant::now(), 0_u32);
    while begun.elapsed() < time {
        // Reads the clock only once per hundred calls.
        for _ in 0..100 {
            let plugin = among.get(random.random_range(0..among.len())).context("a plugin")?;
            caller.call(plugin).await?;
        }
        done += 100;
    }
    Ok(f64::from(done) / begun.elapsed().as_secs_f64())
}

fn quantiles(values: &[f64]) -> [f64; 2] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at =
        |part: usize| sorted.get(sorted.len() * part / 100).copied().unwrap_or_default().round();
    [at(50), at(99)]
}
