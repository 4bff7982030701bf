//! Connections for what reads many rows, or long ones: lists and traces. Tenants take turns on them. Of one
//! tenant a single list is read at a time, so that those who wait for a connection are one of each tenant,
//! in the order in which they came: whoever asks for many waits for himself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::Sqlite;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqlitePool;
use tokio::sync::OwnedSemaphorePermit;

use super::fair_queue::Rooms;
use super::sqlite::READER_WAIT_MAX;
use crate::ids::TenantId;

/// The connections, and whose turn it is. Cloning gives another handle.
#[derive(Clone)]
pub(super) struct Lists {
    connections: SqlitePool,
    /// A lock for each list, which is nothing beside reading it.
    tenants: Arc<Mutex<Rooms<TenantId>>>,
}

impl Lists {
    pub(super) fn new(connections: SqlitePool) -> Self {
        Self { connections, tenants: Arc::new(Mutex::new(Rooms::new(1))) }
    }

    /// A connection, when it is this tenant's turn.
    ///
    /// # Errors
    /// Where that takes longer than any read may wait.
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

/// A tenant's turn, until it is dropped.
pub(super) struct Turn {
    pub(super) connection: PoolConnection<Sqlite>,
    _place: Place,
}

/// The tenant's one place among those who wait, and then read.
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
