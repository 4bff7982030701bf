//! Places that are counted by whoever takes them: event streams and tools that are called directly by tenant,
//! connections by client. Each holds something that is everybody's for as long as somebody else likes.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::ids::TenantId;

/// Event streams: each holds a connection for as long as its task takes.
pub type Streams = Places<TenantId>;

/// Tools that are called directly: each may take as long as in a run.
pub type Operations = Places<TenantId>;

/// The places that are taken, by whoever takes them. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Places<K>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// One place; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place<K: Eq + Hash> {
    of: K,
    places: Places<K>,
}

impl<K: Copy + Eq + Hash> Places<K> {
    /// How many are taken, by all.
    pub(super) fn taken(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// A place for whoever this is, where he has fewer than `most`.
    pub(super) fn enter(&self, of: K, most: usize) -> Option<Place<K>> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.get(&of).copied().unwrap_or_default();
        if count >= most {
            return None;
        }
        taken.insert(of, count + 1);
        Some(Place { of, places: Self(Arc::clone(&self.0)) })
    }

    /// The same, tried again where there is none: after so long, and up to half as long again, so that those
    /// who come together do not come together again.
    pub(super) async fn enter_within(
        &self,
        patience: Duration,
        of: K,
        most: usize,
    ) -> Option<Place<K>> {
        if let Some(place) = self.enter(of, most) {
            return Some(place);
        }
        tokio::time::sleep(patience + patience.mul_f64(rand::random::<f64>() / 2.0)).await;
        self.enter(of, most)
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.of) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.of);
            }
        }
    }
}
