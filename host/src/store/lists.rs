//! Connections for reads of many or long rows: lists and traces. Tenants take turns on them. Each tenant reads one
//! list at a time, so at most one request per tenant waits for a connection, in order of arrival: a tenant that sends
//! many requests delays only itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::Sqlite;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqlitePool;
use tokio::sync::OwnedSemaphorePermit;

use super::fair_queue::Rooms;
use super::sqlite::READER_WAIT_MAX;
use crate::ids::TenantId;

/// The connections, and the tenants that wait for or use them. Clones share both.
#[derive(Clone)]
pub(super) struct Lists {
    connections: SqlitePool,
    /// Locked for each list, which costs next to nothing compared to reading one.
    tenants: Arc<Mutex<Rooms<TenantId>>>,
}

impl Lists {
    pub(super) fn new(connections: SqlitePool) -> Self {
        Self { connections, tenants: Arc::new(Mutex::new(Rooms::new(1))) }
    }

    /// Acquires a connection once it is this tenant's turn.
    ///
    /// # Errors
    /// If that takes longer than any read may wait ([`READER_WAIT_MAX`]).
    pub(super) async fn turn(&self, tenant: TenantId) -> sqlx::Result<Turn> {
        let waited = tokio::time::timeout(READER_WAIT_MAX, async {
            let room = lock(&self.tenants).of(tenant);
            let room = room.acquire_owned().await.map_err(|_| sqlx::Error::PoolClosed)?;
            let place = Place { tenants: Arc::clone(&self.tenants), tenant, room: Some(room) };
            let connection = self.connections.acquire().await?;
            Ok(Turn { connection, _place: place })
        });
        waited.await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    pub(super) async fn close(&self) {
        self.connections.close().await;
    }
}

/// A tenant's turn, which lasts until this is dropped.
pub(super) struct Turn {
    pub(super) connection: PoolConnection<Sqlite>,
    _place: Place,
}

/// The tenant's single place, held while it waits for a connection and while it reads.
struct Place {
    tenants: Arc<Mutex<Rooms<TenantId>>>,
    tenant: TenantId,
    room: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut tenants = lock(&self.tenants);
        drop(self.room.take());
        tenants.forget(self.tenant);
    }
}

fn lock(tenants: &Mutex<Rooms<TenantId>>) -> MutexGuard<'_, Rooms<TenantId>> {
    tenants.lock().unwrap_or_else(PoisonError::into_inner)
}
