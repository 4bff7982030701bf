//! Limits on what one tenant or one client holds at once: event streams, direct tool calls, connections.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::ids::TenantId;

/// Open event streams: each holds a connection for as long as its task takes.
pub(super) type Streams = ConcurrencyLimit<TenantId>;

/// Direct tool calls: each may take as long as one in a run.
pub(super) type Operations = ConcurrencyLimit<TenantId>;

/// Bounds how many permits each key holds at once. Cloning clones the handle.
#[derive(Debug, Clone)]
pub(super) struct ConcurrencyLimit<K> {
    held: Arc<Mutex<HashMap<K, usize>>>,
    per_key_max: usize,
}

/// One unit of a key's concurrency, released on drop.
#[derive(Debug)]
pub(super) struct Permit<K: Eq + Hash> {
    key: K,
    held: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Copy + Eq + Hash> ConcurrencyLimit<K> {
    pub(super) fn new(per_key_max: usize) -> Self {
        Self { held: Arc::default(), per_key_max }
    }

    /// How many permits one key may hold.
    pub(super) fn per_key_max(&self) -> usize {
        self.per_key_max
    }

    /// How many permits all keys hold together.
    pub(super) fn held(&self) -> usize {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// Acquires a permit for this key. `None` if the key already holds its maximum.
    pub(super) fn acquire(&self, key: K) -> Option<Permit<K>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.get(&key).copied().unwrap_or_default();
        if count >= self.per_key_max {
            return None;
        }
        held.insert(key, count + 1);
        Some(Permit { key, held: Arc::clone(&self.held) })
    }

    /// Acquires a permit for this key. A key that holds all of its permits gets one retry after this wait, lengthened by
    /// up to a half: the jitter spreads requests that arrived together.
    pub(super) async fn acquire_within(&self, wait: Duration, key: K) -> Option<Permit<K>> {
        if let Some(permit) = self.acquire(key) {
            return Some(permit);
        }
        tokio::time::sleep(wait + wait.mul_f64(rand::random::<f64>() / 2.0)).await;
        self.acquire(key)
    }
}

impl<K: Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}
