//! What all plugins of one tenant may use together, so that no tenant takes what the others need: slots for
//! calls in flight, and memory. Both shrink with the number of tenants that want them, by the rule of [`shares`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::refusal::Shortage;
use crate::shares;
use crate::shares::slots::{Reserve, Slots};

/// A tenant may hold this much memory as long as there is any, in bytes: enough for a brief call of the shipped
/// plugins, whatever others hold.
const FLOOR_BYTES: usize = 4 << 20;

/// The slots of the instance pool. What a provider or a caller waits for has slots of its own: tools may sleep
/// for half a minute, and nobody's webhook waits for them.
#[derive(Debug)]
pub(super) struct CallSlots {
    /// For verifiers, mappers, getters, replies, and questions about a plugin.
    pub(super) brief: Arc<Slots>,
    /// For tools and deliveries.
    pub(super) tools: Arc<Slots>,
}

impl CallSlots {
    /// So many together, half of them of each kind.
    pub(super) fn of(calls: usize) -> Self {
        let tools = calls / 2;
        let slots = |slots| Slots::new(slots, Reserve::AsManyAsHeld);
        Self { brief: slots(calls - tools), tools: slots(tools) }
    }
}

/// The memory that the calls of all tenants hold.
#[derive(Debug)]
pub(super) struct Memory {
    held: AtomicUsize,
    bytes_max: usize,
    /// Of one tenant, in bytes.
    tenant_bytes_max: usize,
}

impl Memory {
    /// So many bytes for all tenants, and so many at most for one of them.
    pub(super) fn new(bytes_max: usize, tenant_bytes_max: usize) -> Self {
        Self { held: AtomicUsize::new(0), bytes_max, tenant_bytes_max }
    }
}

/// The memory that the calls of one tenant hold.
#[derive(Debug)]
pub(super) struct TenantQuota {
    held: AtomicUsize,
    memory: Arc<Memory>,
}

impl TenantQuota {
    pub(super) fn new(memory: &Arc<Memory>) -> Self {
        Self { held: AtomicUsize::new(0), memory: Arc::clone(memory) }
    }

    /// Takes so many bytes, or says who holds them.
    fn take(&self, bytes: usize) -> Result<(), Shortage> {
        let Memory { held, bytes_max, tenant_bytes_max } = &*self.memory;
        // Counts, and nothing else hangs on them: no order with other memory is needed. Two that take at once
        // may both be refused where one would have fitted, and neither gets more than there is.
        let own = self.held.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let all = held.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let shortage = if own > *tenant_bytes_max {
            Some(Shortage::MemoryOfTenant)
        } else if all > *bytes_max {
            Some(Shortage::Memory)
        } else if own > FLOOR_BYTES && !shares::leaves_enough(own, bytes_max - all) {
            Some(Shortage::MemoryOfTenant)
        } else {
            None
        };
        match shortage {
            None => Ok(()),
            Some(shortage) => {
                self.give_back(bytes);
                Err(shortage)
            }
        }
    }

    fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Memory that a call, or one thing that the host holds for it, has of its tenant's share. Given back when it is
/// dropped.
#[derive(Debug)]
pub(super) struct MemoryReservation {
    share: Arc<TenantQuota>,
    bytes: usize,
}

impl MemoryReservation {
    pub(super) fn of(share: &Arc<TenantQuota>) -> Self {
        Self { share: Arc::clone(share), bytes: 0 }
    }

    /// How much it is, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes this much more.
    ///
    /// # Errors
    /// Who holds what there is.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Shortage> {
        self.share.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.share.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn held_by(memory: &Arc<Memory>) -> MemoryReservation {
        MemoryReservation::of(&Arc::new(TenantQuota::new(memory)))
    }

    #[test]
    fn calls_of_a_tenant_share_its_memory_and_give_it_back() {
        let memory = Arc::new(Memory::new(1_000 * MIB, 100 * MIB));
        let share = Arc::new(TenantQuota::new(&memory));
        let (mut first, mut second) =
            (MemoryReservation::of(&share), MemoryReservation::of(&share));
        assert_eq!(first.take(60 * MIB), Ok(()));
        assert_eq!(second.take(41 * MIB), Err(Shortage::MemoryOfTenant));
        assert_eq!(second.take(40 * MIB), Ok(()));
        assert_eq!(first.take(usize::MAX - 1), Err(Shortage::MemoryOfTenant));
        assert_eq!((first.bytes(), second.bytes()), (60 * MIB, 40 * MIB));
        drop(first);
        assert_eq!(second.take(60 * MIB), Ok(()));
        drop(second);
        assert_eq!(memory.held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_tenants_share_of_memory_shrinks_with_those_that_hold_some() {
        let memory = Arc::new(Memory::new(4096 * MIB, 2048 * MIB));
        let shares: Vec<_> = (0..8)
            .map(|_| {
                let mut held = held_by(&memory);
                while held.take(MIB).is_ok() {}
                held
            })
            .collect();
        assert_eq!(shares[0].bytes(), 2048 * MIB);
        assert_eq!(shares[1].bytes(), 1024 * MIB);
        let mut honest = held_by(&memory);
        assert_eq!(honest.take(MIB), Ok(()), "{shares:?}");
    }
}
