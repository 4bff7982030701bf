//! Connections for reads of many or long rows: lists and traces. Tenants take turns on them. Each tenant reads one
//! list at a time, so at most one request per tenant waits for a connection, in order of arrival: a tenant that sends
//! many requests delays only itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::Sqlite;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqlitePool;
use tokio::sync::OwnedSemaphorePermit;

use super::fair_queue::KeyedSemaphores;
use super::sqlite::READER_WAIT_MAX;
use crate::ids::TenantId;

/// The connections, and the tenants that wait for or use them. Clones share both.
#[derive(Clone)]
pub(super) struct FairPool {
    connections: SqlitePool,
    /// Locked for each list, which costs next to nothing compared to reading one.
    tenants: Arc<Mutex<KeyedSemaphores<TenantId>>>,
}

impl FairPool {
    pub(super) fn new(connections: SqlitePool) -> Self {
        Self { connections, tenants: Arc::new(Mutex::new(KeyedSemaphores::new(1))) }
    }

    /// Acquires a connection once it is this tenant's turn.
    ///
    /// # Errors
    /// If that takes longer than any read may wait ([`READER_WAIT_MAX`]).
    pub(super) async fn acquire(&self, tenant: TenantId) -> sqlx::Result<PooledRead> {
        let waited = tokio::time::timeout(READER_WAIT_MAX, async {
            let semaphore = lock(&self.tenants).get_or_insert(tenant);
            let permit = semaphore.acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
            let permit =
                TenantPermit { tenants: Arc::clone(&self.tenants), tenant, permit: Some(permit) };
            let connection = self.connections.acquire().await?;
            Ok(PooledRead { connection, _permit: permit })
        });
        waited.await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    pub(super) async fn close(&self) {
        self.connections.close().await;
    }
}

/// A tenant's turn, which lasts until this is dropped.
pub(super) struct PooledRead {
    pub(super) connection: PoolConnection<Sqlite>,
    _permit: TenantPermit,
}

/// The tenant's single place, held while it waits for a connection and while it reads.
struct TenantPermit {
    tenants: Arc<Mutex<KeyedSemaphores<TenantId>>>,
    tenant: TenantId,
    permit: Option<OwnedSemaphorePermit>,
}

impl Drop for TenantPermit {
    fn drop(&mut self) {
        let mut tenants = lock(&self.tenants);
        drop(self.permit.take());
        tenants.remove_unused(self.tenant);
    }
}

fn lock(tenants: &Mutex<KeyedSemaphores<TenantId>>) -> MutexGuard<'_, KeyedSemaphores<TenantId>> {
    tenants.lock().unwrap_or_else(PoisonError::into_inner)
}
