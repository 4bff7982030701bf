//! The hostile tenants: they repeat prepared requests, on one thread for all of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::wire::Connection;

/// Pause after a refusal.
const PAUSE: Duration = Duration::from_millis(20);

/// Maximum bytes that all of them together send in a turn, so that the disk does not fill up.
const SENT_BYTES_MAX: u64 = 1 << 30;

/// A request that one tenant repeats over `connections` connections, each of which waits for its response.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) from: [u8; 4],
    pub(super) address: SocketAddr,
    pub(super) head: Bytes,
    pub(super) body: Bytes,
    pub(super) connections: usize,
}

/// Counts of requests. Those that were begun and neither answered nor refused were in flight at the end.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(super) struct RequestCounts {
    pub(super) begun: u64,
    pub(super) answered: u64,
    pub(super) refused: u64,
}

impl<'a> std::iter::Sum<&'a Self> for RequestCounts {
    fn sum<I: Iterator<Item = &'a Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, counts| Self {
            begun: sum.begun + counts.begun,
            answered: sum.answered + counts.answered,
            refused: sum.refused + counts.refused,
        })
    }
}

/// Running hostile tenants.
pub(super) struct Hostile {
    stop: oneshot::Sender<()>,
    counts: oneshot::Receiver<anyhow::Result<RequestCounts>>,
}

impl Hostile {
    /// Closes all connections and returns the counts.
    pub(super) async fn end(self) -> anyhow::Result<RequestCounts> {
        drop(self.stop);
        self.counts.await.context("the hostile tenants ended")?
    }
}

/// Starts these loads.
pub(super) fn begin(loads: Vec<Load>) -> anyhow::Result<Hostile> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (sender, counts) = oneshot::channel();
    std::thread::Builder::new().name("hostile".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(anyhow::Error::from);
        let _ = sender.send(runtime.map(|runtime| runtime.block_on(work(loads, stopped))));
    })?;
    Ok(Hostile { stop, counts })
}

#[derive(Default)]
struct Counts {
    begun: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    bytes: AtomicU64,
}

async fn work(loads: Vec<Load>, stopped: oneshot::Receiver<()>) -> RequestCounts {
    let (counts, mut clients) = (Arc::<Counts>::default(), JoinSet::new());
    for load in loads {
        for _ in 0..load.connections {
            clients.spawn(client(load.clone(), Arc::clone(&counts)));
        }
    }
    let _ = stopped.await;
    clients.shutdown().await;
    let Counts { begun, answered, refused, .. } = &*counts;
    RequestCounts {
        begun: begun.load(Relaxed),
        answered: answered.load(Relaxed),
        refused: refused.load(Relaxed),
    }
}

async fn client(load: Load, counts: Arc<Counts>) {
    let mut connection = Connection::new(load.from, load.address);
    while counts.bytes.fetch_add(load.body.len() as u64, Relaxed) < SENT_BYTES_MAX {
        counts.begun.fetch_add(1, Relaxed);
        match connection.exchange(&load.head, &load.body).await {
            Ok(200) => {
                counts.answered.fetch_add(1, Relaxed);
            }
            Ok(_) | Err(_) => {
                counts.refused.fetch_add(1, Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
