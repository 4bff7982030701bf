//! The honest tenants: one request of each kind at a time, each timed to the end of its answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::HONEST;
use super::wire::Connection;

/// Between an answer and the next request of its kind.
const PAUSE: Duration = Duration::from_millis(5);

/// How long an answer is waited for. Whoever waits longer is refused.
const PATIENCE: Duration = Duration::from_secs(20);

/// A kind of request: where it is sent, and one of its kind whenever it is asked for.
#[derive(Clone)]
pub(super) struct Door {
    pub(super) address: SocketAddr,
    pub(super) request: Arc<dyn Fn() -> Vec<u8> + Send + Sync>,
}

/// What requests of a kind waited in one turn.
#[derive(Debug, Default)]
pub(super) struct Waited {
    /// In milliseconds, the shortest first.
    pub(super) times: Vec<f64>,
    /// How many of them were not answered with 200.
    pub(super) refused: usize,
}

impl Waited {
    /// The median, in milliseconds.
    pub(super) fn p50(&self) -> f64 {
        self.percentile(50)
    }

    /// What one in a hundred waited longer than, in milliseconds.
    pub(super) fn p99(&self) -> f64 {
        self.percentile(99)
    }

    fn percentile(&self, part: usize) -> f64 {
        self.times.get(self.times.len() * part / 100).copied().unwrap_or_default()
    }
}

/// Sends requests of each kind for so long. On a thread of its own: what measures must not wait for what it
/// measures.
pub(super) async fn wait(doors: Vec<Door>, time: Duration) -> anyhow::Result<Vec<Waited>> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("honest".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let kinds = doors.into_iter().map(|door| ask(door, time));
        let waited = runtime.map(|runtime| runtime.block_on(futures::future::join_all(kinds)));
        let _ = sender.send(waited);
    })?;
    Ok(receiver.await.context("the honest tenants ended")??)
}

async fn ask(door: Door, time: Duration) -> Waited {
    let (mut connection, mut waited) = (Connection::new(HONEST, door.address), Waited::default());
    let begun = Instant::now();
    while begun.elapsed() < time {
        let request = (door.request)();
        let sent = Instant::now();
        let answered = tokio::time::timeout(PATIENCE, connection.exchange(&request, b"")).await;
        waited.times.push(sent.elapsed().as_secs_f64() * 1e3);
        waited.refused += usize::from(!matches!(answered, Ok(Ok(200))));
        tokio::time::sleep(PAUSE).await;
    }
    waited.times.sort_by(f64::total_cmp);
    waited
}
