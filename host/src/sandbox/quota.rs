//! Quotas on what the plugins of one tenant use together: slots for calls in flight, and memory. A tenant's quota
//! shrinks with the number of tenants that compete, by the rule of [`shares`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::refusal::Shortage;
use crate::shares;
use crate::shares::slots::{Reserve, Slots};

/// Memory that a tenant may hold while any is free, whatever other tenants hold, in bytes: enough for a brief call of
/// the shipped plugins.
const FLOOR_BYTES: usize = 4 << 20;

/// The slots of the instance pool. Calls that a provider or a caller waits for have slots of their own: a tool may
/// sleep for half a minute, and no webhook may wait for one.
#[derive(Debug)]
pub(super) struct CallSlots {
    /// For verifiers, mappers, getters, replies and queries about a plugin.
    pub(super) brief: Arc<Slots>,
    /// For tools and deliveries.
    pub(super) tools: Arc<Slots>,
}

impl CallSlots {
    /// Splits `calls` slots evenly between both kinds.
    pub(super) fn new(calls: usize) -> Self {
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
    /// Maximum of one tenant, in bytes.
    tenant_bytes_max: usize,
}

impl Memory {
    /// `bytes_max` is shared by all tenants; one tenant may hold `tenant_bytes_max` of it.
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

    /// Takes `bytes`, or returns which limit is exhausted.
    fn take(&self, bytes: usize) -> Result<(), Shortage> {
        let Memory { held, bytes_max, tenant_bytes_max } = &*self.memory;
        // Relaxed is enough: the counters guard no other memory. Of two concurrent calls both may be refused where
        // one would have fitted, but together they never get more than there is.
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
                self.release(bytes);
                Err(shortage)
            }
        }
    }

    fn release(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Memory of the tenant's share that is reserved for a call, or for one thing that the host holds for the call.
/// Dropping it releases the memory.
#[derive(Debug)]
pub(super) struct MemoryReservation {
    quota: Arc<TenantQuota>,
    bytes: usize,
}

impl MemoryReservation {
    pub(super) fn new(quota: &Arc<TenantQuota>) -> Self {
        Self { quota: Arc::clone(quota), bytes: 0 }
    }

    /// The size of the reservation, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Extends the reservation by `bytes`.
    ///
    /// # Errors
    /// If the tenant's share or the memory of all tenants is exhausted; the [`Shortage`] says which.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), Shortage> {
        self.quota.take(bytes)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.quota.release(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn held_by(memory: &Arc<Memory>) -> MemoryReservation {
        MemoryReservation::new(&Arc::new(TenantQuota::new(memory)))
    }

    #[test]
    fn calls_of_a_tenant_share_its_memory_and_give_it_back() {
        let memory = Arc::new(Memory::new(1_000 * MIB, 100 * MIB));
        let quota = Arc::new(TenantQuota::new(&memory));
        let (mut first, mut second) =
            (MemoryReservation::new(&quota), MemoryReservation::new(&quota));
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
