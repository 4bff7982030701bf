//! Tenants' secrets, sealed before they come here.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::lines::Line;
use super::rows;
use super::tenants::changed;
use super::writer::{Refusal, Session, Write, WriteAlone};
use super::{Store, StoreError};
use crate::clock::Timestamp;
use crate::ids::{SecretName, TenantId};

/// Most secrets of one tenant.
const SECRETS_MAX: i64 = 1_000;

/// A secret as it is stored.
#[derive(Debug, Clone)]
pub struct SealedSecret {
    /// Its name within the tenant.
    pub name: SecretName,
    /// Its value, sealed.
    pub sealed: Vec<u8>,
    /// The value before, while it is still accepted, sealed.
    pub previous: Option<Vec<u8>>,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Store {
    /// The secrets of a tenant, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn secrets(&self, tenant: TenantId) -> Result<Vec<SealedSecret>, StoreError> {
        let query = sqlx::query(
            "SELECT name, sealed, previous, updated_at FROM secrets WHERE tenant_id = ? ORDER BY name",
        )
        .bind(tenant.as_bytes().as_slice());
        self.many("read the secrets", query, secret).await
    }

    /// Stores a secret. Where it is there already, its value becomes the one before, if that is to be
    /// kept and accepted, and is forgotten otherwise.
    ///
    /// # Errors
    /// [`StoreError::Missing`] where the tenant does not exist, [`StoreError::Conflict`] where it has as
    /// many secrets as it may.
    pub async fn put_secret(
        &self,
        tenant: TenantId,
        name: &SecretName,
        sealed: Vec<u8>,
        keep_previous: bool,
    ) -> Result<(), StoreError> {
        self.write(PutSecret { tenant, name: name.clone(), sealed, keep_previous }).await
    }

    /// Forgets a secret. False where the tenant has none of this name.
    ///
    /// # Errors
    /// When the store cannot be used.
    pub async fn delete_secret(
        &self,
        tenant: TenantId,
        name: &SecretName,
    ) -> Result<bool, StoreError> {
        self.write(DeleteSecret { tenant, name: name.clone() }).await
    }
}

fn secret(row: &SqliteRow) -> sqlx::Result<SealedSecret> {
    Ok(SealedSecret {
        name: rows::parsed(row, 0)?,
        sealed: row.try_get(1)?,
        previous: row.try_get(2)?,
        updated_at: Timestamp::from_micros(row.try_get(3)?),
    })
}

struct PutSecret {
    tenant: TenantId,
    name: SecretName,
    sealed: Vec<u8>,
    keep_previous: bool,
}

impl Write for PutSecret {
    type Answer = ();
    const OPERATION: &'static str = "store a secret";

    fn line(&self) -> Line {
        Line::Requests(self.tenant)
    }

    fn bytes(&self) -> usize {
        self.sealed.len()
    }
}

impl WriteAlone for PutSecret {
    async fn run(&self, session: &mut Session<'_>) -> Result<(), Refusal> {
        let stored = sqlx::query(
            "INSERT INTO secrets (tenant_id, name, sealed, updated_at) SELECT ?1, ?2, ?3, ?4 \
             WHERE (SELECT count(*) FROM secrets WHERE tenant_id = ?1 AND name <> ?2) < ?6 \
             ON CONFLICT (tenant_id, name) DO UPDATE SET \
             previous = CASE WHEN ?5 THEN sealed END, sealed = excluded.sealed, \
             updated_at = excluded.updated_at",
        )
        .bind(self.tenant.as_bytes().as_slice())
        .bind(self.name.as_str())
        .bind(self.sealed.as_slice())
        .bind(session.now.micros())
        .bind(self.keep_previous)
        .bind(SECRETS_MAX)
        .execute(&mut *session.db)
        .await?;
        changed::<Self>(&stored, "the tenant has as many secrets as it may")
    }
}

struct DeleteSecret {
    tenant: TenantId,
    name: SecretName,
}

impl Write for DeleteSecret {
    type Answer = bool;
    const OPERATION: &'static str = "forget a secret";

    fn line(&self) -> Line {
        Line::Requests(self.tenant)
    }
}

impl WriteAlone for DeleteSecret {
    async fn run(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let deleted = sqlx::query("DELETE FROM secrets WHERE tenant_id = ? AND name = ?")
            .bind(self.tenant.as_bytes().as_slice())
            .bind(self.name.as_str())
            .execute(&mut *session.db)
            .await?;
        Ok(deleted.rows_affected() > 0)
    }
}
