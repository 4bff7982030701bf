//! What all plugins of one tenant may use together, so that no tenant takes what the others need.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::slow_lane::Turns;

/// How much a tenant's plugins may use at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct ShareSize {
    pub(super) calls: usize,
    pub(super) memory_bytes: usize,
    /// Threads of each slow lane.
    pub(super) slow_threads: usize,
}

/// What a tenant's plugins use.
#[derive(Debug)]
pub(super) struct Share {
    /// Calls in flight.
    pub(super) calls: Semaphore,
    /// Turns of calls that take long.
    pub(super) turns: Turns,
    memory_bytes: AtomicUsize,
    memory_bytes_max: usize,
}

impl Share {
    pub(super) fn new(size: ShareSize) -> Self {
        Self {
            calls: Semaphore::new(size.calls),
            turns: Turns::of(size.slow_threads),
            memory_bytes: AtomicUsize::new(0),
            memory_bytes_max: size.memory_bytes,
        }
    }
}

/// The memory that one call has of its tenant's share. Given back when the call is over.
#[derive(Debug)]
pub(super) struct HeldMemory {
    share: Arc<Share>,
    bytes: usize,
}

impl HeldMemory {
    pub(super) fn of(share: &Arc<Share>) -> Self {
        Self { share: Arc::clone(share), bytes: 0 }
    }

    /// How much it is, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes this much more, unless the tenant has no more.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        // A count and nothing else hangs on it: no order with other memory is needed.
        let before = self.share.memory_bytes.fetch_add(bytes, Ordering::Relaxed);
        let has_room =
            before.checked_add(bytes).is_some_and(|all| all <= self.share.memory_bytes_max);
        if has_room {
            self.bytes += bytes;
        } else {
            self.share.memory_bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        has_room
    }
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        self.share.memory_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_a_tenant_share_its_memory_and_give_it_back() {
        let share =
            Arc::new(Share::new(ShareSize { calls: 1, memory_bytes: 100, slow_threads: 1 }));
        let (mut first, mut second) = (HeldMemory::of(&share), HeldMemory::of(&share));
        assert!(first.take(60) && !second.take(41) && second.take(40) && !first.take(1));
        assert!(!first.take(usize::MAX));
        assert_eq!((first.bytes(), second.bytes()), (60, 40));
        drop(first);
        assert!(second.take(60) && !second.take(1));
        drop(second);
        assert_eq!(share.memory_bytes.load(Ordering::Relaxed), 0);
    }
}
