//! The honest tenants: one request of each kind at a time, each timed to the end of its response.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::HONEST;
use super::wire::Connection;

/// Pause between a response and the next request of the same kind.
const PAUSE: Duration = Duration::from_millis(5);

/// Timeout of a request. A request that times out counts as refused.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A kind of request: its address, and a function that creates a request.
#[derive(Clone)]
pub(super) struct RequestKind {
    pub(super) address: SocketAddr,
    pub(super) request: Arc<dyn Fn() -> Vec<u8> + Send + Sync>,
}

/// The waiting times of one kind of request in one turn.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    /// Waiting times in milliseconds, sorted.
    pub(super) times: Vec<f64>,
    /// Number of requests without a response of status 200.
    pub(super) refused: usize,
}

impl Latencies {
    /// The median, in milliseconds.
    pub(super) fn p50(&self) -> f64 {
        self.percentile(50)
    }

    /// The 99th percentile, in milliseconds.
    pub(super) fn p99(&self) -> f64 {
        self.percentile(99)
    }

    fn percentile(&self, part: usize) -> f64 {
        self.times.get(self.times.len() * part / 100).copied().unwrap_or_default()
    }
}

/// Sends requests of each kind for `time`, on a thread of its own: the measurement must not wait for the gateway's
/// threads.
pub(super) async fn wait(
    kinds: Vec<RequestKind>,
    time: Duration,
) -> anyhow::Result<Vec<Latencies>> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("honest".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let kinds = kinds.into_iter().map(|kind| ask(kind, time));
        let latencies = runtime.map(|runtime| runtime.block_on(futures::future::join_all(kinds)));
        let _ = sender.send(latencies);
    })?;
    Ok(receiver.await.context("the honest tenants ended")??)
}

async fn ask(kind: RequestKind, time: Duration) -> Latencies {
    let (mut connection, mut latencies) =
        (Connection::new(HONEST, kind.address), Latencies::default());
    let begun = Instant::now();
    while begun.elapsed() < time {
        let request = (kind.request)();
        let sent = Instant::now();
        let answered =
            tokio::time::timeout(REQUEST_TIMEOUT, connection.exchange(&request, b"")).await;
        latencies.times.push(sent.elapsed().as_secs_f64() * 1e3);
        latencies.refused += usize::from(!matches!(answered, Ok(Ok(200))));
        tokio::time::sleep(PAUSE).await;
    }
    latencies.times.sort_by(f64::total_cmp);
    latencies
}
