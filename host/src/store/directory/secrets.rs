//! Tenants' secrets, which are sealed before they reach the store.

use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::tenants::require_changed;
use crate::clock::Timestamp;
use crate::ids::{SecretName, TenantId};
use crate::secrets::SecretUses;
use crate::store::fair_queue::Flow;
use crate::store::rows;
use crate::store::write::{Refusal, Session, SingleWrite, Write};
use crate::store::{Store, StoreError};
use crate::tenants::Installer;

/// The maximum number of secrets per tenant.
const SECRETS_MAX: i64 = 1_000;

/// A secret as it is stored.
#[derive(Debug, Clone)]
pub struct SealedSecret {
    /// Its name within the tenant.
    pub name: SecretName,
    /// Its value, sealed.
    pub sealed: Vec<u8>,
    /// The previous value, sealed, while it is still accepted.
    pub previous: Option<Vec<u8>>,
    /// What it may be used for.
    pub uses: SecretUses,
    /// Who set these uses. None: a gateway that did not record it yet.
    pub set_by: Option<Installer>,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl Store {
    /// The secrets of a tenant, by name.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn secrets(&self, tenant: TenantId) -> Result<Vec<SealedSecret>, StoreError> {
        let query = sqlx::query(
            "SELECT name, sealed, previous, updated_at, uses, set_by FROM secrets \
             WHERE tenant_id = ? ORDER BY name",
        )
        .bind(tenant.as_bytes().as_slice());
        self.many("read the secrets", query, secret).await
    }

    /// Stores a secret. If it exists already, its value becomes the previous one if that is still to be accepted, and
    /// is deleted otherwise. An admin can only narrow the uses that an operator has set.
    ///
    /// # Errors
    /// If the tenant does not exist ([`StoreError::Missing`]), or if it has as many secrets as it may
    /// ([`StoreError::Conflict`]).
    pub async fn put_secret(&self, secret: PutSecret) -> Result<PutSecretOutcome, StoreError> {
        self.write(secret).await
    }

    /// Deletes a secret. Returns false if the tenant has none with this name.
    ///
    /// # Errors
    /// If the store is unavailable.
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
        uses: rows::parsed(row, 4)?,
        set_by: set_by(row, 5)?,
    })
}

fn set_by(row: &SqliteRow, column: usize) -> sqlx::Result<Option<Installer>> {
    rows::installer(row.try_get(column)?)
}

/// A secret to store.
#[derive(Debug)]
pub struct PutSecret {
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// Its name within the tenant.
    pub name: SecretName,
    /// Its value, sealed.
    pub sealed: Vec<u8>,
    /// Whether the previous value is still accepted.
    pub keep_previous: bool,
    /// What it may be used for. None: the uses of the existing secret, or the default.
    pub uses: Option<SecretUses>,
    /// Who sets it.
    pub by: Installer,
}

/// The outcome of a [`PutSecret`].
#[derive(Debug, PartialEq, Eq)]
pub enum PutSecretOutcome {
    /// It is stored.
    Stored,
    /// It is not stored: its uses were set by an operator, and only an operator may allow more than these.
    OperatorOnly(SecretUses),
}

impl Write for PutSecret {
    type Answer = PutSecretOutcome;
    const OPERATION: &'static str = "store a secret";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }

    fn bytes(&self) -> usize {
        self.sealed.len()
    }
}

impl SingleWrite for PutSecret {
    async fn apply(&self, session: &mut Session<'_>) -> Result<PutSecretOutcome, Refusal> {
        let before =
            sqlx::query("SELECT uses, set_by FROM secrets WHERE tenant_id = ? AND name = ?")
                .bind(self.tenant.as_bytes().as_slice())
                .bind(self.name.as_str())
                .fetch_optional(&mut *session.db)
                .await?;
        let (uses, set_by) = match before {
            None => (self.uses.clone().unwrap_or_default(), Some(self.by)),
            Some(row) => {
                let (allowed, set_by): (SecretUses, _) = (rows::parsed(&row, 0)?, set_by(&row, 1)?);
                let uses = self.uses.clone().unwrap_or_else(|| allowed.clone());
                match (self.by, set_by) {
                    (Installer::Operator, _) => (uses, Some(Installer::Operator)),
                    (Installer::Admin, Some(Installer::Admin)) => (uses, set_by),
                    (Installer::Admin, set_by) if uses.is_subset(&allowed) => (uses, set_by),
                    (Installer::Admin, _) => return Ok(PutSecretOutcome::OperatorOnly(allowed)),
                }
            }
        };
        let stored = sqlx::query(
            "INSERT INTO secrets (tenant_id, name, sealed, updated_at, uses, set_by) \
             SELECT ?1, ?2, ?3, ?4, ?7, ?8 \
             WHERE (SELECT count(*) FROM secrets WHERE tenant_id = ?1 AND name <> ?2) < ?6 \
             ON CONFLICT (tenant_id, name) DO UPDATE SET \
             previous = CASE WHEN ?5 THEN sealed END, sealed = excluded.sealed, \
             updated_at = excluded.updated_at, uses = excluded.uses, set_by = excluded.set_by",
        )
        .bind(self.tenant.as_bytes().as_slice())
        .bind(self.name.as_str())
        .bind(self.sealed.as_slice())
        .bind(session.now.micros())
        .bind(self.keep_previous)
        .bind(SECRETS_MAX)
        .bind(uses.to_string())
        .bind(set_by.map(Installer::as_str))
        .execute(&mut *session.db)
        .await?;
        require_changed::<Self>(&stored, "the tenant has as many secrets as it may")?;
        Ok(PutSecretOutcome::Stored)
    }
}

struct DeleteSecret {
    tenant: TenantId,
    name: SecretName,
}

impl Write for DeleteSecret {
    type Answer = bool;
    const OPERATION: &'static str = "forget a secret";
    const CHANGES_DIRECTORY: bool = true;

    fn flow(&self) -> Flow {
        Flow::Requests(self.tenant)
    }
}

impl SingleWrite for DeleteSecret {
    async fn apply(&self, session: &mut Session<'_>) -> Result<bool, Refusal> {
        let deleted = sqlx::query("DELETE FROM secrets WHERE tenant_id = ? AND name = ?")
            .bind(self.tenant.as_bytes().as_slice())
            .bind(self.name.as_str())
            .execute(&mut *session.db)
            .await?;
        Ok(deleted.rows_affected() > 0)
    }
}
