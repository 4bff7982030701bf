//! What is made from the directory of a tenant, kept until something of the tenant changes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::Mutex;

use super::StoreError;
use super::changes::{Changes, Stamp};
use crate::ids::TenantId;

/// The most tenants that a cache holds, and for how long without a use.
const TENANTS_MAX: u64 = 1_000;
const IDLE_TIME_MAX: Duration = Duration::from_secs(600);

/// A cache with one value for each tenant. Clones share it.
pub struct TenantCache<T> {
    changes: Changes,
    ready: Cache<TenantId, (Arc<T>, Stamp)>,
    /// Held while a value is made, so that many runs that begin together make it once.
    making: Cache<TenantId, Arc<Mutex<()>>>,
}

// Derived, it would ask for values that can be cloned.
impl<T> Clone for TenantCache<T> {
    fn clone(&self) -> Self {
        let Self { changes, ready, making } = self;
        Self { changes: changes.clone(), ready: ready.clone(), making: making.clone() }
    }
}

impl<T> fmt::Debug for TenantCache<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TenantCache(…)")
    }
}

impl<T: Send + Sync + 'static> TenantCache<T> {
    /// An empty cache for what is made from the store with these changes.
    #[must_use]
    pub fn new(changes: &Changes) -> Self {
        let ready = Cache::builder().max_capacity(TENANTS_MAX).time_to_idle(IDLE_TIME_MAX).build();
        Self { changes: changes.clone(), ready, making: Cache::new(TENANTS_MAX) }
    }

    /// The value of a tenant. If there is none, or something of the tenant has changed since, `make` makes it, from the
    /// outdated one where that helps.
    ///
    /// # Errors
    /// Those of `make`.
    pub async fn get_or_make<F>(
        &self,
        tenant: TenantId,
        make: impl FnOnce(Option<Arc<T>>) -> F,
    ) -> Result<Arc<T>, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        if let Some(value) = self.current(tenant) {
            return Ok(value);
        }
        let making = self.making.get_with(tenant, Arc::default);
        let _making = making.lock().await;
        if let Some(value) = self.current(tenant) {
            return Ok(value);
        }
        let outdated = self.ready.get(&tenant).map(|(value, _)| value);
        let before = self.changes.before_reading();
        let value = Arc::new(make(outdated).await?);
        if let Some(stamp) = self.changes.stamp(Some(tenant), before) {
            self.ready.insert(tenant, (Arc::clone(&value), stamp));
        }
        Ok(value)
    }

    fn current(&self, tenant: TenantId) -> Option<Arc<T>> {
        let (value, stamp) = self.ready.get(&tenant)?;
        self.changes.is_current(Some(tenant), stamp).then_some(value)
    }
}
