//! The bulk lane: where requests with long bodies, and runs with long payloads, are handled.
//!
//! Reading, mapping, redacting and storing megabytes computes for tens of milliseconds at a stretch. This is done on
//! low-priority threads, so that callers with small requests do not wait for it, and tenants take turns, so that a
//! tenant's only long request does not wait behind all of another's.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::ids::TenantId;
use crate::low_priority::LowPriority;
use crate::shares::turns::{Turns, TurnstileSlot};

/// Bodies and payloads longer than this, in bytes, are handled here: the rest is read within a millisecond or two.
pub(crate) const BULK_BYTES: usize = 256 << 10;

/// Threads for each turn. Work without a turn must still read from its sender and notice a disconnect.
const THREADS_PER_TURN: usize = 2;

/// The threads, and the turns at computing on them.
#[derive(Debug)]
pub struct BulkLane {
    threads: LowPriority,
    turns: Turns,
}

impl BulkLane {
    /// Starts a lane on which this many pieces of work compute at a time.
    ///
    /// # Errors
    /// If the system cannot start the threads.
    pub fn start(at_once: usize) -> std::io::Result<Self> {
        let at_once = at_once.max(1);
        let threads = LowPriority::start("bulk", at_once.saturating_mul(THREADS_PER_TURN))?;
        Ok(Self { threads, turns: Turns::new(at_once) })
    }

    /// Where to spawn work that is [`BulkLane::in_turns`]. None if the gateway is shutting down.
    pub(crate) fn handle(&self) -> Option<&Handle> {
        self.threads.handle()
    }

    /// Wraps work so that it computes in turns of its tenant, as soon as the tenant is known.
    pub(crate) fn in_turns<T>(
        &self,
        tenant: TenantCell,
        work: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        InTurns { turns: self.turns.clone(), tenant, turn_slot: None, work: Box::pin(work) }
    }

    /// Spawns work on the lane. The work is aborted when the handle is dropped. None if the gateway is shutting down.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        tenant: TenantCell,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<AbortOnDropHandle<T>> {
        self.threads.spawn(self.in_turns(tenant, work))
    }
}

/// The tenant that work is done for, once it is known. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct TenantCell(Arc<OnceLock<TenantId>>);

impl TenantCell {
    /// Sets the tenant, unless it is already known. Work that sets its own tenant computes in turns from its next
    /// poll on.
    pub(crate) fn set(&self, tenant: TenantId) {
        let _ = self.0.set(tenant);
    }
}

impl From<TenantId> for TenantCell {
    fn from(tenant: TenantId) -> Self {
        Self(Arc::new(OnceLock::from(tenant)))
    }
}

/// Work that is polled only while it has a turn, once its tenant is known.
struct InTurns<F> {
    turns: Turns,
    tenant: TenantCell,
    turn_slot: Option<TurnstileSlot>,
    work: Pin<Box<F>>,
}

impl<F: Future> Future for InTurns<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if this.turn_slot.is_none()
            && let Some(tenant) = this.tenant.0.get()
        {
            this.turn_slot = Some(this.turns.enqueue(*tenant));
        }
        let Some(turn_slot) = &mut this.turn_slot else { return this.work.as_mut().poll(context) };
        ready!(turn_slot.poll_turn(context));
        let polled = this.work.as_mut().poll(context);
        // Whatever the work waits for now, it does not compute meanwhile.
        turn_slot.yield_turn();
        polled
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn tenant(number: u8) -> TenantId {
        TenantId::from_bytes([number; 16])
    }

    /// Blocks a thread for two milliseconds this many times, and counts each.
    async fn compute(times: usize, counted: Arc<AtomicUsize>) {
        for _ in 0..times {
            counted.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(2));
            tokio::task::yield_now().await;
        }
    }

    /// A lane with a single turn, which is taken until the sender is dropped.
    fn busy_lane() -> (BulkLane, mpsc::Sender<()>) {
        let lane = BulkLane::start(1).unwrap();
        let (release, released) = mpsc::channel::<()>();
        let (started, is_started) = mpsc::channel();
        let holding = lane.in_turns(tenant(0).into(), async move {
            started.send(()).unwrap();
            let _ = released.recv();
        });
        lane.handle().unwrap().spawn(holding);
        is_started.recv().unwrap();
        (lane, release)
    }

    #[tokio::test]
    async fn one_of_a_tenant_waits_for_a_turn_of_another_and_not_for_all_of_its_twenty() {
        let (lane, release) = busy_lane();
        let counted = Arc::new(AtomicUsize::new(0));
        let many: Vec<_> = (0..20)
            .map(|_| lane.spawn(tenant(1).into(), compute(20, Arc::clone(&counted))).unwrap())
            .collect();
        let meanwhile = Arc::clone(&counted);
        let one = lane.spawn(tenant(2).into(), async move {
            compute(10, Arc::default()).await;
            meanwhile.load(Ordering::Relaxed)
        });
        drop(release);
        let meanwhile = one.unwrap().await.unwrap();
        // One turn of the others for each of its own. In order of arrival it would be twenty for each: 200.
        assert!(meanwhile <= 100, "of 400 the others had {meanwhile} turns");
        for work in many {
            work.await.unwrap();
        }
        assert_eq!(counted.load(Ordering::Relaxed), 400);
    }

    #[tokio::test]
    async fn work_of_nobody_yet_needs_no_turn_and_waits_for_one_once_it_is_known_whose_it_is() {
        let (lane, release) = busy_lane();
        let (cell, counted) = (TenantCell::default(), Arc::new(AtomicUsize::new(0)));
        let (known, counter) = (cell.clone(), Arc::clone(&counted));
        let (set, is_set) = tokio::sync::oneshot::channel();
        let work = lane.spawn(cell, async move {
            compute(10, Arc::default()).await;
            known.set(tenant(1));
            set.send(()).unwrap();
            tokio::task::yield_now().await;
            compute(1, counter).await;
        });
        is_set.await.unwrap();
        // Other work still has threads.
        let nobodys = lane.spawn(TenantCell::default(), compute(10, Arc::default()));
        nobodys.unwrap().await.unwrap();
        assert_eq!(counted.load(Ordering::Relaxed), 0);
        drop(release);
        work.unwrap().await.unwrap();
        assert_eq!(counted.load(Ordering::Relaxed), 1);
    }
}
