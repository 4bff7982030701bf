//! The writer's queue. Every tenant has flows of its own, and the writer takes from all of them in turn: the
//! operations of one tenant delay another tenant by no more than the batch in progress.
//!
//! A batch is bounded in number and in bytes, since a commit takes as long as it has bytes to write. Large operations
//! get batches of their own, at most every second one, so that small operations overtake them. A flow is bounded in
//! bytes too: a caller that would exceed the bound waits for room, as do the other callers of the same flow, but no
//! other caller.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::ids::TenantId;

/// The maximum number of operations in a batch. More would not make the sync measurably cheaper per operation, and
/// would make the first one wait for the last.
pub(super) const BATCH_OPS_MAX: usize = 256;

/// The maximum bytes of a batch: some 20 ms of writing on a slow disk. Only a single operation that is larger exceeds
/// it, alone in its batch.
pub(super) const BATCH_BYTES_MAX: usize = 1 << 20;

/// The maximum bytes of a batch of large operations: a small one that arrives meanwhile waits for it. Long texts come
/// in chunks that fit.
pub(super) const BATCH_BYTES_LARGE_MAX: usize = 128 << 10;

/// An operation of at most this many bytes is small. Nearly all webhooks are.
pub(super) const SMALL_BYTES_MAX: usize = 64 << 10;

/// The maximum bytes that one flow holds, including those being committed. The writer works sequentially, so a longer
/// queue would not finish anything sooner.
pub(super) const FLOW_BYTES_MAX: usize = 16 << 20;

/// The bytes that an operation counts as besides its texts.
const OP_BYTES: usize = 1 << 10;

/// The bytes that a flow may write in one turn. Flows with larger operations save up for them over several turns.
const TURN_BYTES_SMALL: usize = 16 << 10;
const TURN_BYTES_LARGE: usize = 256 << 10;

/// Operations that wait in the same line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Flow {
    /// Operations that belong to no tenant: leases, deliveries, operators.
    Gateway,
    /// The requests of a tenant's callers and managers.
    Requests(TenantId),
    /// The ends of a tenant's runs. They wait behind no request of their tenant: each one occupies a worker that
    /// other tenants' tasks could use.
    Runs(TenantId),
}

impl Flow {
    /// The tenant, if the flow belongs to one.
    pub(super) fn tenant(self) -> Option<TenantId> {
        match self {
            Self::Gateway => None,
            Self::Requests(tenant) | Self::Runs(tenant) => Some(tenant),
        }
    }
}

/// The queue was closed, or the writer is gone.
#[derive(Debug)]
pub(super) struct Closed;

/// Creates a queue: the end of the senders and the end of the writer.
pub(super) fn queue<T>() -> (Sender<T>, Receiver<T>) {
    let state = State {
        small: DeficitRoundRobin::new(TURN_BYTES_SMALL, BATCH_BYTES_MAX),
        large: DeficitRoundRobin::new(TURN_BYTES_LARGE, BATCH_BYTES_LARGE_MAX),
        semaphores: KeyedSemaphores::new(FLOW_BYTES_MAX),
        is_large_next: false,
        is_closed: false,
    };
    let shared = Arc::new(Shared { state: Mutex::new(state), arrived: Notify::new() });
    (Sender(Arc::clone(&shared)), Receiver { shared, served: Vec::new(), bytes: 0 })
}

/// The end that accepts operations. Dropping it closes the queue.
pub(super) struct Sender<T>(Arc<Shared<T>>);

/// The writer's end, which returns batches.
pub(super) struct Receiver<T> {
    shared: Arc<Shared<T>>,
    /// The room that the batch in progress occupies in its flows.
    served: Vec<(Flow, OwnedSemaphorePermit)>,
    /// The bytes of the batch under way.
    bytes: usize,
}

/// A single lock, since choosing the next operation requires all flows. It is held to move operations, never to run
/// them.
struct Shared<T> {
    state: Mutex<State<T>>,
    arrived: Notify,
}

struct State<T> {
    small: DeficitRoundRobin<T>,
    large: DeficitRoundRobin<T>,
    /// The bytes that each flow has left.
    semaphores: KeyedSemaphores<Flow>,
    is_large_next: bool,
    is_closed: bool,
}

/// A waiting operation.
struct Entry<T> {
    op: T,
    bytes: usize,
    permit: OwnedSemaphorePermit,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.lock().close();
        self.arrived.notify_one();
    }
}

impl<T> Sender<T> {
    /// Puts an operation with texts of `bytes` bytes into a flow, once the flow has room for it.
    pub(super) async fn send(&self, op: T, flow: Flow, bytes: usize) -> Result<(), Closed> {
        let bytes = bytes.saturating_add(OP_BYTES);
        // An operation larger than a flow waits until it has the flow for itself.
        let taken = u32::try_from(bytes.min(FLOW_BYTES_MAX)).unwrap_or(u32::MAX);
        let semaphore = {
            let mut state = self.0.lock();
            if state.is_closed {
                return Err(Closed);
            }
            let semaphore = state.semaphores.get_or_insert(flow);
            match Arc::clone(&semaphore).try_acquire_many_owned(taken) {
                Ok(permit) => {
                    state.push(flow, Entry { op, bytes, permit });
                    drop(state);
                    self.0.arrived.notify_one();
                    return Ok(());
                }
                Err(TryAcquireError::NoPermits) => semaphore,
                Err(TryAcquireError::Closed) => return Err(Closed),
            }
        };
        let permit = semaphore.acquire_many_owned(taken).await.map_err(|_| Closed)?;
        let mut state = self.0.lock();
        if state.is_closed {
            return Err(Closed);
        }
        state.push(flow, Entry { op, bytes, permit });
        drop(state);
        self.0.arrived.notify_one();
        Ok(())
    }

    /// Rejects new operations. Those in the queue are still taken.
    pub(super) fn close(&self) {
        self.0.close();
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl<T> Receiver<T> {
    /// The next batch, once there is one; None when the queue is closed and empty. Releases the room that the
    /// previous batch held in its flows.
    pub(super) async fn next(&mut self) -> Option<Vec<T>> {
        self.release_permits();
        loop {
            let mut batch = Vec::new();
            let is_closed = {
                let mut state = self.shared.lock();
                state.take(&mut batch);
                state.is_closed
            };
            if !batch.is_empty() {
                self.bytes = batch.iter().map(|(_, entry)| entry.bytes).sum();
                let ops = batch.into_iter().map(|(flow, entry)| {
                    self.served.push((flow, entry.permit));
                    entry.op
                });
                return Some(ops.collect());
            }
            if is_closed {
                return None;
            }
            self.shared.arrived.notified().await;
        }
    }

    /// The bytes of the batch taken last.
    pub(super) fn bytes_taken(&self) -> usize {
        self.bytes
    }

    fn release_permits(&mut self) {
        if self.served.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        for (flow, permit) in self.served.drain(..) {
            drop(permit);
            state.semaphores.remove_unused(flow);
        }
    }
}

impl<T> Drop for Receiver<T> {
    /// Drops the waiting operations, so that their callers learn that they will not be executed.
    fn drop(&mut self) {
        self.shared.close();
        let mut state = self.shared.lock();
        let waiting = (state.small.clear(), state.large.clear());
        drop(state);
        drop(waiting);
    }
}

impl<T> State<T> {
    fn push(&mut self, flow: Flow, entry: Entry<T>) {
        let turns = if entry.bytes <= SMALL_BYTES_MAX { &mut self.small } else { &mut self.large };
        turns.push(flow, entry);
    }

    fn take(&mut self, batch: &mut Vec<(Flow, Entry<T>)>) {
        if std::mem::take(&mut self.is_large_next) {
            self.large.take(batch);
        }
        if batch.is_empty() {
            self.small.take(batch);
            self.is_large_next = !batch.is_empty();
        }
        if batch.is_empty() {
            self.large.take(batch);
        }
    }

    fn close(&mut self) {
        self.is_closed = true;
        self.semaphores.close();
    }
}

/// A semaphore per key, which exists as long as it is used or waited for.
pub(super) struct KeyedSemaphores<K> {
    permits: usize,
    semaphores: HashMap<K, Arc<Semaphore>>,
}

impl<K: Eq + Hash> KeyedSemaphores<K> {
    /// Each key gets this many permits.
    pub(super) fn new(permits: usize) -> Self {
        Self { permits, semaphores: HashMap::new() }
    }

    pub(super) fn get_or_insert(&mut self, key: K) -> Arc<Semaphore> {
        let permits = self.permits;
        Arc::clone(self.semaphores.entry(key).or_insert_with(|| Arc::new(Semaphore::new(permits))))
    }

    /// Removes a semaphore that is no longer in use: only [`Self::get_or_insert`] makes copies of it.
    pub(super) fn remove_unused(&mut self, key: K) {
        if self.semaphores.get(&key).is_some_and(|semaphore| Arc::strong_count(semaphore) == 1) {
            self.semaphores.remove(&key);
        }
    }

    fn close(&self) {
        self.semaphores.values().for_each(|semaphore| semaphore.close());
    }
}

/// Flows that take turns, each writing as many bytes as the others in the long run (deficit round robin, Shreedhar
/// and Varghese 1995).
struct DeficitRoundRobin<T> {
    turn_bytes: usize,
    batch_bytes_max: usize,
    /// Flows in which something waits.
    flows: HashMap<Flow, VecDeque<Entry<T>>>,
    /// The same flows in the order of their turns, each with the bytes it has saved up.
    order: VecDeque<(Flow, usize)>,
}

impl<T> DeficitRoundRobin<T> {
    fn new(turn_bytes: usize, batch_bytes_max: usize) -> Self {
        Self { turn_bytes, batch_bytes_max, flows: HashMap::new(), order: VecDeque::new() }
    }

    fn push(&mut self, flow: Flow, entry: Entry<T>) {
        let waiting = self.flows.entry(flow).or_default();
        if waiting.is_empty() {
            self.order.push_back((flow, 0));
        }
        waiting.push_back(entry);
    }

    /// Fills an empty batch until it is full or nothing waits any more.
    fn take(&mut self, batch: &mut Vec<(Flow, Entry<T>)>) {
        let mut bytes = 0_usize;
        while let Some((flow, saved)) = self.order.pop_front() {
            let Some(waiting) = self.flows.get_mut(&flow) else { continue };
            let mut credit = saved.saturating_add(self.turn_bytes);
            while let Some(next) = waiting.front().map(|next| next.bytes)
                && next <= credit
            {
                let is_full = batch.len() >= BATCH_OPS_MAX
                    || (!batch.is_empty() && bytes.saturating_add(next) > self.batch_bytes_max);
                if is_full {
                    // The flow continues its turn in the next batch.
                    self.order.push_front((flow, credit.saturating_sub(self.turn_bytes)));
                    return;
                }
                credit -= next;
                bytes += next;
                batch.extend(waiting.pop_front().map(|entry| (flow, entry)));
            }
            if waiting.is_empty() {
                self.flows.remove(&flow);
            } else {
                self.order.push_back((flow, credit));
            }
        }
    }

    fn clear(&mut self) -> HashMap<Flow, VecDeque<Entry<T>>> {
        self.order.clear();
        std::mem::take(&mut self.flows)
    }
}
