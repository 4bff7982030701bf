//! `languages`: what it costs to compile, load and call the project that `wardgate plugin new` creates, in Rust,
//! JavaScript and Python.
//!
//! The components are the ones that the test `plugin_new` has built, from the same example in each language.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::http::{HeaderMap, HeaderValue, Method};
use bytes::Bytes;
use serde_json::json;
use wardgate::clock::Clock;
use wardgate::gateway::DataFolder;
use wardgate::ids::{AgentId, PluginName, RequestId, TenantId};
use wardgate::request::{IncomingRequest, Payload};
use wardgate::sandbox::{Binding, Mapped, Subject};
use wardgate::settings::Settings;

use crate::bench_gateway::{load_average, median, target, write};

/// The path of each component that the test builds, relative to the target folder.
const COMPONENTS: [(&str, &str); 3] = [
    ("rust", "tmp/plugin-new/rust/target/wasm32-wasip2/release/order_desk.wasm"),
    ("js", "tmp/plugin-new/js/order-desk.wasm"),
    ("python", "tmp/plugin-new/python/order-desk.wasm"),
];

/// The payload that the example maps.
const MESSAGE: &str = r#"{"message":{"text":"hello","chat":{"id":7}}}"#;

/// Number of starts after which the first call is timed.
const STARTS: usize = 5;

pub(crate) async fn run(round: Duration) -> anyhow::Result<()> {
    println!("\nlanguages: the example of `plugin new`; load average {}", load_average());
    println!(
        "{:>8} {:>9} {:>11} {:>14} {:>10} {:>10} {:>12}",
        "", "size MB", "compile ms", "first call ms", "p50 us", "p99 us", "memory MiB"
    );
    let mut figures = serde_json::Map::new();
    for (language, below) in COMPONENTS {
        let path = target().join(below);
        let component = std::fs::read(&path).with_context(|| {
            let path = path.display();
            format!("{path}; `cargo test -p promises --test it plugin_new` builds it")
        })?;
        figures.insert(language.to_owned(), measure(language, component, round).await?);
    }
    figures.insert("load_average".to_owned(), load_average().into());
    write("languages", &figures.into())
}

async fn measure(
    language: &str,
    component: Vec<u8>,
    round: Duration,
) -> anyhow::Result<serde_json::Value> {
    let folder = tempfile::tempdir_in(target())?;
    let (tenant, name): (_, PluginName) = (TenantId::random(), language.parse()?);
    let (size, settings) = (component.len(), Settings::of_defaults()?);
    let data = DataFolder::open(folder.path(), Clock::system()).await?;
    data.store.create_tenant(tenant, &"bench".parse()?).await?;
    let begun = Instant::now();
    data.plugins(&settings)?.install(tenant, &name, component, None).await?;
    let compiled = begun.elapsed().as_secs_f64() * 1e3;
    // As after a start: compiled code is cached and nothing is loaded.
    let mut first = Vec::new();
    for _ in 0..STARTS {
        let plugins = data.plugins(&settings)?;
        let begun = Instant::now();
        map(&plugins.binding(tenant, &name).await?, tenant).await?;
        first.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let plugins = data.plugins(&settings)?;
    let plugin = plugins.binding(tenant, &name).await?;
    let (begun, mut took, mut memory) = (Instant::now(), Vec::new(), 0);
    while begun.elapsed() < round {
        let call = Instant::now();
        memory = map(&plugin, tenant).await?;
        took.push(call.elapsed().as_secs_f64() * 1e6);
    }
    took.sort_by(f64::total_cmp);
    let at = |part: usize| took.get(took.len() * part / 100).copied().unwrap_or_default();
    let first = median(&first);
    println!(
        "{language:>8} {:>9.1} {compiled:>11.0} {first:>14.2} {:>10.1} {:>10.1} {:>12.1}",
        f64::from(u32::try_from(size)?) / 1e6,
        at(50),
        at(99),
        f64::from(u32::try_from(memory)?) / f64::from(1 << 20)
    );
    Ok(json!({
        "component_bytes": size, "install_ms": compiled, "first_call_after_a_start_ms": first,
        "call_p50_us": at(50), "call_p99_us": at(99), "memory_bytes": memory, "calls": took.len(),
    }))
}

/// Maps the message once and returns the memory of the call, in bytes.
async fn map(plugin: &Arc<Binding>, tenant: TenantId) -> anyhow::Result<u64> {
    let body = Bytes::from_static(MESSAGE.as_bytes());
    let mut headers = HeaderMap::new();
    headers.insert("x-delivery-id", HeaderValue::from_static("d-1"));
    let request = Arc::new(IncomingRequest {
        method: Method::POST,
        path: "/hooks/chat".to_owned(),
        query: String::new(),
        headers,
        body: body.clone(),
        payload: Payload::parse(body)?,
        unreadable: None,
    });
    let subject = Subject {
        request: Some(request),
        ..Subject::new(tenant, AgentId::random(), RequestId::next())
    };
    let called = plugin.map_payload(subject, None).await;
    match called.value {
        Ok(Mapped::Run { .. }) => Ok(called.run.cost.memory_bytes),
        other => anyhow::bail!("it mapped to {other:?}"),
    }
}
