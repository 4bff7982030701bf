//! Changes of a tenant's plugins: kept apart from each other, bounded, and seen by the next call.

use std::sync::{Arc, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Plugins;
use crate::ids::TenantId;

/// Installations of one tenant under way at once.
const INSTALLATIONS_MAX: usize = 2;

/// What keeps a tenant's changes apart, and within bounds.
#[derive(Debug)]
pub(super) struct OfTenant {
    turns: Arc<Semaphore>,
    /// Held while grants and version are written, so that they are those of one request.
    pub(super) change: tokio::sync::Mutex<()>,
}

impl Default for OfTenant {
    fn default() -> Self {
        let turns = Arc::new(Semaphore::new(INSTALLATIONS_MAX));
        Self { turns, change: tokio::sync::Mutex::default() }
    }
}

impl Plugins {
    /// Has the next call of a tenant's plugins look for what is there now, in this process and in others: grants
    /// lie in files.
    pub(super) async fn changed(&self, tenant: TenantId) {
        if let Err(error) = self.store.note_change(tenant).await {
            tracing::error!(%tenant, %error, "changed grants hold in a few seconds only");
        }
    }

    /// A turn to install something for a tenant, held until that is done: each holds a component, and those of
    /// all tenants are compiled one after the other. None where the tenant's others take too long. Whoever gives
    /// up waiting has taken nothing.
    pub async fn turn_to_install(&self, tenant: TenantId) -> Option<OwnedSemaphorePermit> {
        let turns = Arc::clone(&self.of_tenant(tenant).turns);
        tokio::time::timeout(self.install_wait_max, turns.acquire_owned()).await.ok()?.ok()
    }

    pub(super) fn of_tenant(&self, tenant: TenantId) -> Arc<OfTenant> {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tenants.entry(tenant).or_default())
    }
}
