//! Turns at computing on threads that all tenants share.
//!
//! As many compute at once as there are turns, and those who wait are served by turns of their tenants. So a
//! tenant who is alone has all threads, and whoever has one thing to do waits for a tick of each other tenant
//! and not for a tick of each of their hundred things.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::slots::{Reserve, Slot, Slots, Taking};
use crate::ids::TenantId;

/// A number of turns at a time. Cloning gives another handle.
#[derive(Debug, Clone)]
pub(crate) struct Turns(Arc<Slots>);

impl Turns {
    /// So many at a time, at least one.
    pub(crate) fn new(at_once: usize) -> Self {
        Self(Slots::new(at_once, Reserve::Nothing))
    }

    /// A place for something of this tenant's among those who take turns.
    pub(crate) fn place(&self, tenant: TenantId) -> TurnstileSlot {
        TurnstileSlot { turns: Arc::clone(&self.0), tenant, coming: None, turn: None }
    }
}

/// A place among those who take turns.
#[derive(Debug)]
pub(crate) struct TurnstileSlot {
    turns: Arc<Slots>,
    tenant: TenantId,
    coming: Option<oneshot::Receiver<Slot>>,
    turn: Option<Slot>,
}

impl TurnstileSlot {
    /// Ready once whoever has the place may compute for a tick. One who had the turn until now goes behind those
    /// who wait.
    pub(crate) fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.coming.is_none() {
            // It queues up before it gives its turn back, so that a tenant with one call, which would be gone
            // in between, is among those who are served next.
            let taking = self.turns.take(self.tenant);
            self.turn = None;
            match taking {
                Taking::Now(turn) => {
                    self.turn = Some(turn);
                    return Poll::Ready(());
                }
                Taking::Later(coming) => self.coming = Some(coming),
            }
        }
        let Some(coming) = &mut self.coming else { return Poll::Ready(()) };
        // The sender is dropped with the slots, which this place holds: there is no other end than a turn.
        self.turn = ready!(Pin::new(coming).poll(context)).ok();
        self.coming = None;
        Poll::Ready(())
    }

    /// Gives the turn to the next, having nothing to compute.
    pub(crate) fn pass(&mut self) {
        self.turn = None;
    }
}
