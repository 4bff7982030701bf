//! The bulk lane: where requests with long bodies are handled, and runs about long payloads.
//!
//! To read, map, redact and store megabytes computes for tens of milliseconds at a stretch. It is done on threads of
//! low priority, so that whoever sends little is not kept waiting; and in turns of tenants, so that a tenant's
//! only long request does not wait behind all of another's.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use crate::ids::TenantId;
use crate::low_priority::LowPriority;
use crate::shares::turns::{Turns, TurnstileSlot};

/// What is longer than this, in bytes, is handled here: the rest is read within a millisecond or two.
pub(crate) const BULK_BYTES: usize = 256 << 10;

/// Threads for each turn. Those who have no turn still have to read what their senders send, and to hear that
/// they have gone.
const THREADS_PER_TURN: usize = 2;

/// The threads, and the turns at computing on them.
#[derive(Debug)]
pub struct BulkLane {
    threads: LowPriority,
    turns: Turns,
}

impl BulkLane {
    /// A lane on which so many compute at a time.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn start(at_once: usize) -> std::io::Result<Self> {
        let at_once = at_once.max(1);
        let threads = LowPriority::start("bulk", at_once.saturating_mul(THREADS_PER_TURN))?;
        Ok(Self { threads, turns: Turns::new(at_once) })
    }

    /// Where to spawn what is [`BulkLane::in_turns`]. None where the gateway is shutting down.
    pub(crate) fn handle(&self) -> Option<&Handle> {
        self.threads.handle()
    }

    /// The same work, which computes in turns of its tenant as soon as it is known whose it is.
    pub(crate) fn in_turns<T>(
        &self,
        whose: Whose,
        work: impl Future<Output = T> + Send + 'static,
    ) -> impl Future<Output = T> + Send + 'static {
        InTurns { turns: self.turns.clone(), whose, place: None, work: Box::pin(work) }
    }

    /// Does this work here. It ends when the handle is dropped. None where the gateway is shutting down.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        whose: Whose,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<AbortOnDropHandle<T>> {
        self.threads.spawn(self.in_turns(whose, work))
    }
}

/// The tenant that work is done for. Cloning gives another handle.
#[derive(Debug, Clone, Default)]
pub(crate) struct Whose(Arc<OnceLock<TenantId>>);

impl Whose {
    /// This tenant's, unless it was known before. Work that says so of itself computes in turns from the next time
    /// it is polled.
    pub(crate) fn is(&self, tenant: TenantId) {
        let _ = self.0.set(tenant);
    }
}

impl From<TenantId> for Whose {
    fn from(tenant: TenantId) -> Self {
        Self(Arc::new(OnceLock::from(tenant)))
    }
}

/// Work that is polled only while it has a turn, once it is known whose it is.
struct InTurns<F> {
    turns: Turns,
    whose: Whose,
    place: Option<TurnstileSlot>,
    work: Pin<Box<F>>,
}

impl<F: Future> Future for InTurns<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if this.place.is_none()
            && let Some(tenant) = this.whose.0.get()
        {
            this.place = Some(this.turns.place(*tenant));
        }
        let Some(place) = &mut this.place else { return this.work.as_mut().poll(context) };
        ready!(place.poll_turn(context));
        let polled = this.work.as_mut().poll(context);
        // Whatever it waits for now, it does not compute meanwhile.
        place.pass();
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

    /// Keeps a thread so many times for two milliseconds, and counts each.
    async fn compute(times: usize, counted: Arc<AtomicUsize>) {
        for _ in 0..times {
            counted.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(2));
            tokio::task::yield_now().await;
        }
    }

    /// A lane with one turn, which is somebody's until this is dropped.
    fn busy_lane() -> (BulkLane, mpsc::Sender<()>) {
        let lane = BulkLane::start(1).unwrap();
        let (release, released) = mpsc::channel::<()>();
        let (begun, begins) = mpsc::channel();
        let holding = lane.in_turns(tenant(0).into(), async move {
            begun.send(()).unwrap();
            let _ = released.recv();
        });
        lane.handle().unwrap().spawn(holding);
        begins.recv().unwrap();
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
        // One for each of its own. In the order of their coming it would be twenty for each: 200.
        assert!(meanwhile <= 100, "of 400 the others had {meanwhile} turns");
        for work in many {
            work.await.unwrap();
        }
        assert_eq!(counted.load(Ordering::Relaxed), 400);
    }

    #[tokio::test]
    async fn work_of_nobody_yet_needs_no_turn_and_waits_for_one_once_it_is_known_whose_it_is() {
        let (lane, release) = busy_lane();
        let (whose, counted) = (Whose::default(), Arc::new(AtomicUsize::new(0)));
        let (known, of) = (whose.clone(), Arc::clone(&counted));
        let (told, tells) = tokio::sync::oneshot::channel();
        let work = lane.spawn(whose, async move {
            compute(10, Arc::default()).await;
            known.is(tenant(1));
            told.send(()).unwrap();
            tokio::task::yield_now().await;
            compute(1, of).await;
        });
        tells.await.unwrap();
        // Others have threads all the same.
        let nobodys = lane.spawn(Whose::default(), compute(10, Arc::default()));
        nobodys.unwrap().await.unwrap();
        assert_eq!(counted.load(Ordering::Relaxed), 0);
        drop(release);
        work.unwrap().await.unwrap();
        assert_eq!(counted.load(Ordering::Relaxed), 1);
    }
}
