//! The hostile tenants: prepared requests over and over again, from one thread for all of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::wire::Connection;

/// After a refusal.
const PAUSE: Duration = Duration::from_millis(20);

/// What all of them together send in a turn at most, in bytes: a disk has an end.
const SENT_BYTES_MAX: u64 = 1 << 30;

/// A request that one tenant sends over so many connections, each waiting for its answer.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) from: [u8; 4],
    pub(super) address: SocketAddr,
    pub(super) head: Bytes,
    pub(super) body: Bytes,
    pub(super) connections: usize,
}

/// What came of it. What was begun and is neither answered nor refused was under way at the end.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(super) struct Did {
    pub(super) begun: u64,
    pub(super) answered: u64,
    pub(super) refused: u64,
}

impl<'a> std::iter::Sum<&'a Self> for Did {
    fn sum<I: Iterator<Item = &'a Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, did| Self {
            begun: sum.begun + did.begun,
            answered: sum.answered + did.answered,
            refused: sum.refused + did.refused,
        })
    }
}

/// Hostile tenants at work, until they are told to end.
pub(super) struct Hostile {
    stop: oneshot::Sender<()>,
    did: oneshot::Receiver<anyhow::Result<Did>>,
}

impl Hostile {
    /// Hangs up every connection, and gives what came of them.
    pub(super) async fn end(self) -> anyhow::Result<Did> {
        drop(self.stop);
        self.did.await.context("the hostile tenants ended")?
    }
}

/// Begins with these.
pub(super) fn begin(loads: Vec<Load>) -> anyhow::Result<Hostile> {
    let (stop, stopped) = oneshot::channel::<()>();
    let (sender, did) = oneshot::channel();
    std::thread::Builder::new().name("hostile".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(anyhow::Error::from);
        let _ = sender.send(runtime.map(|runtime| runtime.block_on(work(loads, stopped))));
    })?;
    Ok(Hostile { stop, did })
}

#[derive(Default)]
struct Counts {
    begun: AtomicU64,
    answered: AtomicU64,
    refused: AtomicU64,
    bytes: AtomicU64,
}

async fn work(loads: Vec<Load>, stopped: oneshot::Receiver<()>) -> Did {
    let (counts, mut clients) = (Arc::<Counts>::default(), JoinSet::new());
    for load in loads {
        for _ in 0..load.connections {
            clients.spawn(client(load.clone(), Arc::clone(&counts)));
        }
    }
    let _ = stopped.await;
    clients.shutdown().await;
    let Counts { begun, answered, refused, .. } = &*counts;
    Did {
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
