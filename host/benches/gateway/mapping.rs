//! `mapping`: the gateway's intake (body, credentials, mapping plugin in a fresh sandbox, resolved parameters as the
//! response) against a plain axum handler that does the same natively.
#![expect(clippy::print_stdout, reason = "a benchmark prints its table")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use bytes::Bytes as RawBytes;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use wardgate::http::serve::{ServeLimits, serve};
use wardgate::ids::{PluginName, RequestId};
use wardgate::request::{IncomingRequest, Payload};
use wardgate::sandbox::{Phases, Subject};

use crate::bench_gateway::{BenchGateway, TELEGRAM, load_average, median, write};
use crate::load::requests_per_second;

/// The documented mapping of a Telegram message.
const SPEC: &str =
    r#"{"task_id":"message.chat.id","prompt":"message.text","user_email":"message.from.email"}"#;

/// Connections of the load generator.
const CONNECTIONS: usize = 64;

/// Alternating turns of each side.
const TURNS: usize = 7;

pub(crate) async fn run(round: Duration) -> anyhow::Result<()> {
    let bench = BenchGateway::make(0).await?;
    let request: Arc<[u8]> =
        bench.request(&format!("&params_mapping={}", encoded_spec()), TELEGRAM).into();
    let ours = serve_ours(&bench).await?;
    let native = serve_native(&bench).await?;
    let one = Duration::from_millis(300);
    requests_per_second(ours, Arc::clone(&request), CONNECTIONS, one).await?;
    requests_per_second(native, Arc::clone(&request), CONNECTIONS, one).await?;

    println!("\nmapping: HTTP requests/s, {CONNECTIONS} connections, {TURNS} turns of {round:?}");
    println!("{:>6} {:>12} {:>12} {:>8}", "turn", "sandboxed", "native", "ratio");
    let (mut sandboxed, mut natively, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 1..=TURNS {
        let a = requests_per_second(ours, Arc::clone(&request), CONNECTIONS, round).await?;
        let b = requests_per_second(native, Arc::clone(&request), CONNECTIONS, round).await?;
        println!("{turn:>6} {a:>12.0} {b:>12.0} {:>8.3}", a / b);
        sandboxed.push(a);
        natively.push(b);
        ratios.push(a / b);
    }
    let ratio = median(&ratios);
    println!("median {:>12.0} {:>12.0} {ratio:>8.3}", median(&sandboxed), median(&natively));
    let phases = phases(&bench).await?;
    println!(
        "one mapping, nanoseconds (median): store {}, instantiate {}, call {}, drop {}",
        phases.store, phases.instantiate, phases.call, phases.drop
    );
    write(
        "mapping",
        &json!({
            "connections": CONNECTIONS,
            "seconds_per_turn": round.as_secs(),
            "sandboxed_per_second": sandboxed,
            "native_per_second": natively,
            "ratios": ratios,
            "ratio": ratio,
            "nanoseconds": {
                "store": phases.store,
                "instantiate": phases.instantiate,
                "call": phases.call,
                "drop": phases.drop,
            },
            "load_average": load_average(),
        }),
    )
}

/// The mapping, percent-encoded for a URL.
pub(crate) fn encoded_spec() -> String {
    SPEC.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Serves the gateway's intake and returns its address.
pub(crate) async fn serve_ours(bench: &BenchGateway) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let router = wardgate::http::intake_router(&bench.gateway.services);
    let limits = ServeLimits {
        head_bytes_max: 64 << 10,
        head_timeout: Duration::from_secs(10),
        connections_max: 4096,
        connections_per_address_max: 4096,
        drain: Duration::from_secs(1),
    };
    tokio::spawn(serve(listener, router, limits, std::future::pending()));
    Ok(address)
}

/// Serves a handler as written without a gateway: axum, serde_json and a map of keys.
async fn serve_native(bench: &BenchGateway) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let keys = HashMap::from([(bench.key.reveal().to_owned(), bench.agent.to_string())]);
    let router = Router::new().route("/", post(native)).with_state(Arc::new(keys));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn native(
    State(keys): State<Arc<HashMap<String, String>>>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<axum::Json<Value>, StatusCode> {
    let key = headers.get("x-api-key").and_then(|key| key.to_str().ok());
    let agent = query.get("agent_id").ok_or(StatusCode::BAD_REQUEST)?;
    if keys.get(key.ok_or(StatusCode::UNAUTHORIZED)?) != Some(agent) {
        return Err(StatusCode::FORBIDDEN);
    }
    let payload: Value = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let spec = query.get("params_mapping").ok_or(StatusCode::BAD_REQUEST)?;
    let spec: HashMap<String, String> =
        serde_json::from_str(spec).map_err(|_| StatusCode::BAD_REQUEST)?;
    let mut params = HashMap::new();
    for (target, path) in spec {
        let pointer = format!("/{}", path.replace('.', "/"));
        let value = match payload.pointer(&pointer) {
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
            _ => continue,
        };
        params.insert(target, value);
    }
    Ok(axum::Json(json!({
        "agent_id": agent,
        "task_id": params.get("task_id"),
        "prompt": params.get("prompt"),
        "user_email": params.get("user_email"),
        "payload_bytes": body.len(),
    })))
}

/// The phases of a mapping without other load, each the median of 20,000 calls.
async fn phases(bench: &BenchGateway) -> anyhow::Result<Phases> {
    let name: PluginName = "dot-mapper".parse()?;
    let binding = bench.gateway.services.plugins.binding(bench.tenant, &name).await?;
    let body = RawBytes::from_static(TELEGRAM.as_bytes());
    let request = Arc::new(IncomingRequest {
        method: axum::http::Method::POST,
        path: "/".to_owned(),
        query: String::new(),
        headers: HeaderMap::new(),
        body: body.clone(),
        payload: Payload::parse(body)?,
        unreadable: None,
    });
    let spec = SPEC.to_owned();
    let mut all = Vec::new();
    for _ in 0..20_000 {
        let subject = Subject {
            request: Some(Arc::clone(&request)),
            ..Subject::new(bench.tenant, bench.agent, RequestId::next())
        };
        let measured = binding.measure_mapping(subject, &spec).await;
        all.push(measured.map_err(|error| anyhow::anyhow!("{error}"))?);
    }
    let median_of = |phase: fn(&Phases) -> u64| {
        let mut values: Vec<u64> = all.iter().map(phase).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    Ok(Phases {
        store: median_of(|phases| phases.store),
        instantiate: median_of(|phases| phases.instantiate),
        call: median_of(|phases| phases.call),
        drop: median_of(|phases| phases.drop),
    })
}
