//! How many event streams each tenant has open: a stream holds a connection for as long as its task takes,
//! and connections are everybody's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::ids::TenantId;

/// The streams of all tenants. Cloning gives another handle.
#[derive(Debug, Clone, Default)]
pub struct Streams(Arc<Mutex<HashMap<TenantId, usize>>>);

/// A place for one stream; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    tenant: TenantId,
    streams: Streams,
}

impl Streams {
    /// How many are open, of all tenants.
    pub(super) fn open(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().sum()
    }

    /// A place, where the tenant has fewer than `most` streams open.
    pub(super) fn enter(&self, tenant: TenantId, most: usize) -> Option<Place> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(tenant).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(Place { tenant, streams: self.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.tenant) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                open.remove(&self.tenant);
            }
        }
    }
}
