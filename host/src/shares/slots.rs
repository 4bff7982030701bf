//! Slots that all tenants share: places in the instance pool, turns at computing.
//!
//! With [`Reserve::AsManyAsHeld`], a tenant takes a further slot only while at least as many stay free as it then
//! holds, by the rule of [`shares`]; a tenant that holds nothing gets any free slot.
//!
//! A released slot goes to the waiting tenant that holds the fewest, and among equals to the one that was served
//! longest ago: a long queue of one tenant does not delay another tenant's first call.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::ids::TenantId;
use crate::shares;

/// From this length on, a tenant's queue is searched for abandoned calls.
const SWEEP_THRESHOLD: usize = 64;

/// How many of the free slots a tenant leaves to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reserve {
    /// As many as it holds: for slots that may be held for long.
    AsManyAsHeld,
    /// None: for slots that are released within a tick.
    Nothing,
}

/// Who holds the slots if a wait for one has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeldBy {
    /// The tenant itself holds as many as it may.
    Tenant,
    /// All tenants together.
    All,
}

/// A fixed number of slots.
#[derive(Debug)]
pub(crate) struct Slots {
    reserve: Reserve,
    /// A lock on the path of every call, since the decision involves several counters. It is held for a few
    /// comparisons, and never across a wait.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Tenants that hold a slot or wait for one.
    tenants: HashMap<TenantId, Holder>,
    /// The number of waiting calls, of all tenants.
    waiting: usize,
    /// Incremented with each slot that goes to a waiting call.
    served: u64,
}

#[derive(Debug, Default)]
struct Holder {
    held: usize,
    queue: VecDeque<oneshot::Sender<Slot>>,
    /// The value of [`State::served`] when the tenant was last served.
    served: u64,
}

/// A slot that a tenant holds. Dropping it releases the slot.
#[derive(Debug)]
pub(crate) struct Slot {
    tenant: TenantId,
    /// None if the slot has already been released.
    slots: Option<Arc<Slots>>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = self.slots.take() {
            slots.release(self.tenant);
        }
    }
}

/// A slot, now or later.
#[derive(Debug)]
pub(crate) enum Acquire {
    /// The slot is held.
    Now(Slot),
    /// The slot will be sent. Dropping the receiver abandons the wait.
    Later(oneshot::Receiver<Slot>),
}

impl Slots {
    /// Creates this many slots, at least one.
    pub(crate) fn new(slots: usize, reserve: Reserve) -> Arc<Self> {
        let state = State { free: slots.max(1), tenants: HashMap::new(), waiting: 0, served: 0 };
        Arc::new(Self { reserve, state: Mutex::new(state) })
    }

    /// Requests a slot for a tenant.
    pub(crate) fn take(self: &Arc<Self>, tenant: TenantId) -> Acquire {
        let mut state = self.state();
        let held = state.tenants.get(&tenant).map_or(0, |holder| holder.held);
        if state.waiting == 0 && state.allows(held, self.reserve) {
            state.free -= 1;
            state.tenants.entry(tenant).or_default().held += 1;
            return Acquire::Now(Slot { tenant, slots: Some(Arc::clone(self)) });
        }
        let (to, mut slot) = oneshot::channel();
        state.enqueue(tenant, to);
        // The waiting calls may be blocked by what their tenants hold, while this one need not be.
        self.hand_out(&mut state);
        match slot.try_recv() {
            Ok(slot) => Acquire::Now(slot),
            Err(_) => Acquire::Later(slot),
        }
    }

    /// Waits for a slot for a tenant. None if the slots no longer exist.
    pub(crate) async fn acquire(self: &Arc<Self>, tenant: TenantId) -> Option<Slot> {
        match self.take(tenant) {
            Acquire::Now(slot) => Some(slot),
            Acquire::Later(slot) => slot.await.ok(),
        }
    }

    /// Waits for a slot for a tenant until a deadline.
    ///
    /// # Errors
    /// If no slot is free by then, as who holds them.
    pub(crate) async fn take_until(
        self: &Arc<Self>,
        tenant: TenantId,
        until: Instant,
    ) -> Result<Slot, HeldBy> {
        let slot = match self.take(tenant) {
            Acquire::Now(slot) => return Ok(slot),
            Acquire::Later(slot) => slot,
        };
        match tokio::time::timeout_at(until.into(), slot).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_)) | Err(_) => Err(self.held_by(tenant)),
        }
    }

    fn held_by(&self, tenant: TenantId) -> HeldBy {
        match self.state().tenants.get(&tenant) {
            Some(holder) if holder.held > 0 => HeldBy::Tenant,
            _ => HeldBy::All,
        }
    }

    fn release(self: &Arc<Self>, tenant: TenantId) {
        let mut state = self.state();
        state.release(tenant);
        self.hand_out(&mut state);
    }

    /// Hands out free slots to the waiting calls whose tenants may have one more.
    fn hand_out(self: &Arc<Self>, state: &mut State) {
        while state.waiting > 0 && state.free > 0 {
            let waiting = state.tenants.iter().filter(|(_, holder)| !holder.queue.is_empty());
            let next = waiting.map(|(tenant, holder)| (holder.held, holder.served, *tenant)).min();
            let Some((held, _, tenant)) = next else { return };
            // Tenants that hold more are allowed even less.
            if !state.allows(held, self.reserve) {
                return;
            }
            let Some(to) = state.serve(tenant) else { return };
            let slot = Slot { tenant, slots: Some(Arc::clone(self)) };
            if let Err(mut slot) = to.send(slot) {
                // The wait was abandoned. Dropping the slot would acquire the lock that is held here.
                slot.slots = None;
                state.release(tenant);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether a tenant that holds this many may have one more.
    fn allows(&self, held: usize, reserve: Reserve) -> bool {
        match reserve {
            Reserve::AsManyAsHeld => shares::available(held, self.free) > 0,
            Reserve::Nothing => self.free > 0,
        }
    }

    fn enqueue(&mut self, tenant: TenantId, to: oneshot::Sender<Slot>) {
        let queue = &mut self.tenants.entry(tenant).or_default().queue;
        if queue.len() >= SWEEP_THRESHOLD {
            let before = queue.len();
            queue.retain(|waiting| !waiting.is_closed());
            self.waiting -= before - queue.len();
        }
        queue.push_back(to);
        self.waiting += 1;
    }

    /// Removes the tenant's oldest waiting call from its queue, and takes a slot for it.
    fn serve(&mut self, tenant: TenantId) -> Option<oneshot::Sender<Slot>> {
        let holder = self.tenants.get_mut(&tenant)?;
        let to = holder.queue.pop_front()?;
        self.served += 1;
        holder.served = self.served;
        holder.held += 1;
        self.waiting -= 1;
        self.free -= 1;
        Some(to)
    }

    fn release(&mut self, tenant: TenantId) {
        self.free += 1;
        let Some(holder) = self.tenants.get_mut(&tenant) else { return };
        holder.held = holder.held.saturating_sub(1);
        if holder.held == 0 && holder.queue.is_empty() {
            self.tenants.remove(&tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(number: u8) -> TenantId {
        TenantId::from_bytes([number; 16])
    }

    fn now(slots: &Arc<Slots>, number: u8) -> Option<Slot> {
        match slots.take(tenant(number)) {
            Acquire::Now(slot) => Some(slot),
            Acquire::Later(_) => None,
        }
    }

    fn later(slots: &Arc<Slots>, number: u8) -> oneshot::Receiver<Slot> {
        match slots.take(tenant(number)) {
            Acquire::Later(slot) => slot,
            Acquire::Now(_) => panic!("there was one"),
        }
    }

    #[test]
    fn a_tenant_alone_gets_half_and_each_further_one_half_of_what_is_left() {
        let slots = Slots::new(256, Reserve::AsManyAsHeld);
        let mut held = Vec::new();
        let counts = (1..=9).map(|number| {
            let before = held.len();
            while let Some(slot) = now(&slots, number) {
                held.push(slot);
            }
            held.len() - before
        });
        let counts: Vec<_> = counts.collect();
        assert_eq!(counts.first(), Some(&128));
        assert!(counts.iter().take(8).all(|count| *count >= 1), "{counts:?}");
        drop(held);
        assert!(slots.state().tenants.is_empty());
    }

    #[test]
    fn a_slot_that_comes_free_goes_to_whoever_holds_the_fewest() {
        let slots = Slots::new(4, Reserve::AsManyAsHeld);
        let [first, _second] = [now(&slots, 1).unwrap(), now(&slots, 1).unwrap()];
        let mut greedy = later(&slots, 1);
        // A newcomer overtakes calls whose tenants hold as many as they may.
        let newcomer = now(&slots, 2).unwrap();
        assert!(greedy.try_recv().is_err());
        // As many must stay free as it would then hold.
        drop(first);
        assert!(greedy.try_recv().is_err());
        drop(newcomer);
        assert!(greedy.try_recv().is_ok());
    }

    #[test]
    fn those_who_wait_are_served_by_turns_of_tenants_and_not_of_calls() {
        let slots = Slots::new(1, Reserve::Nothing);
        let running = now(&slots, 1).unwrap();
        let mut many: Vec<_> = (0..10).map(|_| later(&slots, 1)).collect();
        let mut few: Vec<_> = (0..2).map(|_| later(&slots, 2)).collect();
        drop(running);
        let mut order = Vec::new();
        let mut served = |number: u8, waiting: &mut Vec<oneshot::Receiver<Slot>>| {
            let slot = waiting.first_mut().and_then(|first| first.try_recv().ok());
            let was_served = slot.is_some();
            if was_served {
                order.push(number);
                drop(waiting.remove(0));
            }
            was_served
        };
        while served(1, &mut many) || served(2, &mut few) {}
        assert_eq!(order.get(..5), Some(&[1, 2, 1, 2, 1][..]));
        assert_eq!(order.len(), 12);
    }

    #[test]
    fn a_wait_that_was_given_up_takes_no_slot() {
        let slots = Slots::new(1, Reserve::Nothing);
        let held = now(&slots, 1).unwrap();
        drop(later(&slots, 2));
        let mut patient = later(&slots, 3);
        drop(held);
        let _slot = patient.try_recv().unwrap();
        for _ in 0..1_000 {
            drop(later(&slots, 2));
        }
        assert!(slots.state().waiting <= SWEEP_THRESHOLD + 1);
    }
}
