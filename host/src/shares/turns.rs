//! Turns at computing on threads that all tenants share.
//!
//! As many calls compute at once as there are turns, and waiting calls are served by tenants in turn. A tenant that
//! is alone uses all threads. A tenant with a single call waits for one tick of each other tenant, not for one tick
//! of each of their hundred calls.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::slots::{Acquire, Reserve, Slot, Slots};
use crate::ids::TenantId;

/// A fixed number of concurrent turns. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Turns(Arc<Slots>);

impl Turns {
    /// Allows this many turns at once, at least one.
    pub(crate) fn new(at_once: usize) -> Self {
        Self(Slots::new(at_once, Reserve::Nothing))
    }

    /// A place in the queue for a call of this tenant.
    pub(crate) fn enqueue(&self, tenant: TenantId) -> TurnstileSlot {
        TurnstileSlot { turns: Arc::clone(&self.0), tenant, pending: None, turn: None }
    }
}

/// A place in the queue for turns.
#[derive(Debug)]
pub(crate) struct TurnstileSlot {
    turns: Arc<Slots>,
    tenant: TenantId,
    pending: Option<oneshot::Receiver<Slot>>,
    turn: Option<Slot>,
}

impl TurnstileSlot {
    /// Ready once the holder of the place may compute for a tick. A holder that had the turn until now goes behind
    /// those that wait.
    pub(crate) fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.pending.is_none() {
            // It queues before it releases its turn. Otherwise a tenant with a single call would be forgotten in
            // between, and would not be among those served next.
            let acquire = self.turns.take(self.tenant);
            self.turn = None;
            match acquire {
                Acquire::Now(turn) => {
                    self.turn = Some(turn);
                    return Poll::Ready(());
                }
                Acquire::Later(pending) => self.pending = Some(pending),
            }
        }
        let Some(pending) = &mut self.pending else { return Poll::Ready(()) };
        // The sender is dropped only with the slots, which this place keeps alive: the wait can only end with a turn.
        self.turn = ready!(Pin::new(pending).poll(context)).ok();
        self.pending = None;
        Poll::Ready(())
    }

    /// Passes the turn on, with nothing to compute.
    pub(crate) fn yield_turn(&mut self) {
        self.turn = None;
    }
}
